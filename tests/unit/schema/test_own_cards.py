"""Cards outside the repository: named by path, checked like any other, their module a file beside them."""

import shutil
from pathlib import Path

import pytest

from kd.schema.cards import card, load_cards
from kd.study.experiment import check_experiment
from kd.study.plan import Plan
from kd.study.variant import cards_of
from kd.tools.errors import UserError

OWN = Path(__file__).parents[3] / "config" / "own"


@pytest.fixture
def mine(tmp_path):
    """Return a copy of the worked example's card, and a function that changes it."""
    for file in ("js_kd.yaml", "js_kd.py"):
        shutil.copy(OWN / file, tmp_path)
    path = tmp_path / "js_kd.yaml"

    def changed(*changes: tuple[str, str]) -> str:
        text = path.read_text(encoding="utf-8")
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")
        return str(path)

    return changed


def experiment(*methods):
    return check_experiment(
        {
            "experiment": "unit",
            "datasets": {"digits": {"source": "digits"}},
            "pairs": [{"teachers": ["resnet14"], "student": "resnet8"}],
            "methods": list(methods),
            "seeds": [0],
            "recipe": {"epochs": 1},
        }
    )


def test_a_card_is_read_by_its_path(mine):
    path = mine()
    found = card(path)
    assert found.name == "js_kd"
    assert found.module == str(Path(path).parent / "js_kd.py")
    assert found.resolve({"temperature": 2.0}, "here").temperature == 2.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([("name: js_kd", "name: kd")], "the repository has a card named kd: give this one another name"),
        ([("teachers: one", "teachers: one\nchain: true")], "only a card of the repository runs as a chain"),
        ([("module: js_kd.py", "module: kd.methods.kd")], "module must be a file beside the card"),
        ([("module: js_kd.py", "module: ../js_kd.py")], "module must be a file beside the card"),
        ([("module: js_kd.py", "module: js_kdd.py")], "cannot read .*js_kdd.py: No such file"),
        ([("default: 4.0", "default: -4.0")], "temperature"),
        ([("title:", "titel:")], "'titel': did you mean 'title'"),
        ([("family: logits", "family: logit")], "family"),
        ([("name: js_kd", "name: js_kd\nname: js_kd")], "stands twice"),
    ],
    ids=["taken", "chain", "module", "elsewhere", "missing", "default", "key", "family", "twice"],
)
def test_a_card_that_cannot_be_used_is_told(mine, changes, message):
    with pytest.raises(UserError, match=message):
        card(mine(*changes))


def test_an_experiment_takes_a_card_by_path_alone_and_combined(mine):
    path = mine()
    at = {"method": "at", "ce_weight": 0.0}
    plan = Plan(experiment({"card": path, "temperature": 2.0}, {"name": "both", "combine": [{"card": path}, at]}))
    assert [variant.base for variant in plan.variants.values()] == ["js_kd", "js_kd+at"]
    assert plan.variants["js_kd"].parts[0][1]["temperature"] == 2.0
    assert set(cards_of(plan.variants.values())) == {*load_cards(), "js_kd"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"card": "no/such.yaml"}, r"methods\[0\].card: .*no/such.yaml"),
        ({"card": "kd"}, r"methods\[0\].card: must be the path of a card, as in my/method.yaml, found 'kd'"),
        ({"card": 3}, r"methods\[0\].card: must be the path of a card"),
        ({"card": "x.yaml", "method": "kd"}, r"methods\[0\]: give one of method, card and combine"),
        ({"name": "a", "combine": ["kd", {"at_weight": 1.0}]}, r"combine\[1\]: give one of method and card"),
    ],
    ids=["missing", "name", "number", "both", "neither"],
)
def test_entries_that_name_no_card_are_told(entry, message):
    with pytest.raises(UserError, match=message):
        experiment(entry)


def test_a_setting_that_the_card_does_not_have_is_told(mine):
    with pytest.raises(UserError, match=r"setting of method js_kd in methods\[0\] 'temperatur': did you mean 'temper"):
        experiment({"card": mine(), "temperatur": 2.0})


def test_two_cards_of_one_name_are_told(mine, tmp_path):
    (tmp_path / "b").mkdir()
    path = mine()
    for file in ("js_kd.yaml", "js_kd.py"):
        shutil.copy(tmp_path / file, tmp_path / "b")
    with pytest.raises(UserError, match="are both named js_kd: rename one"):
        experiment({"card": path}, {"name": "other", "card": str(tmp_path / "b" / "js_kd.yaml")})


def test_one_file_by_two_paths_is_one_card(mine, tmp_path):
    path = mine()
    roundabout = str(tmp_path / "." / "js_kd.yaml").replace("js_kd.yaml", "x/../js_kd.yaml")
    plan = Plan(experiment({"card": path}, {"name": "other", "card": roundabout}))
    assert {parts.parts[0][0] for parts in plan.variants.values()} == {path}


def with_forms(mine, defaults, form="form: {type: str, default: soft, choices: [soft, sharp], doc: Two of them.}"):
    return mine(("settings:", f"forms: {{sharp: {defaults}}}\nsettings:\n  {form}"))


def test_a_form_has_defaults_of_its_own(mine):
    found = card(with_forms(mine, "{temperature: 1.5}"))
    plain = found.resolve({}, "here").temperature
    assert plain != 1.5
    assert found.resolve({"form": "sharp"}, "here").temperature == 1.5
    assert found.resolve({"form": "sharp", "temperature": 3.0}, "here").temperature == 3.0, "what is given stands above"
    assert found.resolve({"form": "soft"}, "here").temperature == plain
    whole = found.resolve({"form": "sharp"}, "here").model_dump()
    assert found.resolve(whole, "here").model_dump() == whole, "complete settings stay as they are"
    with pytest.raises(UserError, match="sharp"):
        found.resolve({"form": "round"}, "here")


@pytest.mark.parametrize(
    ("defaults", "form", "message"),
    [
        ("{temperature: 1.5}", "unused: {type: int, default: 1, doc: Nothing.}", "sharp is no choice of the setting"),
        (
            "{temperature: 1.5}",
            "form: {type: str, default: sharp, choices: [soft, sharp], doc: A.}",
            "sharp is no choice",
        ),
        ("{temperatur: 1.5}", None, "did you mean 'temperature'"),
        ("{form: soft}", None, "form"),
    ],
)
def test_forms_that_cannot_be_are_told(mine, defaults, form, message):
    with pytest.raises(UserError, match=message):
        card(with_forms(mine, defaults, *([form] if form else [])))


def test_every_form_of_a_card_can_be_resolved():
    for one in load_cards().values():
        for form in one.forms:
            assert one.resolve({"form": form}, one.name) != one.resolve({}, one.name)
