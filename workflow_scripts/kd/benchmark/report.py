"""What a benchmark writes for people: a table, figures and one page of Markdown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd.benchmark.compare import LOOPS, PARTS
from kd.reporting.style import FIXED, GREY, LINES, MARKERS, PALETTE, new_figure, save, settle, styled
from kd.spec.files import atomic_write

Record = Mapping[str, Any]
Table = list[list[str]]

AXES = {
    "train_images": "training images",
    "classes": "classes",
    "batch_size": "batch size",
    "negatives": "negatives an image",
}
COLORS = {"reference": GREY, "engine": FIXED["kd"]}
LABELS = {"reference": "reference loop", "engine": "engine"}


def speed_table(record: Record) -> Table:
    """Return images a second, their ratio, FLOP/s and memory of every method; the first row is the head."""
    head = [
        "method",
        "reference images/s",
        "engine images/s",
        "ratio",
        "of CPU time",
        "GFLOP/s",
        "share of peak",
        "memory MB",
    ]
    rows = []
    for found in record["methods"]:
        ratio = found["ratio"]
        rows.append(
            [
                found["method"],
                *(_spread(found[loop]["images_per_second"], 0) for loop in LOOPS),
                f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})",
                f"{found['processor_ratio']['median']:.2f}",
                " / ".join(f"{found[loop]['flops_per_second'] / 1e9:.0f}" for loop in LOOPS),
                " / ".join(f"{100 * found[loop]['share_of_peak']:.0f} %" for loop in LOOPS),
                " / ".join(f"{found[loop]['memory_mb']:.0f}" for loop in LOOPS),
            ]
        )
    return [head, *rows]


def part_table(record: Record) -> Table:
    """Return milliseconds a step by part, of both loops of every method."""
    head = ["method", "loop", *PARTS, "evaluation s", "build s", "first step s"]
    rows = [
        [
            found["method"],
            LABELS[loop],
            *(f"{1e3 * found[loop]['seconds_by_part'][part]:.1f}" for part in PARTS),
            f"{found[loop]['seconds_by_part']['evaluation']:.2f}",
            *(f"{found[loop]['before_first_step'][key]:.2f}" for key in ("build", "first_step")),
        ]
        for found in record["methods"]
        for loop in LOOPS
    ]
    return [head, *rows]


def scale_table(curve: Record) -> Table:
    """Return the points of one curve."""
    head = [AXES[curve["axis"]], "reference images/s", "engine images/s", "ratio", "memory MB", "build s"]
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
    return [head, *rows]


def parity_table(found: Record) -> Table:
    """Return accuracies by loop and seed."""
    head = ["loop", "validation top-1 by seed (%)", "mean", "std", "difference to the reference"]
    rows = []
    for loop, summary in found["summary"].items():
        seeds = ", ".join(f"{value:.2f}" for value in found["top1"][loop])
        rows.append([loop, seeds, *(f"{summary[key]:.2f}" for key in ("mean", "std", "difference"))])
    return [head, *rows]


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


def write(record: Record, path: Path) -> list[Path]:
    """Write report.md and its figures beside a benchmark's JSON; return what was written."""
    figures = {"speed.png": draw_speed} | ({"scale.png": draw_scale} if record["scale"] else {})
    for name, draw in figures.items():
        draw(record, path.parent / name)
    atomic_write(path.parent / "report.md", page(record))
    return [path.parent / name for name in (*figures, "report.md")]


