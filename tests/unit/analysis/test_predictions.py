"""Predictions that another job left: read whole, or refused with the file's name."""

import random

import numpy as np
import pytest
from flips import read_flipped

from kd.analysis.predictions import saved_logits
from kd.tools.errors import UserError


@pytest.fixture
def predictions(tmp_path):
    path = tmp_path / "predictions.npz"
    logits = np.random.default_rng(0).normal(size=(40, 10)).astype(np.float32)
    np.savez_compressed(path, logits_test_best=logits, labels_test=np.arange(40))
    return path, logits


def test_flipped_bits_of_predictions_are_noticed_or_change_nothing(predictions):
    path, logits = predictions
    whole, draws = path.read_bytes(), random.Random(0)
    noticed = 0
    for position in draws.sample(range(8 * len(whole)), 100):
        read = lambda: saved_logits(path, "logits_test_best")  # noqa: E731
        found, refusal = read_flipped(path, whole, position, read)
        if refusal:
            assert refusal.startswith(str(path))
            noticed += 1
        else:
            assert np.array_equal(found, logits)  # a date in the archive's list of contents, say
    assert noticed > 80


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive"], ids=["empty", "cut", "text"])
def test_a_file_that_holds_no_predictions(predictions, content):
    path, _ = predictions
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"predictions\.npz cannot be read as predictions .*: delete it and run again"):
        saved_logits(path, "logits_test_best")
