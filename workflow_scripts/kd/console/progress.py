"""Progress of a training: a bar on a terminal, a plain line now and then elsewhere and in the log files."""

import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tqdm import tqdm

from kd.console.entry import BARRED

log = logging.getLogger("kd")

LINES = 10  # plain lines a training leaves, about


class Progress:
    """One bar for a job's epochs; hidden where stderr is no terminal, where the lines of its log tell instead."""

    def __init__(self, epochs: int, title: str) -> None:
        self.epochs = epochs
        self.bar = tqdm(total=epochs, desc=title, unit="epoch", disable=None, leave=False)
        self._every = max(1, epochs // LINES)
        self._told = time.perf_counter()

    def __call__(self, row: dict[str, Any]) -> None:
        """Take note of a finished epoch."""
        self.bar.update(row["epoch"] - self.bar.n if not self.bar.disable else 0)
        shown = {
            key: value for key, value in row.items() if key.startswith(("train_loss", "val_top1")) and value is not None
        }
        text = ", ".join(f"{key} {value:.4g}" for key, value in shown.items())
        self.bar.set_postfix_str(text)
        due = row["epoch"] % self._every == 0 or row["epoch"] >= self.epochs
        if due or time.perf_counter() - self._told > 60:
            only_files = {} if self.bar.disable else {BARRED: True}
            log.info("epoch %d/%d: %s (%.1f s)", row["epoch"], self.epochs, text, row["seconds"], extra=only_files)
            self._told = time.perf_counter()

    def __enter__(self) -> Callable[[dict[str, Any]], None]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()
