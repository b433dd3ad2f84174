"""What a reader sees: letters that can be read in a paper's column, nothing upon anything else, scales that fit."""

import io
import itertools

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from kd.reporting.figures import accuracy, cost, differences, learning_curves
from kd.reporting.layout import figure_files
from kd.reporting.style import COLUMN, FAMILIES, FIXED, PALETTE, RC, SMALL, looks, png, settle, styled
from kd.schema.config import Reporting

DRAWN = {"accuracy": accuracy, "differences": differences, "cost": cost, "learning_curves": learning_curves}
LONG = "a_method_of_an_uncommonly_long_name_with_many_words_and_one_number_1234"


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Save few pixels: files are looked at for their form only."""
    monkeypatch.setitem(RC, "savefig.dpi", 50)


def draw(world):
    folder = world.root / "figures"
    world.figures(folder)
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def check(files, groups):
    assert sorted(files) == sorted(figure_files(groups))
    for path in files.values():
        head = path.read_bytes()[:4]
        assert head == (b"%PDF" if path.suffix == ".pdf" else b"\x89PNG")
        assert path.stat().st_size > 1500


def test_figures_are_drawn_and_repeat_themselves(small):
    files = draw(small)
    check(files, [("toy", "big--small")])
    before = {name: path.read_bytes() for name, path in files.items()}
    assert {name: path.read_bytes() for name, path in draw(small).items()} == before
    assert not any(b"CreationDate" in content for content in before.values())


def test_a_png_has_few_colours_that_nobody_tells_from_all(drawn):
    _, figure = drawn("forty_five", "learning_curves")  # the most shades
    whole = io.BytesIO()
    figure.savefig(whole, format="png", dpi=100)
    few = png(figure, 100)
    first, second = Image.open(whole), Image.open(io.BytesIO(few))
    assert (second.size, second.mode) == (first.size, "P")
    assert second.info["dpi"] == first.info["dpi"]
    apart = np.abs(np.asarray(first.convert("RGB"), int) - np.asarray(second.convert("RGB"), int))
    assert apart.max() < 16, "of 255"
    assert len(few) < 0.6 * len(whole.getvalue())


def test_several_pairs(world):
    world.method("kd", [71.0, 72.0])
    world.pair = "a+b--c"
    check(draw(world.method("kd", [70.0, 71.0]).analyse()), [("toy", "big--small"), ("toy", "a+b--c")])


# --- awkward experiments ------------------------------------------------------------------------


def one_method(world):
    world.teachers([0]).method("kd", [71.0])


def one_seed(world):
    world.teachers([0]).method("ce", [70.0]).method("kd", [71.0]).method("at", [71.0])


def two_seeds(world):
    """Intervals of thirteen standard errors."""
    world.teachers([0, 1]).method("ce", [60.0, 64.0]).method("kd", [66.0, 66.1]).method("at", [64.0, 67.0])


def forty_five(world):
    generator = np.random.default_rng(0)
    world.teachers(range(3)).method("ce", [70.0, 70.8, 70.4], 30.0).method("kd", [72.0, 72.6, 72.1], 40.0)
    for index in range(43):
        scores = (72 + 1.2 * generator.standard_normal() + 0.4 * generator.standard_normal(3)).tolist()
        # many methods cost the same
        world.method(f"method{index:02d}", scores, 40.0 if index % 2 else float(40 * np.exp(generator.random() * 3)))


def failed_runs(world):
    world.teachers(range(3)).method("ce", [70.0, None, 71.0]).method("kd", [71.0, 72.0, 71.5], broken={1})
    world.method("at", [None, None, None]).method("crd", [73.0, 74.0, 73.2], broken={0, 1, 2})


def long_names(world):
    world.teacher = "a_teacher_network_of_a_long_name_224"
    world.pair = f"{world.teacher}--small"
    world.teachers(range(2)).method("ce", [70.0, 71.0]).method(LONG, [72.0, 72.5]).method(f"{LONG}_b", [69.0, 72.5])


def four_teachers(world):
    world.pair = "a+b+c+d--small"
    for name, top1 in (("a", 73.0), ("b", 73.1), ("c", 71.5), ("d", 96.0)):
        world.teacher = name
        world.teachers(range(2), top1)
    world.method("ce", [70.0, 71.0]).method("kd", [72.0, 73.0]).method("at", [71.0, 73.0])


def near_a_hundred(world):
    world.teachers(range(3), 99.7).method("ce", [99.1, 98.7, 99.9]).method("kd", [99.9, 100.0, 99.8])
    world.method("at", [100.0, 100.0, 100.0])


def near_zero(world):
    world.teachers(range(3), 1.0).method("ce", [1.0, 1.2, 1.1]).method("kd", [1.0, 1.9, 2.3])


def no_spread(world):
    world.teachers(range(2)).method("ce", [71.0, 71.0]).method("kd", [71.0, 71.0])


AWKWARD = {
    make.__name__: make
    for make in (
        *(one_method, one_seed, two_seeds, forty_five, failed_runs, long_names, four_teachers, near_a_hundred),
        *(near_zero, no_spread),
    )
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Figures by experiment and kind, each drawn once."""
    from made_up import World

    known = {}

    def drawn(experiment, kind):
        if (experiment, kind) not in known:
            world = World(tmp_path_factory.mktemp(experiment))
            AWKWARD[experiment](world)
            (group,) = world.analyse().groups()
            with styled():
                for name, make in DRAWN.items():
                    figure = make(group)
                    settle(figure)
                    figure.draw_without_rendering()
                    known[experiment, name] = group, figure
        return known[experiment, kind]

    return drawn


