"""What saved logits say beyond one accuracy: class by class, what is mistaken for what, how far confidence is right."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kd.analysis.metrics import ECE_BINS, expected_calibration_error, log_softmax, negative_log_likelihood

TEMPERATURES = (0.05, 20.0)
"""Between which one is fitted."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The saved answers of one network."""

    logits_val: np.ndarray
    """(images, classes)"""
    labels_val: np.ndarray
    logits_test: np.ndarray
    labels_test: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A class that is answered in the place of another one; both by their labels."""

    true: int
    answered: int
    share: float
    """Percent of the true class's images."""


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Confidence and accuracy in bins of equal width of the confidence, over all seeds' test images."""

    images: list[int]
    confidence: list[float | None]
    """Mean of each bin, None of an empty one."""
    accuracy: list[float | None]
    """As a fraction of 1."""
    error: float
    """Expected calibration error, mean over seeds, as a fraction of 1."""


def confusion(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return how many images of each class (rows) were answered with each (columns); (classes, classes) int64."""
    classes = logits.shape[1]
    pairs = labels.astype(np.int64) * classes + logits.argmax(axis=1)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def accuracy_by_class(counts: np.ndarray) -> list[float | None]:
    """Return the accuracy of each class in percent, None of one without images; from `confusion`."""
    images = counts.sum(axis=1)
    return [
        100 * float(right) / int(all_) if all_ else None for right, all_ in zip(counts.diagonal(), images, strict=True)
    ]


def mistakes(counts: np.ndarray, most: int) -> list[Mistake]:
    """Return the most frequent mistakes, as shares of the true class, those of lower labels first among equals."""
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(shares, 0.0)
    order = np.argsort(-shares, axis=None, kind="stable")[:most]
    places = np.column_stack(np.unravel_index(order, shares.shape))
    return [
        Mistake(true=int(true), answered=int(answered), share=round(float(shares[true, answered]), 4))
        for true, answered in places
        if shares[true, answered] > 0
    ]


def fitted_temperature(logits: np.ndarray, labels: np.ndarray) -> float | None:
    """Return the temperature that makes the labels likeliest (Guo et al. 2017, section 4.2); None without images.

    The likelihood has one maximum over the temperature; one beyond TEMPERATURES ends at their nearer end.
    """
    if not len(labels):
        return None
    from scipy.optimize import minimize_scalar

    scores = logits.astype(np.float64)
    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(lambda log: negative_log_likelihood(scores / np.exp(log), labels), bounds=(low, high))
    return float(np.exp(found.x))


def reliability(seeds: Sequence[tuple[np.ndarray, np.ndarray]], bins: int = ECE_BINS) -> Reliability:
    """Return how confidence and accuracy go together on the (logits, labels) of each seed, in the bins of the ECE."""
    images, confident, right = np.zeros(bins, np.int64), np.zeros(bins), np.zeros(bins)
    for logits, labels in seeds:
        log_probabilities = log_softmax(logits.astype(np.float64))
        confidence = np.exp(log_probabilities.max(axis=1))
        place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
        images += np.bincount(place, minlength=bins)
        confident += np.bincount(place, weights=confidence, minlength=bins)
        right += np.bincount(place, weights=log_probabilities.argmax(axis=1) == labels, minlength=bins)

    def means(sums: np.ndarray) -> list[float | None]:
        return [round(float(value) / int(n), 6) if n else None for value, n in zip(sums, images, strict=True)]

    error = float(np.mean([expected_calibration_error(logits, labels, bins) for logits, labels in seeds]))
    return Reliability(images=images.tolist(), confidence=means(confident), accuracy=means(right), error=error)