def page(record: Record) -> str:
    """Return the report in Markdown."""
    settings, hardware = record["settings"], record["hardware"]
    where = hardware.get("gpu", f"{hardware['cpu']}, {hardware['threads']} threads")
    pair = f"{' + '.join(settings['teachers'])} → {settings['student']}"
    parts = [
        f"# Benchmark: {pair}, batch {settings['batch_size']}",
        f"On {where}; torch {record['versions']['torch']}; {record['images']}. Engine in "
        f"{hardware['precision']}, reference loop in fp32. Both ran in one process in turns; values are medians of "
        f"{settings['repeats']} repeats of {settings['images']} images (smallest to largest). Pairs of values are "
        "reference / engine. The ratio of CPU time is that of the main process alone: other load on the machine drops "
        "out of it. The share of the peak is what the networks and the loss need of the FLOP/s of a large "
        "matrix product in the same format, measured beside. Memory is what a loop adds at its peak, workers not "
        f"counted. Importing took {record['import_seconds']:.1f} s.",
        markdown(speed_table(record)),
        "![Images a second and time by part](speed.png)",
        "## Where a step's time goes (ms)",
        "Measured in separate passes with a clock around each part; `student` is its forward and backward pass, `host` "
        "everything else.",
        markdown(part_table(record)),
    ]
    if record["parity"]:
        found = record["parity"]
        parts += ["## Accuracy", f"{found['method']}, {found['epochs']} epochs.", markdown(parity_table(found))]
    if record["scale"]:
        parts += ["## Scale", "Small nets on synthetic images.", "![Images a second by size](scale.png)"]
        for curve in record["scale"]:
            parts += [f"### {curve['method']} by {AXES[curve['axis']]}", markdown(scale_table(curve))]
    return "\n\n".join(parts) + "\n"


def draw_speed(record: Record, path: Path) -> None:
    """Draw images a second of both loops by method, and the parts of their steps."""
    names = [found["method"] for found in record["methods"]]
    with styled():
        figure = new_figure(8.5, 1.6 + 0.55 * len(names))
        left, right = figure.subplots(1, 2, sharey=True)
        for offset, loop in zip((-0.2, 0.2), LOOPS, strict=True):
            rows = [index + offset for index in range(len(names))]
            _bars(left, record["methods"], loop, rows)
            _stacks(right, record["methods"], loop, rows)
        left.set_yticks(range(len(names)), names)
        left.invert_yaxis()
        left.set_xlabel("images a second")
        left.legend(loc="best")
        right.set_xlabel("ms a step (upper bar: reference loop, lower: engine)")
        handles, labels = right.get_legend_handles_labels()
        right.legend(handles[: len(PARTS)], labels[: len(PARTS)], loc="best")
        settle(figure)
        save(figure, path)


def _bars(axes: Any, methods: Sequence[Record], loop: str, rows: Sequence[float]) -> None:
    speeds = [found[loop]["images_per_second"] for found in methods]
    medians = [speed["median"] for speed in speeds]
    reach = [[s["median"] - s["min"] for s in speeds], [s["max"] - s["median"] for s in speeds]]
    axes.barh(rows, medians, 0.36, xerr=reach, color=COLORS[loop], ecolor="black", label=LABELS[loop])


def _stacks(axes: Any, methods: Sequence[Record], loop: str, rows: Sequence[float]) -> None:
    start = [0.0] * len(methods)
    for part, color in zip(PARTS, PALETTE, strict=False):
        widths = [1e3 * found[loop]["seconds_by_part"][part] for found in methods]
        axes.barh(rows, widths, 0.36, left=start, color=color, label=part)
        start = [a + b for a, b in zip(start, widths, strict=True)]


def draw_scale(record: Record, path: Path) -> None:
    """Draw images a second of both loops against everything that was grown."""
    axes_keys = list(dict.fromkeys(curve["axis"] for curve in record["scale"]))
    methods = list(dict.fromkeys(curve["method"] for curve in record["scale"]))
    with styled():
        figure = new_figure(2.6 * len(axes_keys) + 1, 3.0)
        panels = figure.subplots(1, len(axes_keys), squeeze=False)[0]
        for curve in record["scale"]:
            panel = panels[axes_keys.index(curve["axis"])]
            look = methods.index(curve["method"])
            for loop in LOOPS:
                panel.plot(
                    [point["x"] for point in curve["points"]],
                    [point[loop]["images_per_second"] for point in curve["points"]],
                    color=COLORS[loop],
                    marker=MARKERS[look],
                    linestyle=LINES[look],
                    label=f"{curve['method']}, {LABELS[loop]}",
                )
        for key, panel in zip(axes_keys, panels, strict=True):
            panel.set_xscale("log")
            panel.set_yscale("log")
            panel.set_xlabel(AXES[key])
        panels[0].set_ylabel("images a second")
        panels[0].legend(loc="best")
        settle(figure)
        save(figure, path)


def _spread(found: Record, digits: int) -> str:
    low, high = (f"{found[key]:.{digits}f}" for key in ("min", "max"))
    return f"{found['median']:.{digits}f} ({low} to {high})"
