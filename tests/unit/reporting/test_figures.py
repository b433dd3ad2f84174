import itertools

import pytest

from kd.reporting.figures import cost, learning_curves, load_groups, write_figures
from kd.reporting.layout import figure_files
from kd.reporting.style import FIXED, PALETTE, RC, looks, styled


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Draw few pixels: these tests look at files, not at beauty."""
    monkeypatch.setitem(RC, "savefig.dpi", 50)


def draw(world):
    folder = world.root / "figures"
    write_figures(world.runs_csv, world.statistics, folder, world.report)
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


def test_thirty_methods(many):
    check(draw(many), [("toy", "big--small")])


@pytest.mark.parametrize(
    "methods",
    [{"kd": [71.0]}, {"ce": [70.0], "kd": [71.0]}, {"kd": [None, None]}, {"kd": [71.0, 71.0], "ce": [71.0, 71.0]}],
    ids=["one seed of one method", "one seed", "nothing", "no spread"],
)
def test_little_to_draw(world, methods):
    for name, accuracies in methods.items():
        world.method(name, accuracies)
    check(draw(world.analyse()), [("toy", "big--small")])


def test_several_pairs(world):
    world.method("kd", [71.0, 72.0])
    world.pair = "a+b--c"
    check(draw(world.method("kd", [70.0, 71.0]).analyse()), [("toy", "big--small"), ("toy", "a+b--c")])


def test_missing_curves_are_told(small):
    for path in small.root.rglob("metrics.csv"):
        path.unlink()
    with styled():
        figure = learning_curves(load_groups(small.runs_csv, small.statistics, small.report)[0])
    assert figure.texts[0].get_text() == "No finished run has left a learning curve."


def test_labels_of_thirty_methods_hardly_touch(many):
    with styled():
        figure = cost(load_groups(many.runs_csv, many.statistics, many.report)[0])
        figure.draw_without_rendering()
        boxes = [label.get_window_extent() for label in figure.axes[0].texts]
    assert len(boxes) == 30
    # A leader line widens an annotation's extent; the names themselves sit at its text position.
    centres = [((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2) for box in boxes]
    close = [
        1 for one, two in itertools.combinations(centres, 2) if abs(one[0] - two[0]) < 20 and abs(one[1] - two[1]) < 6
    ]
    assert len(close) <= 2


def test_every_method_has_a_look_of_its_own():
    names = {f"m{index:02d}": f"m{index:02d}" for index in range(28)} | {"ce": "ce", "kd": "kd", "kd_t8": "kd"}
    found = looks(names)
    assert len({(one.color, one.marker) for one in found.values()}) == 31
    assert len({(one.color, one.line) for one in found.values()}) == 31
    assert found["kd"].color == found["kd_t8"].color == FIXED["kd"]
    assert found["ce"].color == FIXED["ce"]
    assert looks(dict(reversed(names.items()))) == found


def test_the_first_methods_share_no_color():
    names = {f"m{index}": f"m{index}" for index in range(len(PALETTE))}
    assert len({one.color for one in looks(names).values()}) == len(PALETTE)
