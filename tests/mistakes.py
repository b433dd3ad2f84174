"""Experiments for tests of what is refused: one that is right, with every kind of setting in it, and changes to it."""

import copy
import datetime
import math
import re
from collections.abc import Iterator
from random import Random
from typing import Any

RIGHT: dict[str, Any] = {
    "experiment": "unit",
    "description": "two lines of\nnothing",
    "datasets": {
        "digits": {"source": "digits", "image_size": 16, "validation": 0.2, "split_seed": 3},
        "few": {"source": "digits", "subset_size": 400, "class_subset": ["0", "1", "2"], "subset": "uniform"},
    },
    "models": {
        "teacher_a": {"arch": "resnet20", "freeze": 2, "recipe": {"lr": 0.1}},
        "small": {"arch": "resnet8", "classes": None, "small_input": False},
    },
    "pairs": [
        {"teachers": ["teacher_a", "wrn_16_1"], "student": "small"},
        {"teachers": ["vgg13", "resnet32"], "student": "vgg8"},
    ],
    "methods": [
        "ce",
        "kd",
        {"method": "kd", "name": "kd_t2", "temperature": 2.0, "recipe": {"lr": 0.01}, "teacher": None},
        {"method": "at", "at_weight": 50.0, "student_taps": ["stages"], "recipe": {"batch_size": 32}},
        {"name": "both", "combine": ["kd", {"method": "hint", "hint_weight": 2.0}]},
        {"method": "asib", "num_stages": 2, "teacher_lr": [0.1, 0.2], "teacher_adapt_epochs": 1, "ib_beta": 0.5},
        {"method": "born_again", "generations": 2},
    ],
    "seeds": [0, 1, 5],
    "teacher_seed": "same",
    "recipe": {
        "epochs": 10,
        "batch_size": 64,
        "optimizer": "adamw",
        "lr": 0.05,
        "betas": [0.9, 0.99],
        "weight_decay": 0.001,
        "schedule": "step",
        "milestones": [0.5, 8],
        "gamma": 0.1,
        "warmup_epochs": 1.0,
        "min_lr": 0.0001,
        "label_smoothing": 0.1,
        "augmentation": {"crop": "padded", "padding": 2, "randaugment": {"ops": 2, "magnitude": 9}, "cutout": 4},
        "grad_clip": 5.0,
        "grad_clip_final": 1.0,
        "grad_clip_hold": 0.5,
        "ema_decay": 0.99,
        "ema_start_decay": 0.9,
        "ema_warmup_epochs": 2.0,
        "eval_batch_size": 100,
        "workers": 1,
        "deterministic": True,
    },
    "teacher_recipe": {"epochs": 5, "schedule": "cosine", "channels_last": "auto"},
    "report": {
        "weights": "last",
        "references": ["kd", "ce"],
        "confidence": 0.9,
        "analysis": {"kind": "sweep", "variants": ["kd", "kd_t2"], "setting": "temperature"},
    },
    "search": {
        "trials": 2,
        "seed": 7,
        "methods": ["kd_t2", "both"],
        "recipe": {"lr": {"log": [0.01, 0.1]}, "label_smoothing": {"linear": [0.0, 0.2]}},
        "ranges": {"kd": {"temperature": {"times": [0.5, 2.0]}, "ce_weight": {"choices": [0.1, 0.5]}}},
    },
    "gpus": 1,
    "jobs_per_gpu": 2,
    "threads": 2,
    "cache": "results/.cache",
    "co_train": ["kd", "kd_t2"],
    "students_per_job": 2,
    "continual": {
        "student": "small",
        "teacher": "resnet20",
        "num_tasks": 2,
        "class_order": "natural",
        "strategies": [
            {"name": "plain"},
            {"name": "replay", "replay_capacity": 20, "replay_ratio": 0.5, "recipe": {"lr": 0.01}},
            {"name": "taught", "targets": "teacher", "target_weight": 0.5},
        ],
    },
    "strict_environment": False,
}
del RIGHT["methods"][2]["teacher"], RIGHT["models"]["small"]["classes"]

Place = tuple[str | int, ...]


def changed(place: Place, value: Any, base: dict[str, Any] = RIGHT) -> dict[str, Any]:
    """The right experiment with another value at one place, which need not be there yet."""
    content = copy.deepcopy(base)
    inside: Any = content
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    return content


