"""Scores of saved logits: accuracy, likelihood, calibration, agreement (numpy only)."""

from collections.abc import Sequence

import numpy as np

from kd.tools.errors import UserError

ECE_BINS = 15


def top_k_accuracy(logits: np.ndarray, labels: np.ndarray, k: int = 1) -> float:
    """Return the share of examples, in percent, whose label is among the k largest logits.

    logits (N, C), labels (N,). Among equal logits the lower class index ranks first, as in argmax, so a
    collapsed model scores chance and not 100; k beyond C means k = C.
    """
    scores = _checked(logits, labels)
    own = scores[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(scores.shape[1])[None, :] < labels[:, None]
    rank = (scores > own).sum(axis=1) + ((scores == own) & earlier).sum(axis=1)
    return float(100 * np.mean(rank < k))


def ensemble_accuracy(logits: Sequence[np.ndarray], labels: np.ndarray) -> float:
    """Return the accuracy in percent of the mean of several networks' probabilities, from logits (N, C) of each."""
    if len(shapes := {one.shape for one in logits}) > 1:
        raise UserError(f"an ensemble needs logits of one shape for all its members, found {sorted(shapes)}")
    return top_k_accuracy(np.mean([np.exp(log_softmax(_checked(one, labels))) for one in logits], axis=0), labels)


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean negative log-likelihood of the labels, in nats; logits (N, C), labels (N,)."""
    log_probabilities = log_softmax(_checked(logits, labels))
    return float(-log_probabilities[np.arange(len(labels)), labels].mean())


def expected_calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = ECE_BINS) -> float:
    """Return the expected calibration error as a fraction of 1 (Guo et al. 2017, eq. 5).

    Equal-width bins of the top-1 confidence, open on the left and closed on the right; an empty bin weighs nothing.
    """
    log_probabilities = log_softmax(_checked(logits, labels))
    confidence = np.exp(log_probabilities.max(axis=1))
    correct = log_probabilities.argmax(axis=1) == labels
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(index, weights=correct - confidence, minlength=bins)  # (accuracy - confidence) * count
    return float(np.abs(gaps).sum() / len(labels))


def top1_agreement(logits: np.ndarray, other: np.ndarray) -> float:
    """Return the share of examples, in percent, on which two models predict the same class; both (N, C)."""
    if logits.shape != other.shape:
        raise UserError(f"agreement needs logits of one shape for both models, found {logits.shape} and {other.shape}")
    return float(100 * np.mean(_finite(logits).argmax(axis=1) == _finite(other).argmax(axis=1)))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return row-wise log-probabilities in float64 without overflow; logits (N, C)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _finite(logits: np.ndarray) -> np.ndarray:
    if logits.ndim != 2 or logits.size == 0:
        raise UserError(f"logits must be a filled (examples, classes) array, found shape {logits.shape}")
    scores = logits.astype(np.float64)
    if not np.isfinite(scores).all():  # comparisons with NaN are false, which would rank every label first
        bad = int((~np.isfinite(scores)).any(axis=1).sum())
        raise UserError(f"logits must be finite, found NaN or infinity in {bad} of {len(scores)} examples")
    return scores


def _checked(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    scores = _finite(logits)
    if labels.shape != scores.shape[:1]:
        raise UserError(f"labels must be one a row of logits {scores.shape}, found shape {labels.shape}")
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise UserError(
            f"labels must lie in 0..{scores.shape[1] - 1}, found values from {labels.min()} to {labels.max()}"
        )
    return scores
