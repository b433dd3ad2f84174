"""runs.csv, read back with the types it was written with."""

from pathlib import Path
from typing import TYPE_CHECKING

from kd.analysis.collect import COLUMNS, IDENTITY
from kd.spec.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

TEXT = {*IDENTITY, "status", "reason", "teacher_test_top1", "device", "path"} - {"seed"}
TEACHER = "teacher"  # the method of a teacher's own row


def read_runs(path: str | Path) -> "pd.DataFrame":
    """Return runs.csv as a frame; numbers that are not known are NaN, texts that are not known are ''."""
    import pandas as pd

    try:
        # Only an empty field means unknown: a method may well be called "nan" or "007".
        frame = pd.read_csv(path, dtype=dict.fromkeys(TEXT, str), keep_default_na=False, na_values=[""])
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{path} is not a table of runs: {error}") from error
    absent = [column for column in COLUMNS if column not in frame]
    if absent:
        raise UserError(f"{path} lacks the columns {', '.join(absent)}")
    frame = frame.fillna(dict.fromkeys(TEXT, ""))
    numbers = [column for column in COLUMNS if column not in TEXT and column != "seed"]
    return frame.astype(dict.fromkeys(numbers, "float64"))