every_figure = pytest.mark.parametrize(
    ("experiment", "kind"), list(itertools.product(AWKWARD, DRAWN)), ids=lambda value: value
)
every_experiment = pytest.mark.parametrize("experiment", AWKWARD)


def texts_of(figure):
    """Everything that is written and seen."""
    found = list(figure.texts)
    for axes in figure.axes:
        if axes.axison:
            ticks = [label for axis in (axes.xaxis, axes.yaxis) for label in seen_ticks(axis)]
            found += [*ticks, *axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label]
    return [text for text in found if text.get_visible() and text.get_text().strip()]


def seen_ticks(axis):
    low, high = sorted(axis.get_view_interval())
    room = 1e-9 * (high - low)
    return [
        label
        for tick in axis.get_major_ticks()
        for label in (tick.label1,)
        if label.get_visible() and low - room <= tick.get_loc() <= high + room
    ]


def box_of(text, shrink=0.6):
    """Its box in pixels, without the white around letters."""
    x0, y0, x1, y1 = text.get_window_extent().extents
    return x0 + shrink, y0 + shrink, x1 - shrink, y1 - shrink


def meet(one, two):
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]


@every_figure
def test_letters_can_be_read_in_a_papers_column(drawn, experiment, kind):
    _, figure = drawn(experiment, kind)
    assert figure.get_size_inches()[0] == COLUMN
    assert {text.get_text(): text.get_fontsize() for text in texts_of(figure) if text.get_fontsize() < SMALL} == {}
    assert SMALL >= 6.5


@every_figure
def test_no_text_lies_upon_another_or_leaves_the_figure(drawn, experiment, kind):
    _, figure = drawn(experiment, kind)
    boxes = [(text.get_text(), box_of(text)) for text in texts_of(figure)]
    assert len(boxes) > 2
    upon = [(one[0], two[0]) for one, two in itertools.combinations(boxes, 2) if meet(one[1], two[1])]
    assert upon == []
    width, height = figure.get_size_inches() * figure.dpi
    outside = [(name, box) for name, box in boxes if box[0] < 0 or box[1] < 0 or box[2] > width or box[3] > height]
    assert outside == []


@every_figure
def test_no_line_strikes_a_text(drawn, experiment, kind):
    _, figure = drawn(experiment, kind)
    texts = [(text.get_text(), box_of(text)) for text in texts_of(figure)]
    struck = []
    for axes in figure.axes:
        for line in axes.lines:
            places = line.get_transform().transform(np.column_stack([line.get_xdata(), line.get_ydata()]).astype(float))
            dense = [np.linspace(a, b, 60) for a, b in itertools.pairwise(places)] or [places]
            frame = axes.get_window_extent()
            for x, y in np.concatenate(dense):
                if line.get_clip_on() and not (frame.x0 <= x <= frame.x1 and frame.y0 <= y <= frame.y1):
                    continue
                struck += [name for name, box in texts if box[0] < x < box[2] and box[1] < y < box[3]]
    assert sorted(set(struck)) == []


