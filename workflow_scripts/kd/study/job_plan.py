"""One job of an experiment as one thing: what it is told, what it reads, what it was made from.

Rules, dry runs, records and tests read it here; kd.study.jobs says what the jobs of each rule are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from kd.study.digests import canonical, text_digest
from kd.study.resources import Work
from kd.study.user_files import APART

Files = Mapping[str, str | list[str]]


@dataclass(frozen=True, eq=False)
class JobPlan:
    """One job: a rule with all its wildcards filled in."""

    rule: str
    folder: str
    """Where it writes."""
    settings: str
    """What it is told, as one canonical text: validated, defaults filled in, nothing else."""
    code: str
    """Digest of the code that computes its result."""
    inputs: Files = field(default_factory=dict)
    """Files that it reads, by the names of its arguments."""
    after: tuple["JobPlan", ...] = ()
    """The jobs whose results it reads."""
    given: tuple[str, ...] = ()
    """What the user's own files were that it starts from: they are no job's result."""
    look: Callable[[], None] = lambda: None
    """Refuses to begin without them: a UserError."""
    contents: str | None = None
    """Packing only: digest of names, sizes and times of what is packed; None where that is not there to be looked at.
    It stands beside the identity, for a download is there only after the job; what depends on the images is compared
    with the packed arrays' manifest."""
    data: str | None = None
    """The folder of packed arrays that it reads."""
    work: Work | None = None
    """What it may take, no part of what its result is made from; None: so little that nobody is asked for it."""
    title: str = ""
    """What a person reads of it."""
    parts: tuple["JobPlan", ...] = ()
    """The jobs that it does in one process, each of which keeps a record of its own; mostly none."""

    @cached_property
    def identity(self) -> str:
        """Return the digest of everything that decides its result but the images themselves.

        The digests of the user's own files stand behind it one by one, to be read back where those files are gone.
        """
        before = [job.identity for job in self.after]
        return APART.join([text_digest(canonical([self.rule, self.settings, self.code, before])), *self.given])

    @property
    def record(self) -> str:
        """Return the file in which a finished job says what it was made from."""
        return record_in(self.folder, self.rule)


def all_before(job: JobPlan, found: dict[JobPlan, None] | None = None) -> dict[JobPlan, None]:
    """Return every job before one, each once, the farthest first."""
    found = {} if found is None else found
    for one in job.after:
        if one not in found:
            all_before(one, found)
            found[one] = None
    return found


def record_in(folder: str, rule: str) -> str:
    """Return where a job of a rule keeps its record."""
    return f"{folder}/made/{rule}.json"
