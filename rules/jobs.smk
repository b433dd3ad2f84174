# What rules have in common: what their jobs read and are told, what they take, and which of them are made again.
# kd.study.jobs has one function a rule, of the rule's name, that says it for the wildcards.

# Results say themselves what they were made from (kd.study.made), so that they are judged alike where Snakemake's notes
# are lost, where results were copied, and where another rule makes the same. A job whose result was made from something
# else than is asked has this file as an input that is newer; for any other one it is ancient, no reason to run.
OTHERWISE = ".snakemake/kd/settings_code_or_data_changed"
CHECKED = f"{FOLDER}/checked.json"

if STARTED:
    # other text each time, or Snakemake would find the input unchanged
    atomic_write(OTHERWISE, secrets.token_hex(8))
    # the files of results are read through once, and again only if they are others
    SEEN.keep_in(f".snakemake/kd/seen_{EXPERIMENT.experiment}.json")


@cache
def leave_comparing_to_us() -> None:
    """Spare Snakemake its own comparisons of commands, parameters and sets of inputs, unless a user asks for them.

    Settings are there from the first question of an input function on, before anything is compared.
    """
    settings = workflow.dag_settings
    if set(settings.rerun_triggers) == set(RerunTrigger.all()):
        settings.rerun_triggers = frozenset({RerunTrigger.MTIME})
    # an output that was cut off has no record: it is made again, and there is nothing to ask the user
    settings.force_incomplete = True


def job_of(rule: str, wildcards, which: dict) -> JobPlan:
    """Return the job of a rule for its wildcards; `which` names what its files have no wildcard for."""
    return JOBS.named(rule, {**wildcards, **which})


def reads(rule: str, fresh: bool = True, which: dict = {}, **more):
    """Return the input function of a rule: the files of its job, and what makes it run again (or not `fresh`)."""

    def inputs(wildcards) -> dict:
        leave_comparing_to_us()
        refuse_what_is_not_planned()
        job = job_of(rule, wildcards, which)
        return {**there(job), **more, "asked": judged(job, fresh), "checked": checked(job)}

    return unpack(inputs)


def there(job: JobPlan) -> dict:
    """Return a job's files; a finished one does not miss the user's own weights that it started from."""
    found = dict(job.inputs)
    if found.get("initial") and stays(job):
        found["initial"] = [file for file in found["initial"] if Path(file).exists()]
    return found


def judged(job: JobPlan, fresh: bool):
    """Return the input that makes a job run if its result is not what is asked (or not `fresh` for another reason)."""
    again = not (fresh and stays(job))
    if STARTED and (again or (is_named(job) and is_due(job))):
        try:
            look_for_files(job)
        except UserError as error:
            refuse(str(error))
    if not STARTED or not again:
        return ancient(OTHERWISE)
    bring_to_the_present(job)
    return OTHERWISE


def checked(job: JobPlan) -> list[str]:
    """Return what a training waits for: that all networks and methods of the experiment fit.

    Only where it is to run: a finished one must not run again because the check does, and an ancient input is no way
    to say so, for Snakemake then overlooks the job's own reasons to run.
    """
    return [CHECKED] if STARTED and job.rule in TRAININGS and is_due(job) else []


def file_of(text: str) -> str:
    """Return the file of a text; a dry run names it and writes none."""
    return text_file(text, not workflow.dryrun)


def told(rule: str, as_file: bool = True, which: dict = {}) -> dict:
    """Return what the command of a rule is told; its settings in a file, for they may be longer than an argument."""

    def param(say):
        return lambda wildcards: say(job_of(rule, wildcards, which))

    return {
        "settings": param(lambda job: file_of(job.settings) if as_file else job.settings),
        "code": param(lambda job: job.code),
        "out": param(lambda job: job.folder),
        "made": param(lambda job: [job.record, job.identity, job.code, job.title]),
    }


def work(rule: str, which: dict = {}) -> dict:
    """Return the resource functions of a rule: minutes and MB grow with the work and with each attempt."""

    def asked(wildcards, attempt):
        return job_of(rule, wildcards, which).work.at(attempt)

    return {
        "runtime": lambda wildcards, attempt: asked(wildcards, attempt).minutes,
        "mem_mb": lambda wildcards, attempt: asked(wildcards, attempt).mem_mb,
    }


TRAINED = {
    "best": "checkpoints/best.safetensors",
    "last": "checkpoints/last.safetensors",
    "metrics": "metrics.csv",
    "run": "run.json",
}


def trained(folder: str) -> dict:
    """Return the files that a training leaves in its folder."""
    return {name: f"{folder}/{file}" for name, file in TRAINED.items()}


PLACES = {
    **{name: f"params.{name}:q" for name in ("settings", "code", "out", "experiment", "report")},
    "gpus": "resources.gpu",
    "threads": "threads",
}


def command(script: str, arguments: str, **places: str) -> str:
    """Return the command of a rule: a script and the names of its arguments.

    Each is the input of its name unless PLACES or `places` say otherwise; every script also records what it made.
    """
    found = {**PLACES, **places}
    words = [f"--{name} {{{found.get(name, f'input.{name}:q')}}}" for name in arguments.split()]
    words += ["--made {params.made:q}", "--results {output:q}", "--log {log:q}"]
    return " ".join([f'python "$SCRIPTS/{script}.py"', *words])


def experiment_file(_) -> str:
    """Return the file of the checked experiment, as tables and pages show it."""
    return file_of(canonical(reports.shown(PLAN)))


def misfits() -> list[str]:
    """Return what the check found not to fit, line by line, if that is why there are no results."""
    job = JOBS.of("check_pairs")
    refused = reason_of({"record": job.record, "identity": job.identity}) and Path(CHECK_LOG).is_file()
    lines = Path(CHECK_LOG).read_text(encoding="utf-8", errors="replace").splitlines() if refused else []
    return [line for line in lines if " ERROR " in line]


# Targets of who asks for the whole of an experiment, by no name or by one.
ANSWERING = {workflow.modifier.modify_rulename(name) for name in ("all", "tables", "page", "continual_report")}


def found_out() -> list[str]:
    """Return the answer and where the page lies, as long as they are of what is asked, and it was asked for."""
    targets = set(workflow.dag_settings.targets)
    if targets and not targets & ANSWERING:
        return []
    answer, courses = Path(FOLDER, "tables", "answer.md"), Path(FOLDER, "tables", "continual.md")
    found = []
    if PLAN.runs and answer.is_file() and is_there(JOBS.of("tables")):
        found += layout.in_terminal(answer.read_text(encoding="utf-8"), f"{FOLDER}/report.html")
    if PLAN.continual.runs and courses.is_file() and is_there(JOBS.of("continual_report")):
        found += layout.courses_in_terminal(courses.read_text(encoding="utf-8"))
    return found


def is_there(job: JobPlan) -> bool:
    """Whether a job's result was made from what is asked, by what lies there now."""
    return is_as_asked({"record": job.record, "identity": job.identity, "data": job.data})