# --- rows ---------------------------------------------------------------------------------------


def names_in_rows(axes):
    """By the name beside it, unwrapped: the row's middle."""
    rows = zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)
    return {label.get_text().replace("\n", ""): place for label, place in rows}


def points_of(axes):
    """Means as drawn: place, accuracy and colour."""
    lines = [line for line in axes.lines if line.get_marker() == "o"]
    return [(line.get_ydata()[0], line.get_xdata()[0], to_hex(line.get_color()).upper()) for line in lines]


@every_experiment
@pytest.mark.parametrize("kind", ["accuracy", "differences", "cost"])
def test_a_name_stands_at_its_own_point(drawn, experiment, kind):
    group, figure = drawn(experiment, kind)
    records = group.differences if kind == "differences" else group.methods
    if not records:
        assert "Nothing to draw" in [text.get_text() for text in figure.texts]
        return
    axes, names = figure.axes[-1], names_in_rows(figure.axes[0])
    points = points_of(axes)
    assert len(points) == len(records)
    for record in records:
        place, value, color = min(points, key=lambda point: abs(point[0] - names[record.method]))
        assert (place, value) == (pytest.approx(names[record.method]), record.mean)
        assert color == group.looks[record.method].color.upper()


@every_experiment
@pytest.mark.parametrize("kind", ["accuracy", "differences", "cost"])
def test_every_interval_is_drawn_and_every_seed(drawn, experiment, kind):
    group, figure = drawn(experiment, kind)
    records = group.differences if kind == "differences" else group.methods
    if not records:
        return
    axes, names = figure.axes[-1], names_in_rows(figure.axes[0])
    low, high = axes.get_xlim()
    level = [line for line in axes.lines if len(line.get_xdata()) == 2 and np.ptp(line.get_ydata()) == 0]
    bars = {
        round(float(line.get_ydata()[0]), 6): list(line.get_xdata()) for line in level if line.get_marker() == "None"
    }
    arrows = [
        (round(float(line.get_ydata()[0]), 6), line.get_marker()) for line in axes.lines if line.get_marker() in "<>"
    ]
    for record in records:
        place = round(names[record.method], 6)
        assert all(low <= value <= high for value in record.values)
        if record.low is None:
            assert place not in bars
            continue
        assert bars[place] == [max(record.low, low), min(record.high, high)]
        assert ((place, "<") in arrows, (place, ">") in arrows) == (record.low < low, record.high > high)


@every_experiment
@pytest.mark.parametrize("kind", ["accuracy", "cost", "learning_curves"])
def test_an_axis_of_percent_ends_within_0_and_100(drawn, experiment, kind):
    _, figure = drawn(experiment, kind)
    axes = figure.axes[-1 if kind != "learning_curves" else 0] if figure.axes else None
    if axes is None:
        return
    low, high = axes.spines["left"].get_bounds() if kind == "learning_curves" else axes.get_xlim()
    assert 0 <= low < high <= 100
    ticks = (
        axes.get_yticks() if kind == "learning_curves" else [tick.get_position()[0] for tick in seen_ticks(axes.xaxis)]
    )
    assert len(ticks)
    assert 0 <= min(ticks) <= max(ticks) <= 100


@every_experiment
@pytest.mark.parametrize("kind", ["accuracy", "differences"])
def test_the_scale_fits_the_data(drawn, experiment, kind):
    """Seeds and what is seen of intervals and teachers fill the axis but for its margins."""
    group, figure = drawn(experiment, kind)
    records = group.differences if kind == "differences" else group.methods
    if not records:
        return
    axes = figure.axes[0]
    low, high = axes.get_xlim()
    data = [value for line in axes.lines for value in np.ravel(line.get_xdata()) if low <= value <= high]
    assert np.ptp(data) >= 0.75 * (high - low) or high - low <= 1.3


def test_an_interval_far_wider_than_the_seeds_does_not_squeeze_them(drawn):
    group, figure = drawn("two_seeds", "accuracy")
    low, high = figure.axes[0].get_xlim()
    seeds = [value for one in group.methods for value in one.values]
    assert np.ptp(seeds) > 0.4 * (high - low)
    assert any(one.low < low for one in group.methods)


