"""What a benchmark writes for people, from its JSON file alone: one page of Markdown with tables and figures."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kd.speed import figures
from kd.speed.figures import AXES, LABELS
from kd.speed.settings import LOOPS, STEP_PARTS
from kd.tools.errors import UserError
from kd.tools.files import atomic_write, read_json

Record = Mapping[str, Any]
Table = list[list[str]]

PAGE = "report.md"
BOTH = "reference / engine"

EPOCHS, IMAGES, TEST_IMAGES, SEEDS = 240, 50_000, 10_000, 5
FIELD = ("kd", "hint", "at", "sp", "cc", "vid", "rkd", "pkt", "ab", "ft", "fsp", "nst", "crd", "crd_kd", "dkd")
"""The fifteen methods of the field's tables: those of Tian et al. 2020 (with CRD + KD), and DKD."""


def read(path: Path) -> dict[str, Any]:
    """Return what a benchmark's JSON file holds; nothing where there is no file."""
    if not path.exists():
        return {}
    try:
        record = read_json(path)
        known = all({"part", "results", "settings"} <= set(entry) for entry in record.values())
    except (UserError, AttributeError, TypeError):
        known = False
    if not known:
        raise UserError(f"out: {path} is no benchmark's JSON file; allowed are such a file and a new name")
    return record


def write(record: Record, folder: Path) -> list[Path]:
    """Write report.md and its figures; return what was written."""
    drawn = [folder / _picture(key) for key in record]
    for entry, path in zip(record.values(), drawn, strict=True):
        figures.DRAWN[entry["part"]](entry["results"], path)
    atomic_write(folder / PAGE, page(record))
    return [*drawn, folder / PAGE]


def page(record: Record) -> str:
    """Return the report in Markdown."""
    parts = ["# Benchmark", _introduction()]
    for part, (title, sections) in SECTIONS.items():
        for key, entry in record.items():
            if entry["part"] == part:
                settings = entry["settings"]
                pair = f"{' + '.join(settings['teachers'])} → {settings['student']}"
                heading = title if part == "recipe" else f"{title}: {pair}, batch {settings['batch_size']}"
                heading += "".join(f", {name} {value}" for name, value in settings["recipe"].items())
                parts += [f"## {heading}", _conditions(entry), f"![{title}]({_picture(key)})", *sections(entry, record)]
    return "\n\n".join(parts) + "\n"


