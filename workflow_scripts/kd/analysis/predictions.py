"""Saved answers of networks, read back."""

from pathlib import Path

import numpy as np

from kd.tools.errors import UserError
from kd.tools.files import check_zip


def saved_logits(path: Path, name: str) -> np.ndarray:
    """Return an array (examples, classes) of a predictions.npz; a file that does not hold it whole is a UserError."""
    if not path.exists():
        raise UserError(f"{path} does not exist")
    check_zip(path)
    try:
        logits = np.load(path, allow_pickle=False)[name]
        kind, axes = logits.dtype.kind, logits.ndim
    except Exception as error:  # numpy and zipfile raise almost anything for a file that is none of theirs
        # numpy's own words for what is no archive of arrays advise to unpickle it
        reason = "it holds no plain arrays" if "pickle" in str(error) else " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as predictions ({reason}): delete it and run again") from error
    if kind != "f" or axes != 2:
        raise UserError(f"{path} is damaged: {name} holds {logits.dtype} of shape {logits.shape}, not logits")
    return logits
