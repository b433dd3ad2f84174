"""What an experiment trains, and who teaches it: said here once, for settings, inputs, measurements and rows alike."""

from dataclasses import dataclass

NO_TEACHER = "none"


@dataclass(frozen=True)
class Run:
    """One trained student: a wildcard combination of the workflow."""

    dataset: str
    teachers: tuple[str, ...]
    """The pair's, who stand at the beginning; a link of a chain of runs is taught by the link before it."""
    student: str
    method: str
    seed: int

    @property
    def team(self) -> str:
        """Return 'teacher+teacher--student'."""
        return f"{'+'.join(self.teachers) or NO_TEACHER}--{self.student}"

    @property
    def path(self) -> str:
        """Return the run's folder below the experiment's."""
        return f"{self.dataset}/{self.team}/{self.method}/seed{self.seed}"


@dataclass(frozen=True)
class Teacher:
    """A trained network that teaches: a teacher of a pair, or the student of an earlier run."""

    network: str
    dataset: str
    """What it learned from."""
    seed: int
    """Its own."""
    run: Run | None = None
    """The run whose student it is; None: rule train_teacher trains it."""

    @property
    def path(self) -> str:
        """Return the folder of its weights and predictions below the experiment's."""
        return self.run.path if self.run else f"{self.dataset}/teachers/{self.network}/seed{self.seed}"


@dataclass(frozen=True)
class Taught:
    """The networks of one training: what learns, if there is a student yet, and who teaches it, in order."""

    student: str | None
    teachers: tuple[Teacher, ...] = ()

    @property
    def networks(self) -> tuple[str, ...]:
        """Return the names of all of them, the student's first."""
        return (*([self.student] if self.student else []), *(teacher.network for teacher in self.teachers))