def dotted(place: Place) -> str:
    """A place as sentences name it: methods[3].temperature."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


THE_CHECKERS_WORDS = re.compile(
    r"input should|valid (integer|string|number|boolean|list|dict|tuple)|constrained|function-|literal\[|list\[|dict\["
    r"|\.(str|int|float|bool)\b|\bunion\b|\btuple\b|value error|pydantic|validation error|extra inputs|field required"
    r"|instance of|should match|traceback|nonetype|<class|object at 0x|ordereddict|typeerror|keyerror|\bNone\b|\bTrue\b"
    r"|\bFalse\b|greater than|less than",
    re.IGNORECASE,
)


def assert_plain(sentence: str) -> None:
    """A refusal is one line of plain English of bearable length, in nobody's jargon."""
    assert "\n" not in sentence
    assert sentence == sentence.strip(" :,")
    assert 10 < len(sentence) < 2500
    quoted = re.sub(r"'[^']*'", "''", sentence).replace("true or false", "").replace("true", "").replace("false", "")
    assert THE_CHECKERS_WORDS.search(quoted.replace("none", "")) is None, sentence


NONSENSE: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 99, 1000, 10**6, 10**12, 2**31, 2**63, 10**400, -(10**400)),
    *(0.0, 0.5, 1.0, 1.5, -0.1, 1e-300, 1e30, 1e308, math.nan, math.inf, -math.inf),
    *("", " ", "none", "null", "no", "kd", "ce", "teacher", "data", "runs.csv", "resnet8", "resnet21", "timm:resnt18"),
    *("1e-4", "1e999", "010", "1:30", "a--b", "a+b", "kd.gen1", "../up", "/", "~", ".", "a\nb", "a\0b", "\ud800"),
    *("{dataset}", "{{", "%s", "$HOME", "'\"`", "\u00e9\u4e2d", "x" * 300, "x" * 30_000, "cifar100", "imagefolder"),
    *([], [None], [[]], [1, 1], ["kd", "kd"], [0.5, 0.5], list(range(2000)), {}, {"a": 1}, {5: 1}, {None: 2}, {"": 1}),
    *({"lr": -1}, {"method": "kd"}, {"combine": 3, "name": "x"}, {"source": "digits"}, {"arch": "resnet8"}),
    *(datetime.date(2024, 1, 1), b"bytes", {1, 2}, (1, 2), 1j, object),
)
"""What stands in a file where something else should."""
STRANGE_KEYS: tuple[Any, ...] = (None, True, 5, 0.5, "", " a", "a\nb", "x" * 300, "epoch", "name", "method", "Recipe")


def places(content: Any, place: Place = ()) -> Iterator[Place]:
    """Every place below the top of some content."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inner:
        yield (*place, key)
        yield from places(value, (*place, key))


def mutated(content: dict[str, Any], random: Random) -> dict[str, Any]:
    """A copy of an experiment with one thing in it dropped, doubled, renamed, moved, or made another."""
    content = copy.deepcopy(content)
    *way, last = random.choice(list(places(content)))
    inside: Any = content
    for key in way:
        inside = inside[key]
    kind = random.choice(("drop", "double", "rename", "move", "wrap", "scale", "other", "other", "other", "typo"))
    value = inside[last]
    if kind == "drop":
        del inside[last]
    elif kind == "double" and isinstance(inside, list):
        inside.append(copy.deepcopy(value))
    elif kind in {"double", "rename", "typo"} and isinstance(inside, dict):
        typo = str(last)[:-1] + random.choice(("", "s", "_", str(last)[-1:].upper()))
        inside[typo if kind == "typo" else random.choice(STRANGE_KEYS)] = value
        if kind != "double":
            inside.pop(last, None)
    elif kind == "move":
        *other, name = random.choice(list(places(content)))
        target: Any = content
        for key in other:
            target = target[key]
        inside[last], target[name] = copy.deepcopy(target[name]), copy.deepcopy(value)
    elif kind == "wrap":
        inside[last] = random.choice(([value], {"a": value}, [value, value], {str(last): value}))
    elif kind == "scale" and isinstance(value, int | float):
        inside[last] = value * random.choice((-1, 0, 10, 1000, 10**9, 0.1, 1.5))
    else:
        inside[last] = random.choice(NONSENSE)
    return content
