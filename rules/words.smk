# What a person reads: before the first job, beside each of them, and at the end (kd.console).
from snakemake.common import NOTHING_TO_BE_DONE_MSG
from snakemake.settings.enums import Quietness

from kd.console.watch import Ahead, Room, Watch
from kd.console.wording import Wording
from kd.reporting.text import quantity
from kd.study.failures import all_jobs, failures
from kd.study.forecast import Forecast
from kd.study.reasons import reason_for
from kd.tools.machine import cpu_name

# By Snakemake's name of a rule, which differs where this workflow is a module of another one: ours.
NAMES = {workflow.modifier.modify_rulename(name): (name, {}) for name in RULES} | {
    workflow.modifier.modify_rulename(name): ("train_students", which) for name, which in SIDE_BY_SIDE.items()
}

# What each digest of code was of at earlier starts, to name the files that changed since.
SOURCES = f".snakemake/kd/sources_{EXPERIMENT.experiment}.json"

WATCHES: list[Watch] = []
"""Of this start, once Snakemake knows which jobs are to run."""


def plan_of(job) -> JobPlan | None:
    """Return what the experiment knows of one of Snakemake's jobs; None of another workflow's, and of targets."""
    name, which = NAMES.get(job.rule.name, (None, {}))
    return None if name is None else job_of(name, job.wildcards_dict, which)


def watch() -> Watch:
    """Return what follows the jobs that Snakemake has found to be run."""
    dag = workflow.dag
    found = {
        dag.jobid(job): Ahead(plan_of(job), [dag.jobid(before) for before in dag.dependencies[job]])
        for job in dag.needrun_jobs()
    }
    order = {job: place for place, job in enumerate(all_jobs(JOBS))}
    # students side by side stand where the first of them does
    first = {number: one.plan and (*one.plan.parts, one.plan)[0] for number, one in found.items()}
    ahead = {number: found[number] for number in sorted(found, key=lambda number: order.get(first[number], len(order)))}
    settings = workflow.resource_settings
    on_cpu = cpu_name() if LOCAL and not GPUS else None
    forecast = Forecast(JOBS, on_cpu)
    for run in all_jobs(JOBS):
        if not is_due(run):
            forecast.finished(run)
    room = Room(settings.cores, gpus=workflow.global_resources.get("gpu") if GPUS else None)
    sources, now = read_record(SOURCES) or {}, JOBS.sources()
    reasons = {number: reason_for(one.plan, sources, now) for number, one in ahead.items() if one.plan is not None}
    if not workflow.dryrun:
        write_json(SOURCES, {**sources, **now})
    return Watch(forecast, room if LOCAL else Room(None, settings.nodes), quantity, ahead, reasons)


def say(lines, quietness=None) -> None:
    """Write lines as Snakemake writes its own; who asked for quiet about such is spared them."""
    for line in lines:
        logger.info(line, extra={} if quietness is None else {"quietness": quietness})


class Following(logging.Handler):
    """Follows what Snakemake says, and says more once that is written: it is the last of the logger's handlers."""

    def emit(self, record: logging.LogRecord) -> None:
        """Take note of what happened. An error in here is shown, and stops no workflow."""
        try:
            event = getattr(getattr(record, "event", None), "name", "")
            if event == "RUN_INFO" and not WATCHES:
                WATCHES.append(watch())
                put_in_words(WATCHES[0])
                say(WATCHES[0].first_words(), Quietness.PROGRESS)
            elif record.msg == NOTHING_TO_BE_DONE_MSG and not workflow.dryrun:
                say([*found_out(), *failed()])
            elif WATCHES and not workflow.dryrun:
                follow(WATCHES[0], event, record)
        except Exception:
            self.handleError(record)


def put_in_words(seen: Watch) -> None:
    """Let Snakemake's lines of jobs say who teaches whom, and why, and those of progress how long it takes."""
    titles = {number: one.plan.title for number, one in seen.ahead.items() if one.plan is not None}
    for handler in logger.handlers if not workflow.output_settings.verbose else ():
        if isinstance(handler.formatter, DefaultFormatter):
            reason = lambda number: seen.reasons[number].text if number in seen.reasons else ""
            handler.setFormatter(Wording(handler.formatter, titles, reason, seen.progress, not workflow.dryrun))


def follow(seen: Watch, event: str, record: logging.LogRecord) -> None:
    """Take note of a job that begins or ends."""
    if event == "JOB_STARTED":
        seen.started(record.jobs)
    elif event == "JOB_FINISHED":
        seen.finished(record.job_id)
    elif event == "JOB_ERROR":
        seen.fails(record.jobid, record.log)
    elif event == "PROGRESS" and (better := seen.better_estimate()):
        say([better], Quietness.PROGRESS)


def failed() -> list[str]:
    """Return which runs have no result, why, and where their logs lie: those of this start, and earlier ones."""
    logs = {}
    for seen in WATCHES:
        logs |= {seen.ahead[number].plan: log for number, log in seen.failed.items() if number in seen.ahead}
    return failures(JOBS, {job: log for job, log in logs.items() if job is not None})


if STARTED:
    logger.addHandler(Following())