def plain(table: Table) -> str:
    """Return a table in aligned columns, for a terminal."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join(lines)


def markdown(table: Table) -> str:
    """Return a table in Markdown, numbers to the right."""
    head, *rows = table
    rule = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])


def _introduction() -> str:
    return (
        "The *reference loop* is what the field's scripts do: images transformed one by one by PIL in DataLoader "
        "workers, float32, NCHW, eager mode, loss and accuracies read back to the host in every step. The *engine* is "
        "the training loop of this project. Both ran in one process, in turns, with the same networks, loss and batch "
        "size. A ratio is taken within each repeat; given is the median, and the smallest and largest in brackets. "
        f"Pairs of values are {BOTH}. Where a part says *processor seconds*, time is that of the process itself, which "
        "other load on the machine hardly touches; the reference's workers then cost nothing, which favours it."
    )


def _precision(hardware: Record) -> str:
    return {"measured": "what was measured fastest"}.get(hardware["precision"], hardware["precision"])


def _conditions(entry: Record) -> str:
    """Return on what and when an entry was measured."""
    hardware, settings, measured = entry["hardware"], entry["settings"], entry["measured"]
    where = hardware.get("gpu", f"{hardware['cpu']}, {hardware['threads']} of {hardware['host_cores']} cores")
    bf16 = "" if hardware["fast_bf16"] else " without fast bf16"
    load = [one["load_average"][when] for one in measured for when in ("before", "after")]
    # what grows in scale.py are made-up images, whatever the other parts of the call were given
    images = "synthetic" if entry["part"] == "scale" else ", ".join(settings["data"]) or "synthetic"
    commits = ", ".join(dict.fromkeys(_commit(one["git"]) for one in measured))
    return (
        f"{where}{bf16}; torch {entry['versions']['torch']}; engine in {_precision(hardware)}; images: {images}; "
        f"{settings['repeats']} repeats of {settings['images']} images; {entry['clock']} seconds; load average of the "
        f"machine {min(load):.1f} to {max(load):.1f}; commit {commits}."
    )


def _commit(git: Record) -> str:
    return f"{(git['commit'] or 'unknown')[:10]}{' with changes' if git['dirty'] else ''}"


def _picture(key: str) -> str:
    return f"{re.sub('[^A-Za-z0-9]+', '-', key).strip('-')}.png"


# --- speed ----------------------------------------------------------------------------------------


def speed_table(results: Record) -> Table:
    """Return images a second, their ratio, FLOP/s and memory of every method; the first row is the head."""
    head = ["method", *(f"{LABELS[loop]} images/s" for loop in LOOPS), "ratio", "ratio on the wall's clock"]
    head += ["GFLOP/s", "share of peak", "memory MB"]
    rows = [
        [
            name,
            *(_spread(found[loop]["images_per_second"]["own"], 0) for loop in LOOPS),
            _spread(found["ratio"]["own"], 2),
            f"{found['ratio']['wall']['median']:.2f}",
            " / ".join(f"{found[loop]['flops_per_second'] / 1e9:.1f}" for loop in LOOPS),
            " / ".join(f"{100 * found[loop]['share_of_peak']:.0f} %" for loop in LOOPS),
            " / ".join(f"{found[loop]['memory_mb']:.0f}" for loop in LOOPS),
        ]
        for name, found in _measured(results).items()
    ]
    return [head, *rows]


def part_table(results: Record) -> Table:
    """Return milliseconds a step by part, of both loops of every method."""
    head = ["method", *(f"{part} ms" for part in STEP_PARTS), "evaluation s", "build s", "first step s"]
    rows = [
        [
            name,
            *(" / ".join(f"{1e3 * found[loop]['seconds_by_part'][part]:.1f}" for loop in LOOPS) for part in STEP_PARTS),
            " / ".join(f"{found[loop]['seconds_by_part']['evaluation']:.2f}" for loop in LOOPS),
            *(
                " / ".join(f"{found[loop]['before_first_step'][key]:.2f}" for loop in LOOPS)
                for key in ("build", "first_step")
            ),
        ]
        for name, found in _measured(results).items()
    ]
    return [head, *rows]


def _speed(entry: Record, record: Record) -> list[str]:
    results = entry["results"]
    failed = [f"{name}: {found['failed']}" for name, found in results.items() if "failed" in found]
    ratios = [found["ratio"]["own"]["median"] for found in _measured(results).values()]
    imports = [one["import_seconds"] for one in entry["measured"]]
    several = (
        f" Ratios of the {len(ratios)} methods: {min(ratios):.2f} to {max(ratios):.2f}." if len(ratios) > 1 else ""
    )
    return [
        f"FLOP/s are what networks and loss need; the peak is a large matrix product in the same format.{several}"
        f"{_replayed(results)}",
        markdown(speed_table(results)),
        f"Where a step's time goes ({BOTH}), in passes of their own with a clock around each part: `student` is its "
        "forward and backward pass, `host` all that is left. Before its first step a training imports "
        f"({min(imports):.1f} s), builds networks and data, and takes a first step that also warms up.",
        markdown(part_table(results)),
        *(["Not measured: " + "; ".join(failed) + "."] if failed else []),
    ]


def _replayed(results: Record) -> str:
    """Return what is to be said of engines that replay their steps as CUDA graphs."""
    if not any(found.get("replayed") for found in _measured(results).values()):
        return ""
    return (
        " The engine replays whole steps as CUDA graphs; parts are those of steps that are launched kernel by kernel."
    )


def _measured(results: Record) -> dict[str, Any]:
    return {name: found for name, found in results.items() if "failed" not in found}


# --- the other parts ------------------------------------------------------------------------------


def _switches(entry: Record, record: Record) -> list[str]:
    rows = [
        [name, _spread(found["gain"]["own"], 2), *(f"{found[one]['own']['median']:.0f}" for one in ("with", "without"))]
        for name, found in entry["results"].items()
    ]
    return [
        "Gain: how much faster the engine is with it than without it, all else as it is. What the device does not have "
        "(fused optimisers, bf16) is left out.",
        markdown([["optimisation", "gain", "images/s with", "without"], *rows]),
    ]


def _contrast(entry: Record, record: Record) -> list[str]:
    rows = [
        [f"{found['negatives']:,}", f"{found['images']:,}", _spread(found["ratio"]["own"], 2)]
        + [f"{found['images_per_second'][name]['own']['median']:.0f}" for name in ("kd", "crd")]
        for found in entry["results"].values()
    ]
    return [
        markdown(
            [["negatives", "training images", "CRD's step costs KD's times", "kd images/s", "crd images/s"], *rows]
        )
    ]


def _scale(entry: Record, record: Record) -> list[str]:
    parts = []
    for curve in entry["results"].values():
        head = [AXES[curve["axis"]], *(f"{LABELS[loop]} images/s" for loop in LOOPS), "ratio", "memory MB", "build s"]
        rows = [
            [
                f"{point['x']:,}",
                *(f"{point[loop]['images_per_second']:.0f}" for loop in LOOPS),
                f"{point['ratio']:.2f}",
                " / ".join(f"{point[loop]['memory_mb']:.0f}" for loop in LOOPS),
                " / ".join(f"{point[loop]['build_seconds']:.1f}" for loop in LOOPS),
            ]
            for point in curve["points"]
        ]
        parts += [f"{curve['method']} by {AXES[curve['axis']]}:", markdown([head, *rows])]
    return parts


def _runs(entry: Record, record: Record) -> list[str]:
    rows = [
        [count, _spread(found["images_per_second"]["own"], 0), _spread(found["gain"]["own"], 2)]
        for count, found in entry["results"].items()
    ]
    return [
        "Distillations of one teacher trained in one process (`co_train`), which share images and the teacher's "
        "passes; an epoch with its validation and checkpoint.",
        markdown([["runs", "images/s of all together", "runs an hour, against one by one"], *rows]),
    ]


def _accuracy(entry: Record, record: Record) -> list[str]:
    parts = []
    for method, found in entry["results"].items():
        head = ["loop", "top-1 by seed (%)", "mean", "std of seeds", "difference (95 % interval)", "within std"]
        rows = []
        for loop, one in found["summary"].items():
            spread = max(one["std"], found["summary"]["reference"]["std"])
            within = "" if loop == "reference" else "yes" if abs(one["difference"]) < spread else "no"
            seeds = ", ".join(f"{value:.2f}" for value in found["top1"][loop])
            difference = f"{round(one['difference'], 2) + 0:.2f}"  # no -0.00
            if loop != "reference" and one.get("low") is not None:
                difference += f" ({one['low']:.2f} to {one['high']:.2f})"
            rows.append([loop, seeds, f"{one['mean']:.2f}", f"{one['std']:.2f}", difference, within])
        about = "differences to the reference loop seed by seed, with the t interval of their mean"
        parts += [f"{method}, {found['epochs']} epochs, validation images; {about}.", markdown([head, *rows])]
    return parts


def _anchor(entry: Record, record: Record) -> list[str]:
    parts = []
    for name, found in entry["results"].items():
        rows = [[str(seed), *_reached(run), f"{max(run['top1']):.2f}"] for seed, run in enumerate(found["runs"])]
        within = "not reached" if found["seconds"] is None else f"{_spread(found['seconds'], 1)} seconds"
        parts += [
            f"{name}: {within}. Trained without a teacher on {found['images']:,} images, {found['epochs']} epochs at "
            "most; validation and checkpoints do not count.",
            markdown([["seed", "seconds to it", "epoch", "best top-1 (%)"], *rows]),
        ]
    return parts


def _reached(run: Record) -> list[str]:
    return ["-", "-"] if run["reached"] is None else [f"{run['reached']:.1f}", str(run["epoch"])]


# --- projection -----------------------------------------------------------------------------------


def hours(found: Record, loop: str) -> float:
    """Return how long one run of the field's recipe takes: every image 240 times, the test images after each epoch."""
    step = 1 / found[loop]["images_per_second"]["own"]["median"]
    return EPOCHS * (IMAGES * step + TEST_IMAGES * found[loop]["evaluation_seconds_per_image"]) / 3600


