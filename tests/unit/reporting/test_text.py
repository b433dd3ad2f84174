import pytest

from kd.reporting import text


@pytest.mark.parametrize(
    ("plain", "escaped"),
    [
        ("wrn_40_2", r"wrn\_40\_2"),
        ("50% & $5 #1 {x}", r"50\% \& \$5 \#1 \{x\}"),
        ("a\\b~c^d", r"a\textbackslash{}b\textasciitilde{}c\textasciicircum{}d"),
        ("71.0 ± 0.3 — −1 <2>", r"71.0 $\pm$ 0.3 --- $-$1 \textless{}2\textgreater{}"),
        ("two\nlines", "two lines"),
        ("日本 é", "?? é"),
    ],
)
def test_latex(plain, escaped):
    assert text.latex(plain) == escaped


@pytest.mark.parametrize(
    ("plain", "escaped"),
    [("a|b", r"a\|b"), ("wrn_40_2 __init__", r"wrn_40_2 \_\_init\_\_"), ("<b>*x*", r"\<b>\*x\*"), ("a\nb", "a b")],
)
def test_markdown(plain, escaped):
    assert text.markdown(plain) == escaped


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (text.decimal(71.005), "71.00"),
        (text.decimal(None), "—"),
        (text.signed(-0.3), "−0.30"),
        (text.signed(1.234), "+1.23"),
        (text.interval(-0.3, 1.2), "[−0.30, +1.20]"),
        (text.interval(None, None), ""),
        (text.p_value(0.0004), "<0.001"),
        (text.p_value(0.0312), "0.031"),
        (text.p_value(0.25), "0.25"),
        (text.p_value(None), "—"),
        (text.duration(3.21), "3.2 s"),
        (text.duration(90), "90 s"),
        (text.duration(600), "10.0 min"),
        (text.duration(9000), "2.5 h"),
        (text.duration(None), "—"),
        (text.quantity(1.234e15), "1.23 P"),
        (text.quantity(5.12e8, "B"), "512 MB"),
        (text.quantity(999_900), "1 M"),
        (text.quantity(12), "12"),
        (text.quantity(0), "0"),
        (text.quantity(None), "—"),
        (text.seed_list([0]), "seed 0"),
        (text.seed_list([0, 1, 2]), "seeds 0, 1 and 2"),
    ],
)
def test_numbers(found, expected):
    assert found == expected