@pytest.mark.parametrize(("teacher", "row"), [("d", "96.0 →"), ("a", None)])
def test_a_teacher_far_out_is_told_in_its_own_row(drawn, teacher, row):
    _, figure = drawn("four_teachers", "accuracy")
    axes = figure.axes[0]
    place = names_in_rows(axes)[f"teacher {teacher}"]
    told = [text.get_text() for text in axes.texts if text.xy[1] == place]
    assert told == ([row] if row else [])
    diamonds = [line.get_ydata()[0] for line in axes.lines if line.get_marker() == "D"]
    assert (place in diamonds) == (row is None)


# --- cost ---------------------------------------------------------------------------------------


def test_cost_counts_flops_of_teachers_too_from_cheap_to_dear(world):
    world.teachers(range(2)).method("ce", [70.0, 71.0], 30.0).method("kd", [72.0, 73.0], 40.0)
    world.method("at", [71.0, 72.0], 35.0).method("crd", [69.0, 69.5], 50.0)
    (group,) = world.analyse().groups()
    with styled():
        left, right = (figure := cost(group)).axes
    assert list(names_in_rows(left)) == ["ce", "at", "kd", "crd"]
    (markers,) = (one for one in left.collections if len(one.get_offsets()) and hasattr(one, "get_sizes"))
    # the world's runs have a T of FLOPs a second, its teachers take 100 seconds
    assert markers.get_offsets()[:, 0].tolist() == pytest.approx([30e12, 135e12, 140e12, 150e12])
    bold = [label.get_text() for label in left.get_yticklabels() if label.get_fontweight() == "bold"]
    assert bold == ["ce", "at", "kd"], "crd costs more than kd and reaches less"
    assert not any("min" in text.get_text() or " s" in text.get_text()[-3:] for text in texts_of(figure))
    assert right.get_xlabel() == "Test top-1 (%)"


@pytest.mark.parametrize(("rope", "worth"), [(0.0, ["ce", "at", "kd"]), (1.5, ["ce", "kd"]), (5.0, ["ce"])])
def test_what_is_worth_its_compute_is_what_the_answer_says(world, rope, worth):
    world.report = Reporting(rope=rope)
    world.teachers(range(2)).method("ce", [70.0, 71.0], 30.0).method("kd", [72.0, 73.0], 40.0)
    world.method("at", [71.0, 72.0], 35.0).method("crd", [69.0, 69.5], 50.0)
    (group,) = world.analyse().groups()
    with styled():
        left, _ = (figure := cost(group)).axes
    bold = [label.get_text() for label in left.get_yticklabels() if label.get_fontweight() == "bold"]
    assert bold == worth
    said = "bold and dotted line: " + (f"over {rope:g} points above" if rope else "a mean above")
    assert any(said in " ".join(text.get_text().split()) for text in texts_of(figure))


# --- curves -------------------------------------------------------------------------------------


def test_every_panel_has_numbers_at_its_epochs_and_the_difference_to_ce(drawn):
    group, figure = drawn("forty_five", "learning_curves")
    panels = [axes for axes in figure.axes if axes.axison]
    assert len(panels) == 45
    ends = {name: curves["val_top1"].mean[-1] for name, curves in group.curves.items()}
    for axes in panels:
        assert len([label for label in seen_ticks(axes.xaxis) if label.get_visible()]) >= 2
        method = axes.get_title(loc="left").replace("\n", "")
        told = [text.get_text() for text in axes.texts]
        gained = round(ends[method] - ends["ce"], 1)
        assert told == ([] if method == "ce" else [f"{gained + 0.0:+.1f}".replace("-", "−")])


@pytest.mark.parametrize("epochs", [4, 64])
def test_one_long_training_leaves_the_others_their_room(world, epochs):
    world.method("ce", [70.0, 71.0]).method("kd", [72.0, 73.0])
    world.method("ce_matched", [74.0, 75.0], base="ce", epochs=epochs)
    (group,) = world.analyse().groups()
    with styled():
        figure = learning_curves(group)
    widths = {axes.get_title(loc="left"): np.diff(axes.get_xlim())[0] for axes in figure.axes if axes.axison}
    assert widths["ce"] == widths["kd"] < 4
    assert widths["ce_matched"] == pytest.approx(1.08 * (epochs - 1))
    told = any("mind each panel's epochs" in " ".join(text.get_text().split()) for text in texts_of(figure))
    assert told == (epochs != 4)


