"""The classification loss that a batch gives every method: smoothed and mixed as the recipe says."""

import numpy as np
import pytest
import torch

from kd.methods.contract import Batch

CLASSES = 5
OWN, OTHER = np.array([0, 3, 4, 1]), np.array([3, 3, 0, 2])
LOGITS = 3 * np.random.default_rng(0).normal(size=(len(OWN), CLASSES))


def soft_cross_entropies(target):
    """Return the cross-entropy of every image to target probabilities (B,C)."""
    shifted = LOGITS - LOGITS.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return -(target * log_probabilities).sum(axis=1)


def smoothed(labels, smoothing):
    """Return one-hot labels of which a share is spread over all classes, the label's own included."""
    target = np.full((len(labels), CLASSES), smoothing / CLASSES)
    target[np.arange(len(labels)), labels] += 1 - smoothing
    return target


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mixing", [1.0, 0.3, "tensor", "each"])
def test_the_classification_loss_is_the_cross_entropy_to_smoothed_and_mixed_labels(smoothing, mixing):
    own = {"tensor": np.array(0.3), "each": np.array([0.1, 1.0, 0.5, 0.75])}.get(mixing, mixing)
    given = own if isinstance(own, float) else torch.tensor(own)
    labels, others = torch.tensor(OWN), torch.tensor(OTHER)
    batch = Batch(torch.zeros(len(OWN), 3, 2, 2), labels, torch.arange(len(OWN)), others, given, smoothing)
    share = np.broadcast_to(own, len(OWN))[:, None]
    expected = soft_cross_entropies(share * smoothed(OWN, smoothing) + (1 - share) * smoothed(OTHER, smoothing))
    found = batch.cross_entropies(torch.tensor(LOGITS))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(batch.cross_entropy(torch.tensor(LOGITS)).item(), expected.mean(), rtol=1e-12)
