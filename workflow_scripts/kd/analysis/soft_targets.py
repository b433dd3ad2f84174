"""What targets for a student hold beside the label: entropy, mass, order of the other classes (numpy only)."""

import numpy as np

from kd.analysis.metrics import log_softmax


def mean_entropy(logits: np.ndarray, temperature: float = 1.0) -> float:
    """Return the mean entropy of softmax(logits / temperature), in nats; logits (N, C)."""
    logs = log_softmax(logits.astype(np.float64) / temperature)
    return float(-(np.exp(logs) * logs).sum(axis=1).mean())


def off_label_mass(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Return the mean probability, in percent, that softmax(logits / temperature) gives to classes not the label's.

    logits (N, C), labels (N,). It is what such a target tells a student beyond the label.
    """
    others = np.exp(log_softmax(logits.astype(np.float64) / temperature))
    others[np.arange(len(labels)), labels] = 0.0  # 1 - p would lose the digits of a target that is nearly a label
    return float(100 * others.sum(axis=1).mean())


def non_target_correlation(logits: np.ndarray, other: np.ndarray, labels: np.ndarray) -> float | None:
    """Return the mean over images of the correlation of two models' logits of the classes that are not the label's.

    logits, other (N, C), labels (N,). Pearson's: each image's logits are centred and scaled, so that it tells whether
    both order the wrong classes alike, whatever their temperatures. An image whose logits are all equal has none; None
    where no image has one, as with two classes.
    """
    kept = np.arange(logits.shape[1])[None, :] != labels[:, None]
    one, two = (_centred(scores.astype(np.float64)[kept].reshape(len(labels), -1)) for scores in (logits, other))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    known = lengths > 0
    if not known.any():
        return None
    return float(((one * two).sum(axis=1)[known] / lengths[known]).mean())


def _centred(scores: np.ndarray) -> np.ndarray:
    # the mean of equal numbers may differ from them in the last digit, which is no order
    flat = scores.max(axis=1, keepdims=True, initial=-np.inf) == scores.min(axis=1, keepdims=True, initial=np.inf)
    return np.where(flat, 0.0, scores - scores.mean(axis=1, keepdims=True)) if scores.shape[1] else scores


def certainty_weights(logits: np.ndarray) -> np.ndarray:
    """Return the weight of each of several teachers on each image, (K, N) that add up to one, for logits (K, N, C).

    The surer the heavier: (1 - H_k / sum of H) / (K - 1) with H the entropy at temperature 1 (Kwon et al. 2020), even
    shares where every teacher is certain.
    """
    count = len(logits)
    assert count > 1, "one teacher has no weight"
    logs = np.stack([log_softmax(one.astype(np.float64)) for one in logits])
    entropies = -(np.exp(logs) * logs).sum(axis=2)
    total = entropies.sum(axis=0)
    shares = np.divide(entropies, total, out=np.full_like(entropies, 1 / count), where=total > 0)
    return (1 - shares) / (count - 1)


def weighted_average(logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted mean of several teachers' logits, (N, C), from logits (K, N, C) and weights (K, N)."""
    mean: np.ndarray = (weights[:, :, None] * logits.astype(np.float64)).sum(axis=0)
    return mean