@pytest.mark.parametrize(
    ("methods", "references", "beside"),
    [
        ({"ce": "ce", "kd": "kd", "ce_long": "ce"}, ["kd"], "ce"),
        ({"ce_long": "ce", "L0": "ce", "kd": "kd"}, ["kd", "L0"], "L0"),
        ({"kd": "kd", "at": "at"}, ["at"], "at"),
        ({"kd": "kd", "at": "at"}, ["ce"], None),
    ],
)
def test_curves_stand_beside_plain_training_or_else_a_reference(world, methods, references, beside):
    world.report = Reporting(references=references)
    for name, base in methods.items():
        world.method(name, [70.0, 71.0], base=base)
    (group,) = world.analyse().groups()
    assert group.held_against(methods) == beside
    assert group.held_against({"none"}) is None


@pytest.mark.parametrize(("start", "marked"), [(5.0, True), (69.8, False)])
def test_curves_that_begin_below_the_axis_are_marked(world, start, marked):
    world.method("ce", [70.0, 71.0]).method("kd", [72.0, 73.0])
    for path in world.root.rglob("metrics.csv"):
        rows = [f"{epoch},1.0,{value}" for epoch, value in enumerate((start, 69.9, 70.0, 70.5))]
        path.write_text("\n".join(["epoch,train_loss,val_top1", *rows]) + "\n", encoding="utf-8")
    (group,) = world.analyse().groups()
    with styled():
        figure = learning_curves(group)
    told = any("earlier epochs are below the axis" in " ".join(text.get_text().split()) for text in texts_of(figure))
    triangles = [line for axes in figure.axes for line in axes.lines if line.get_marker() == 11]
    assert (told, len(triangles)) == ((True, 2) if marked else (False, 0))


def test_missing_curves_are_told(small):
    for path in small.root.rglob("metrics.csv"):
        path.unlink()
    small.gather({})
    with styled():
        figure = learning_curves(small.groups()[0])
    assert "No finished run has left a learning curve." in [text.get_text() for text in figure.texts]


# --- colours ------------------------------------------------------------------------------------


def test_a_family_has_one_colour_in_every_figure(drawn):
    group, _ = drawn("two_seeds", "accuracy")
    assert {name: look.color for name, look in group.looks.items()} == {
        "ce": FAMILIES["baseline"],
        "kd": FAMILIES["logits"],
        "at": FAMILIES["features"],
    }
    for kind in DRAWN:
        _, figure = drawn("two_seeds", kind)
        texts = {text.get_text() for text in figure.texts}
        shown = {"baseline", "features"} | ({"logits"} if kind != "differences" else set())  # kd is what they add to
        assert shown <= texts
        assert not {"relational", "online"} & texts


def test_what_has_no_family_has_a_look_of_its_own():
    names = {f"m{index:02d}": f"m{index:02d}" for index in range(28)} | {"ce": "ce", "kd": "kd", "kd_t8": "kd"}
    found = looks(names)
    assert len({(one.color, one.marker) for one in found.values()}) == 31
    assert len({(one.color, one.line) for one in found.values()}) == 31
    assert found["kd"].color == found["kd_t8"].color == FIXED["kd"]
    assert found["ce"].color == FIXED["ce"]
    assert looks(dict(reversed(names.items()))) == found


def test_methods_of_a_family_differ_in_marker_and_line():
    names = {f"m{index}": f"m{index}" for index in range(7)}
    found = looks(names, dict.fromkeys(names, "features")).values()
    assert {one.color for one in found} == {FAMILIES["features"]}
    assert len({one.marker for one in found}) == 7
    assert len({(one.marker, one.line) for one in found}) == 7


def test_the_first_methods_without_family_share_no_color():
    names = {f"m{index}": f"m{index}" for index in range(len(PALETTE))}
    assert len({one.color for one in looks(names).values()}) == len(PALETTE)


def test_every_family_of_the_cards_has_a_colour():
    from kd.schema.cards import load_cards

    assert {card.family for card in load_cards().values()} <= set(FAMILIES)
    assert len(set(FAMILIES.values())) == len(FAMILIES)
