"""The page of all methods says what the cards say."""

import pytest

from kd.reporting.method_table import CARD_PARTS, README, method_table, write
from kd.schema.cards import Card, load_cards


def test_the_committed_page_is_in_step_with_the_cards():
    # To bring it up to date: python3 envs/task.py docs
    assert README.read_text(encoding="utf-8") == method_table(load_cards())


def test_writing_gives_the_same_page(tmp_path):
    write(tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == method_table(load_cards())


@pytest.mark.parametrize("name", load_cards())
def test_every_method_and_setting_is_on_the_page(name):
    card, page = load_cards()[name], method_table(load_cards())
    section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
    assert card.paper.title in section
    assert str(card.paper.year) in section
    for key, setting in card.settings.items():
        row = next(line for line in section.splitlines() if line.startswith(f"| `{key}` |"))
        assert setting.doc.replace("|", "\\|") in row
        assert row.count(" | ") == 4  # name, default, values, range of searches, meaning


def test_the_page_tells_what_a_card_holds():
    page = method_table(load_cards()).split("## What a card holds")[1]
    for model in (Card, *CARD_PARTS.values()):
        for key in model.model_fields:
            assert f"| `{key}` |" in page


def test_bounds_choices_and_published_numbers_in_words():
    settings = {
        "a_weight": {"type": "float", "default": 0.5, "above": 0, "max": 2, "doc": "A | b.", "per_stage": True},
        "kind": {"type": "str", "default": "x", "choices": ["x", "y"], "doc": "Kind."},
        "width": {"type": "int", "default": None, "min": 1, "optional": True, "doc": "Width."},
    }
    card = Card(
        name="mine",
        title="Mine",
        family="self",
        paper={"title": "T", "authors": "A", "year": 2020},
        loss="|x|",
        module="kd.methods.mine",
        teachers="one",
        mixed_labels=False,
        networks="equal_widths",
        settings=settings,
        published=[
            {"teacher": "none", "student": "s", "top1": 70.0, "epoch": "best", "source": "P", "dataset": "cifar10"}
        ],
    )
    page = method_table({"mine": card})
    assert "| `a_weight` | `0.5` | float above 0 to 2, or one a stage |  | A \\| b. |" in page
    assert "| `kind` | `x` | `x` or `y` |  | Kind. |" in page
    assert "| `width` | `null` | int from 1 or null |  | Width. |" in page
    assert "`\\|x\\|` | one teacher; no MixUp or CutMix | equal widths at the taps | a 0.5 |" in page
    assert "| a 0.5 | s on cifar10 70.00 (best) |" in page
