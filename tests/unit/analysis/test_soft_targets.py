"""What targets hold beside the label, against sums by hand and scipy."""

import numpy as np
import pytest
import torch
from scipy import special, stats

from kd.analysis.soft_targets import (
    certainty_weights,
    mean_entropy,
    non_target_correlation,
    off_label_mass,
    weighted_average,
)
from kd.methods.ebkd import entropy_weights

RANDOM = np.random.default_rng(7)
LOGITS, OTHER = 3 * RANDOM.standard_normal((2, 40, 6))
LABELS = RANDOM.integers(0, 6, 40)


def test_mass_off_the_label_by_hand():
    logits = np.log([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]])
    labels = np.array([0, 2])
    assert off_label_mass(logits, labels) == pytest.approx((30 + 50) / 2)
    roots = np.sqrt([0.7, 0.2, 0.1]), np.sqrt([0.25, 0.25, 0.5])
    shares = [100 * (1 - roots[0][0] / roots[0].sum()), 100 * (1 - roots[1][2] / roots[1].sum())]
    assert off_label_mass(logits, labels, temperature=2.0) == pytest.approx(np.mean(shares))


def test_a_target_that_is_nearly_the_label_keeps_its_digits():
    assert off_label_mass(np.array([[60.0, 0.0, 0.0]]), np.array([0])) == pytest.approx(200 * np.exp(-60.0))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_entropy_is_scipys(temperature):
    expected = stats.entropy(special.softmax(LOGITS / temperature, axis=1), axis=1).mean()
    assert mean_entropy(LOGITS, temperature) == pytest.approx(expected)
    assert mean_entropy(np.full((3, 5), 2.0), temperature) == pytest.approx(np.log(5))
    assert mean_entropy(np.array([[2000.0, 0.0]])) == 0.0


def test_correlation_leaves_out_the_label_and_each_images_scale():
    one = np.array([[9.0, 1.0, 2.0, 3.0], [1.0, 2.0, -5.0, 3.0]])
    two = np.array([[0.0, 12.0, 14.0, 16.0], [6.0, 4.0, 50.0, 2.0]])
    assert non_target_correlation(one, two, np.array([0, 2])) == pytest.approx((1 - 1) / 2)
    assert non_target_correlation(one[:1], two[:1], np.array([0])) == pytest.approx(1.0)


def test_correlation_is_scipys():
    pairs = [(np.delete(a, label), np.delete(b, label)) for a, b, label in zip(LOGITS, OTHER, LABELS, strict=True)]
    expected = np.mean([stats.pearsonr(*pair).statistic for pair in pairs])
    assert non_target_correlation(LOGITS, OTHER, LABELS) == pytest.approx(expected)


def test_an_image_whose_wrong_classes_are_alike_has_no_correlation():
    flat = np.array([[5.0, 0.1, 0.1, 0.1], [1.0, 2.0, 3.0, 0.0]])
    other = np.array([[1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 6.0, 9.0]])
    labels = np.array([0, 3])
    assert non_target_correlation(flat, other, labels) == pytest.approx(1.0), "the second image's alone"
    assert non_target_correlation(flat[:1], other[:1], labels[:1]) is None
    assert non_target_correlation(other[:, :2], flat[:, :2], np.array([0, 1])) is None, "one wrong class has no order"


def test_the_surer_teacher_weighs_more():
    sure, even = [[50.0, 0.0]], [[1.0, 1.0]]
    assert certainty_weights(np.array([sure, even])) == pytest.approx(np.array([[1.0], [0.0]]))
    assert certainty_weights(np.array([sure, even, even])) == pytest.approx(np.array([[0.5], [0.25], [0.25]]))
    both = np.array([[[2000.0, 0.0]], [[0.0, 2000.0]]])
    assert certainty_weights(both).tolist() == [[0.5], [0.5]], "two that are certain weigh the same"


def test_weights_are_those_that_ebkd_distils_with():
    team = 3 * RANDOM.standard_normal((3, 10, 4))
    weights = certainty_weights(team)
    assert weights == pytest.approx(entropy_weights(torch.tensor(team), "normalised").numpy())
    assert weights.sum(axis=0) == pytest.approx(np.ones(10))
    by_hand = sum(weights[k, 3] * team[k, 3] for k in range(3))
    assert weighted_average(team, weights)[3] == pytest.approx(by_hand)
