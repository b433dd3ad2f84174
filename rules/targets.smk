# What a user asks for by name, and how it is told that there is no such thing.


def asked_for() -> list[str]:
    """Return the targets and files that the user named; there are settings only once all rules are known."""
    settings = workflow.dag_settings
    return sorted({*settings.targets, *settings.forcerun, *settings.until}) if STARTED and settings else []


def is_named(job: JobPlan) -> bool:
    """Whether the user named a file in a job's own folder, which is then made if it is not there."""
    named = [os.path.relpath(target) for target in asked_for()]
    return job.folder != FOLDER and any(target.startswith(f"{job.folder}/") for target in named)


@cache
def targets() -> Targets:
    """Return what can be asked for."""
    free = [rule.name for rule in workflow.rules if not rule.has_wildcards()]
    return Targets(JOBS, free, [str(file) for rule in workflow.rules for file in rule.output])


@cache
def refuse_what_is_not_planned() -> None:
    """Refuse files of runs that the experiment does not have, for which rules would do."""
    for target in asked_for():
        if not workflow.is_rule(target) and (sentence := targets().not_planned(target)):
            refuse(sentence)


REFUSED: list[str] = []
"""The sentence that is said in place of Snakemake's own, which name rules and places in this file."""


def refuse(sentence: str):
    """End the workflow with one sentence, before anything runs."""
    REFUSED.append(sentence)
    raise WorkflowError(sentence)


def in_plain_words(record) -> bool:
    """Let Snakemake say why it cannot have a target, in place of what came of looking for its rule."""
    error = getattr(record, "exception", None)
    if error == "InputFunctionException":
        record.msg = REFUSED[0] if REFUSED else record.msg
    if error == "MissingRuleException":
        files = [target for target in asked_for() if not workflow.is_rule(target)]
        missing = record.msg.partition(" produce ")[2].partition(" (if ")[0]
        said = [targets().not_planned(file) for file in files]
        said += [targets().no_such(file) for file in files if missing in {file, os.path.relpath(file)}]
        record.msg = next(filter(None, said), record.msg)
    return True


logger.addFilter(in_plain_words)
