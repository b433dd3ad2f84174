"""Records of finished jobs and reasons of failed ones, as `kd.console.entry.run` leaves them."""

from pathlib import Path

from kd.study.job_plan import JobPlan
from kd.study.made import Note, begin, fail, finish, manifest_digest

ASKED = "asked"


def step(folder, rule) -> dict[str, str | None]:
    """What the tables are told of a job: where its record is, and the identity that it must have."""
    folder = Path(folder)
    return {"folder": str(folder), "record": str(folder / "made" / f"{rule}.json"), "identity": ASKED, "data": None}


def finished(folder, *rules, identity=ASKED) -> None:
    for rule in rules:
        finish(Note(Path(step(folder, rule)["record"]), identity), None)


def failed(folder, rule, reason, identity=ASKED) -> None:
    fail(Note(Path(step(folder, rule)["record"]), identity), rule, reason)


def note_of(job: JobPlan) -> Note:
    return Note(Path(job.record), job.identity)


def end(job: JobPlan) -> None:
    begin(note_of(job), job.rule)
    finish(note_of(job), None if job.data is None else manifest_digest(job.data))


def step_of(job: JobPlan) -> dict:
    return {"folder": job.folder, "record": job.record, "identity": job.identity, "data": job.data}
