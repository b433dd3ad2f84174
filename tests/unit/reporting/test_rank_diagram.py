"""The critical-difference diagram: every name inside the figure, bars over what is not told apart."""

import numpy as np
import pytest

from kd.analysis.compared import read_statistics
from kd.reporting.rank_diagram import bar_levels, rank_diagram
from kd.reporting.style import looks, settle, styled


@pytest.mark.parametrize(
    ("spans", "levels"),
    [([], []), ([[1.0, 2.0], [3.0, 4.0]], [0, 0]), ([[1.0, 3.0], [2.0, 4.0], [3.5, 5.0]], [0, 1, 0])],
    ids=["none", "apart", "overlapping"],
)
def test_bars_that_would_meet_lie_on_levels_of_their_own(spans, levels):
    assert bar_levels(spans) == levels


@pytest.fixture
def placed(world):
    """Six pairs: a leads, b and c are close, d is last; one name is as long as names may be."""
    drawn = np.random.default_rng(0).normal(0, 0.05, (6, 4))
    for number, noise in enumerate(drawn):
        world.pair, world.student = f"big--small{number}", f"small{number}"
        for name, level, own in zip(("a", "b", "c" * 100, "d"), (74, 72.01, 72, 70), noise, strict=True):
            world.method(name, [level + own, level - own])
    return world.analyse()


def test_the_diagram_holds_all_names_and_bars_over_what_is_not_told_apart(placed):
    across = read_statistics(placed.statistics).across
    names = {one.method: one.base_method for one in across.methods}
    with styled():
        figure = rank_diagram(across, looks(names, {}))
        settle(figure)
    (axes,) = figure.axes
    texts = [text for text in axes.texts if text.get_text().strip()]
    said = [text.get_text().strip().split("  ") for text in texts]
    assert ["a", "1.0"] in said
    assert ["4.0", "d"] in said
    assert sum("…" in "".join(one) for one in said) == 1, "a long name is cut"
    assert any("Nemenyi, mean ranks over 6 combinations" in one[0] for one in said)
    assert sum(line.get_linewidth() == 2.2 for line in axes.lines) == len(across.ranks.alike) > 0
    frame = figure.bbox
    for text in texts:
        box = text.get_window_extent()
        assert frame.x0 <= box.x0 <= box.x1 <= frame.x1
        assert frame.y0 <= box.y0 <= box.y1 <= frame.y1


def test_too_little_in_common_is_said():
    with styled():
        (text,) = rank_diagram(None, {}).texts
    assert text.get_text().startswith("No two methods have results on two combinations")
