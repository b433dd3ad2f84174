"""Snakemake's lines in the words of an experiment: who teaches whom, why, and how much time is left."""

import logging
import re
from collections.abc import Callable, Mapping

Words = Callable[[int], str]

HEAD = re.compile(r"(?:local)?rule \w+:|Error in rule \w+:")
LONGEST = 200
"""Characters of a reason."""
LISTS = ("    input:", "    output:")
"""Of files, a kilobyte each."""


class Wording(logging.Formatter):
    """Another formatter's lines of jobs and of progress, with more to read in them and fewer lists of files.

    Everything else, and everything where somebody asks Snakemake to be verbose, is as it is.
    """

    def __init__(
        self,
        plain: logging.Formatter,
        titles: Mapping[int, str],
        reasons: Words,
        progress: Callable[[], str],
        short: bool,
    ) -> None:
        super().__init__()
        self.plain, self.titles, self.reasons, self.progress, self.short = plain, titles, reasons, progress, short

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        text = self.plain.format(record)
        event = getattr(getattr(record, "event", None), "name", "")
        if event == "PROGRESS":
            return text + self.progress()
        return self._job(text, getattr(record, "jobid", -1)) if event in ("JOB_INFO", "JOB_ERROR") else text

    def _job(self, text: str, number: int) -> str:
        """Return the lines of a job with its title, and with our reason in place of Snakemake's."""
        lines, title = [], self.titles.get(number)
        for line in text.split("\n"):
            if title is not None and HEAD.fullmatch(line.strip()):
                lines.append(f"{line} {title}")
            elif line.startswith("    reason:"):
                reason = self.reasons(number) or line.removeprefix("    reason: ")
                lines.append(f"    reason: {shortened(reason)}")
            elif not (self.short and line.startswith((*LISTS, "    wildcards:"))):
                lines.append(line)
        return "\n".join(lines)


def shortened(text: str) -> str:
    """Return a text in one line that is no longer than may be."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."
