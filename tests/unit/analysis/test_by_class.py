"""Class by class: against scikit-learn, and against sums by hand."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix, log_loss

from kd.analysis.by_class import TEMPERATURES, accuracy_by_class, confusion, fitted_temperature, mistakes, reliability
from kd.analysis.metrics import expected_calibration_error


@pytest.fixture
def answers():
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 5, 400)
    logits = 2 * generator.standard_normal((400, 5))
    logits[np.arange(400), labels] += 1.5
    return logits, labels


def test_the_confusion_matrix_is_that_of_scikit_learn(answers):
    logits, labels = answers
    assert confusion(logits, labels).tolist() == confusion_matrix(labels, logits.argmax(1)).tolist()


def test_a_class_without_images_has_no_accuracy():
    counts = np.array([[3, 1, 0], [0, 0, 0], [2, 0, 2]])
    assert accuracy_by_class(counts) == [75.0, None, 50.0]


def test_mistakes_are_shares_of_the_true_class_the_largest_first():
    counts = np.array([[6, 2, 2], [0, 10, 0], [5, 0, 5]])
    found = [(one.true, one.answered, one.share) for one in mistakes(counts, 5)]
    assert found == [(2, 0, 50.0), (0, 1, 20.0), (0, 2, 20.0)], "what never happens is no mistake"
    assert len(mistakes(counts, 1)) == 1


def test_the_temperature_makes_the_labels_likeliest(answers):
    logits, labels = answers

    def loss(temperature):
        probabilities = np.exp(logits / temperature)
        return log_loss(labels, probabilities / probabilities.sum(1, keepdims=True))

    grid = np.exp(np.linspace(*np.log(TEMPERATURES), 4001))
    best = grid[np.argmin([loss(temperature) for temperature in grid])]
    assert fitted_temperature(logits, labels) == pytest.approx(best, rel=2e-3)


@pytest.mark.parametrize(("sign", "end"), [(1.0, 0), (-1.0, 1)])
def test_a_temperature_without_an_end_stops_at_the_limit(sign, end):
    labels = np.array([0, 1, 2])
    found = fitted_temperature(sign * np.eye(3), labels)
    assert found == pytest.approx(TEMPERATURES[end], rel=1e-3)


def test_no_images_fit_no_temperature():
    assert fitted_temperature(np.zeros((0, 3)), np.zeros(0, np.int64)) is None


def test_bins_are_those_of_scikit_learn(answers):
    """Of two classes, whose second one's probability its curve is made of."""
    logits, _ = answers
    logits = logits[:, :2]
    labels = np.random.default_rng(0).integers(0, 2, len(logits))
    found = reliability([(logits, labels)], bins=10)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    right, confident = calibration_curve(labels == logits.argmax(1), probabilities.max(1), n_bins=10)
    known = [(a, c) for a, c in zip(found.accuracy, found.confidence, strict=True) if a is not None]
    assert np.transpose(known) == pytest.approx(np.array([right, confident]), abs=1e-5)
    assert sum(found.images) == len(labels)
    assert found.error == pytest.approx(expected_calibration_error(logits, labels, 10))


def test_seeds_are_put_together(answers):
    logits, labels = answers
    found = reliability([(logits, labels), (2 * logits, labels)])
    assert sum(found.images) == 800
    errors = [expected_calibration_error(scale * logits, labels) for scale in (1, 2)]
    assert found.error == pytest.approx(np.mean(errors))
