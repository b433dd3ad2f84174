import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kd.analysis import metrics
from kd.tools.errors import UserError

LOGITS = np.array([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [1.0, 0.0, 5.0], [2.0, 1.0, 0.0]])
LABELS = np.array([0, 2, 2, 1])


@pytest.mark.parametrize(("k", "percent"), [(1, 50.0), (2, 100.0), (3, 100.0), (9, 100.0)])
def test_top_k_by_hand(k, percent):
    assert metrics.top_k_accuracy(LOGITS, LABELS, k) == percent


def test_a_collapsed_model_scores_chance():
    labels = np.arange(10)
    assert metrics.top_k_accuracy(np.zeros((10, 10)), labels, 1) == 10.0
    assert metrics.top_k_accuracy(np.zeros((10, 10)), labels, 5) == 50.0


@pytest.mark.parametrize(
    ("probabilities", "answer"),
    [
        ([0.9, 0.45, 0.45], 0),  # mean 0.6, although two of three say 1
        ([0.999, 0.1, 0.1], 1),  # mean 0.4, although the mean logit says 0
    ],
)
def test_an_ensemble_is_the_mean_of_probabilities(probabilities, answer):
    logits = [np.log([[p, 1 - p]]) + shift for shift, p in enumerate(probabilities)]
    assert metrics.ensemble_accuracy(logits, np.array([answer])) == 100.0
    assert metrics.ensemble_accuracy(logits, np.array([1 - answer])) == 0.0


def test_likelihood_of_even_logits_is_log_of_the_class_count():
    assert metrics.negative_log_likelihood(np.full((4, 7), 3.0), np.array([0, 1, 2, 6])) == pytest.approx(np.log(7))


def test_likelihood_does_not_overflow():
    value = metrics.negative_log_likelihood(np.array([[1000.0, 0.0], [0.0, 1000.0]]), np.array([0, 0]))
    assert value == pytest.approx(500.0)


def test_calibration_by_hand():
    # Confidence 0.8 for eight examples of which six are right: |6/8 - 0.8| = 0.05.
    logits = np.tile(np.log([0.8, 0.2]), (8, 1))
    assert metrics.expected_calibration_error(logits, np.array([0] * 6 + [1] * 2)) == pytest.approx(0.05)
    # Two bins: two sure and right (gap 0), two with confidence 0.6 and wrong (gap 0.6): half of 0.6.
    logits = np.vstack([np.tile([100.0, 0.0], (2, 1)), np.tile(np.log([0.6, 0.4]), (2, 1))])
    assert metrics.expected_calibration_error(logits, np.array([0, 0, 1, 1])) == pytest.approx(0.3)


def test_agreement():
    assert metrics.top1_agreement(LOGITS, LOGITS) == 100.0
    assert metrics.top1_agreement(LOGITS, LOGITS[:, [1, 0, 2]]) == 25.0
    with pytest.raises(UserError, match="one shape"):
        metrics.top1_agreement(LOGITS, LOGITS[:2])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_logits_are_refused(bad):
    logits = LOGITS.copy()
    logits[1, 2] = bad
    with pytest.raises(UserError, match="in 1 of 4"):
        metrics.top_k_accuracy(logits, LABELS)


@pytest.mark.parametrize("labels", [np.array([0, 1]), np.array([0, 1, 2, 3]), np.array([0, 1, 2, -1])])
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(UserError, match="labels must"):
        metrics.negative_log_likelihood(LOGITS, labels)


finite = arrays(np.float64, (6, 4), elements=st.integers(-40, 40).map(lambda value: value / 4))
labels_of_six = arrays(np.int64, (6,), elements=st.integers(0, 3))


@settings(max_examples=60, deadline=None)
@given(finite, labels_of_six, st.integers(-50, 50))
def test_scores_do_not_change_when_all_logits_of_an_example_shift(logits, labels, shift):
    moved = logits + shift * np.arange(6)[:, None]
    for score in (metrics.top_k_accuracy, metrics.negative_log_likelihood):
        assert score(moved, labels) == pytest.approx(score(logits, labels), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(finite, labels_of_six)
def test_top1_is_the_argmax_and_top_k_grows_with_k(logits, labels):
    accuracies = [metrics.top_k_accuracy(logits, labels, k) for k in (1, 2, 3, 4)]
    assert accuracies[0] == pytest.approx(100 * np.mean(logits.argmax(1) == labels))
    assert accuracies == sorted(accuracies)
    assert accuracies[-1] == 100.0
    assert 0 <= metrics.expected_calibration_error(logits, labels) <= 1


def test_half_precision_logits_are_scored_in_double():
    exact = metrics.negative_log_likelihood(LOGITS, LABELS)
    assert metrics.negative_log_likelihood(LOGITS.astype(np.float16), LABELS) == pytest.approx(exact)


@pytest.mark.parametrize(
    "module",
    ["kd.analysis.metrics", "kd.analysis.collect", "kd.analysis.measures", "kd.analysis.chain", "kd.reporting.layout"],
)
def test_light_modules_import_nothing_heavy(module):
    heavy = {"torch", "torchvision", "timm", "pandas", "scipy", "sklearn", "matplotlib"}
    code = f"import sys, {module}; print(*sorted({heavy} & set(sys.modules)))"
    assert printed_by(code).split() == []


@pytest.mark.parametrize(
    "module", ["kd.analysis.compared", "kd.analysis.curves", "kd.reporting.tables", "kd.reporting.page"]
)
def test_reports_start_without_torch(module):
    code = f"import sys, {module}; print('torch' in sys.modules)"
    assert printed_by(code).strip() == "False"


def printed_by(code: str) -> str:
    """What a Python of its own prints."""
    pipes = {"capture_output": True, "text": True, "errors": "backslashreplace"}
    return subprocess.run([sys.executable, "-c", code], check=True, env=_environment(), **pipes).stdout


def _environment():
    import os
    from pathlib import Path

    return os.environ | {"PYTHONPATH": str(Path(metrics.__file__).parents[2])}
