"""The table of all methods, config/methods/README.md, written from the cards.

`python3 envs/task.py docs` writes it; a test keeps it in step.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel

from kd.reporting.keys import escaped, keys_table, shown, table
from kd.schema.cards import CARD_FOLDER, Card, Control, Length, Paper, Published, Setting, load_cards
from kd.schema.config import Range
from kd.tools.files import atomic_write

README = CARD_FOLDER / "README.md"

FAMILIES = ("baseline", "logits", "features", "relational", "online", "self", "multi-teacher")

NETWORKS = {
    "any": "any",
    "stages": "any; taps are to be listed where the numbers of stages differ",
    "map_sizes": "any whose student maps are at least half as large as the teacher's",
    "equal_widths": "equal widths at the taps",
    "pre_activations": "small-image nets and timm's ResNets, which have features before their activations; taps are to "
    "be listed where the numbers of stages differ",
    "pooled_map": "CNNs whose classifier reads the average of a tapped map",
    "two_heads": "students with a second head: timm's distilled transformers",
}
"""Which networks a method can train, by what its card says."""

HEAD = """\
# Methods

Written from the cards in this folder by `python3 envs/task.py docs`; edit the cards, not this file.
A published accuracy (top-1 in percent, CIFAR-100 unless said otherwise) is marked by the epoch it was taken at: *last*,
or *best* on the test images, which is optimistic. Settings go into an experiment file beside the method's name:
`{method: kd, temperature: 2.0}`. *Search* is what [a search](../experiments/README.md#as-written-and-searched) draws a
setting from. [What a card holds](#what-a-card-holds) stands at the end.
"""

CARD_PARTS: dict[str, type[BaseModel]] = {
    "paper": Paper,
    "control": Control,
    "settings": Setting,
    "epochs": Length,
    "search": Range,
    "published": Published,
}
"""By the key of a card that holds them."""


def method_table(cards: Mapping[str, Card]) -> str:
    """Return the whole page: one table of all methods, then each method's settings."""
    ordered = sorted(cards.values(), key=lambda card: (FAMILIES.index(card.family), card.name))
    rows = [summary_row(card) for card in ordered]
    overview = table(("Method", "Paper", "Loss", "Needs", "Networks", "Default weights", "Published"), rows)
    return "\n".join([HEAD, overview, *map(section, ordered), card_keys()])


def summary_row(card: Card) -> tuple[str, ...]:
    """Return one method's row of the overview."""
    paper = f"{card.paper.authors} ({card.paper.year})"
    name = f"[`{card.name}`](#{card.name})<br>{card.family}"
    words = (needs(card), NETWORKS[card.networks], weights(card), published(card.published))
    return (name, paper, f"`{escaped(card.loss)}`", *words)


def needs(card: Card) -> str:
    """Return in words what a method asks for beside the student."""
    teachers = {"none": "no teacher", "one": "one teacher", "many": "all teachers of the pair"}[card.teachers]
    teachers = "the generation before" if card.links == "generations" else teachers
    extras = [
        "peers" if "peers" in card.settings else "",
        "a pre-stage on the teacher" if card.pretrain else "",
        "a chain of alternating stages" if card.chain else "",
        {"none": "", "generations": "a chain of runs", "assistants": "a chain of runs"}[card.links],
        "teachers' logits on one fixed view" if card.fixed_teacher else "",
        "" if card.compute == "recipe" else "every other row to be finished",
        "" if card.mixed_labels else "no MixUp or CutMix",
        "" if card.alone else "a method to be combined with",
    ]
    return "; ".join([teachers, *filter(None, extras)])


def weights(card: Card) -> str:
    """Return the default weights of a method's terms."""
    named = {
        key.removesuffix("_weight").removesuffix("_alpha"): setting.default
        for key, setting in card.settings.items()
        if key.endswith(("_weight", "_alpha"))
    }
    return ", ".join(f"{term} by form" if value is None else f"{term} {shown(value)}" for term, value in named.items())


def published(entries: Iterable[Published]) -> str:
    """Return the published accuracies, one a line."""
    lines = []
    for entry in entries:
        pair = entry.student if entry.teacher == "none" else f"{entry.teacher} → {entry.student}"
        where = "" if entry.dataset == "cifar100" else f" on {entry.dataset}"
        lines.append(f"{pair}{where} {entry.top1:.2f} ({entry.epoch})")
    return "<br>".join(lines) or "none"


def section(card: Card) -> str:
    """Return a method's paper, settings, notes and the sources of its published numbers."""
    title = f"[{card.paper.title}]({card.paper.url})" if card.paper.url else card.paper.title
    where = card.paper.proceedings or card.paper.journal
    rows = [setting_row(name, setting) for name, setting in card.settings.items()]
    sources = sorted({entry.source for entry in card.published})
    lines = [
        f"## {card.name}",
        "",
        f"{card.title}: {card.paper.authors}, {title}, {f'{where}, ' if where else ''}{card.paper.year}.",
        "",
        table(("Setting", "Default", "Allowed", "Search", "Meaning"), rows),
        *(line for name in card.forms for line in (form_line(card, name), "")),
        *([card.notes.strip(), ""] if card.notes else []),
        *([f"Published numbers: {'; '.join(sources)}.", ""] if sources else []),
    ]
    return "\n".join(lines)


def form_line(card: Card, name: str) -> str:
    """Return which settings have other defaults in a form."""
    others = ", ".join(f"`{key}` `{shown(value)}`" for key, value in card.forms[name].items())
    return f"`form: {name}` has other defaults: {others}."


def card_keys() -> str:
    """Return the keys of cards."""
    place = {key: f"card-{key}" for key in CARD_PARTS}.get
    parts = [f"### Card: {key}\n\n{keys_table(model, place)}" for key, model in CARD_PARTS.items()]
    return "\n".join(["## What a card holds", "", keys_table(Card, place), *parts])


def setting_row(name: str, setting: Setting) -> tuple[str, ...]:
    """Return one setting's row."""
    return (
        f"`{name}`",
        f"`{shown(setting.default)}`",
        allowed(setting),
        searched(setting.search) if setting.search else "",
        escaped(setting.doc),
    )


def searched(where: Range) -> str:
    """Return what a search draws a setting from, in words."""
    ((scale, given),) = [(key, value) for key, value in where if value is not None]
    if scale == "choices":
        return ", ".join(shown(one) for one in given)
    return f"{scale} {given[0]:g} to {given[1]:g}"


def allowed(setting: Setting) -> str:
    """Return a setting's type and bounds in words."""
    words = " or ".join(f"`{choice}`" for choice in setting.choices) if setting.choices else setting.type
    bounds = {"above": setting.above, "from": setting.min, "to": setting.max}
    stated = [words, *(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)]
    stated += ["or null"] if setting.optional else []
    counted = f", of {setting.epochs.recipe} epochs" if setting.epochs and setting.epochs.recipe else ""
    return " ".join(stated) + counted + (", or one a stage" if setting.per_stage else "")


def write(path: Path = README) -> None:
    """Write the page."""
    atomic_write(path, method_table(load_cards()))


if __name__ == "__main__":
    write()
