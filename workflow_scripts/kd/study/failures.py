"""Which jobs of an experiment were tried and have no result: what each left as its reason, and where its log is."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from kd.study.job_plan import JobPlan, all_before
from kd.study.jobs.making import Jobs
from kd.study.made import FAILURE, INTERRUPTED, read_record
from kd.tools.memo import remembered

MOST = 20
"""Failed jobs that are listed."""
LONGEST = 200
"""Characters of a reason."""
MISSING = "The same command tries them again; with --config allow_missing=true tables are made of what there is."


@remembered
def all_jobs(jobs: Jobs) -> list[JobPlan]:
    """Return every job that runs of the experiment consist of, in an order in which they can be done."""
    plan = jobs.plan
    ends = [*map(jobs.evaluated, plan.teachers), *(jobs.of("evaluate", run) for run in plan.runs)]
    ends += [jobs.of("continual_matrix", run) for run in plan.continual.runs]
    found: dict[JobPlan, None] = {}
    for end in ends:
        all_before(end, found)
        found[end] = None
    return list(found)


def failures(jobs: Jobs, logs: Mapping[JobPlan, Sequence[str]]) -> list[str]:
    """Return lines that list what failed; `logs` are those of the jobs that failed in this start."""
    tried = [part for job in logs for part in job.parts or [job]]
    found = [(job, told) for job in dict.fromkeys([*all_jobs(jobs), *tried]) if (told := _failure(jobs, job))]
    left = {job for job, _ in found}
    # what ended before it could say anything, such as a job that a cluster did not start
    found += [
        (job, ("it left no reason", log[-1] if log else ""))
        for job, log in logs.items()
        if not left & {job, *job.parts} and job.rule != "check_pairs"
    ]
    lines = [f"  {job.title}: {_one_line(reason)}{f' (log: {log})' if log else ''}" for job, (reason, log) in found]
    if len(lines) > MOST:
        lines = [*lines[:MOST], f"  and {len(lines) - MOST} more"]
    return [f"{len(found)} failed:", *lines, *([] if jobs.asked.allow_missing else [MISSING])] if lines else []


def _failure(jobs: Jobs, job: JobPlan) -> tuple[str, str] | None:
    """Return a job's reason and its log; None for one that did not fail, was not tried or only interrupted."""
    found = read_record(Path(job.record).with_suffix(FAILURE))
    if found is not None and found.get("identity") == job.identity and found.get("reason") != INTERRUPTED:
        return str(found.get("reason") or "no reason was recorded"), str(found.get("log") or "")
    if job.rule != "train_student" or not jobs.plan.experiment.co_train:
        return None
    # of students side by side, those that diverge end alone: their job goes well
    run, record = read_record(Path(job.folder, "run.json")), read_record(job.record)
    if run is None or run.get("status") != "failed" or (record or {}).get("identity") != job.identity:
        return None
    return str(run.get("reason") or "no reason was recorded"), f"{job.folder}/train.log"


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."