def method_costs(record: Record, device: str) -> dict[str, float] | None:
    """Return what a step of each of the field's methods costs the engine, as a multiple of kd's, if all are known."""
    for entry in record.values():
        found = entry["results"]
        if entry["part"] == "speed" and entry["hardware"]["device"] == device and set(FIELD) <= set(_measured(found)):
            speed = {name: found[name]["engine"]["images_per_second"]["own"]["median"] for name in FIELD}
            return {name: speed["kd"] / speed[name] for name in FIELD}
    return None


def _recipe(entry: Record, record: Record) -> list[str]:
    results = entry["results"]
    rows = [
        [pair, *(f"{hours(found, loop):.1f}" for loop in LOOPS), _spread(found["ratio"]["own"], 2)]
        for pair, found in results.items()
    ]
    totals = {loop: sum(hours(found, loop) for found in results.values()) for loop in LOOPS}
    rows.append(["one run of each pair", *(f"{totals[loop]:.0f}" for loop in LOOPS), ""])
    parts = [
        f"Projected from measured steps: {EPOCHS} epochs of {IMAGES:,} images, {TEST_IMAGES:,} images evaluated after "
        "each, knowledge distillation, hours of one job.",
        markdown([["pair", *(f"{LABELS[loop]} h" for loop in LOOPS), "ratio of steps"], *rows]),
    ]
    costs = method_costs(record, entry["hardware"]["device"])
    if costs is None:
        return [*parts, f"The whole table is projected once all of {', '.join(FIELD)} are measured on one pair."]
    whole = totals["engine"] * sum(costs.values()) * SEEDS
    return [
        *parts,
        f"The whole table, {len(results)} pairs × {len(FIELD)} methods × {SEEDS} seeds: {whole:,.0f} hours of such "
        f"jobs, {whole / 24:,.0f} days one after the other. A step of each method is taken to cost the same multiple "
        "of kd's on every pair as measured above: "
        + ", ".join(f"{name} {cost:.2f}" for name, cost in costs.items())
        + ".",
    ]


def _spread(found: Record, digits: int) -> str:
    low, high = (f"{found[key]:.{digits}f}" for key in ("min", "max"))
    return f"{found['median']:.{digits}f} ({low} to {high})"


SECTIONS: dict[str, tuple[str, Callable[[Record, Record], Sequence[str]]]] = {
    "speed": ("Engine and reference loop", _speed),
    "switches": ("What each optimisation gains", _switches),
    "runs": ("Runs side by side", _runs),
    "contrast": ("The step of contrastive distillation", _contrast),
    "accuracy": ("Accuracy", _accuracy),
    "anchor": ("Seconds to an accuracy", _anchor),
    "scale": ("Scale", _scale),
    "recipe": ("The 240-epoch recipe", _recipe),
}
