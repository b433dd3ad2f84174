# Which job the wildcards of a rule name (kd.study.jobplan says what each job is).


def run_of(wildcards, method: str | None = None) -> Run:
    """Return the run that a rule's wildcards name, or that of another method of the same team and seed."""
    teachers, _, student = wildcards.team.rpartition("--")
    names = () if teachers == "none" else tuple(teachers.split("+"))
    return Run(wildcards.dataset, names, student, method or wildcards.method, int(wildcards.seed))


def companions(wildcards) -> list[Run]:
    """Return the runs of a team and seed that are trained side by side."""
    return [run_of(wildcards, method) for method in EXPERIMENT.co_train]


def teacher_of(wildcards) -> JobPlan:
    """Return the training of the teacher that a rule's wildcards name."""
    return JOBS.teacher(wildcards.dataset, wildcards.teacher, int(wildcards.seed))


def continual_of(wildcards) -> ContinualRun:
    """Return the class-incremental run that a rule's wildcards name."""
    return ContinualRun(wildcards.dataset, wildcards.student, wildcards.strategy, int(wildcards.seed))


@cache
def evaluations() -> list[JobPlan]:
    """Return the evaluations of all runs and teachers, or with allow_missing of those that there are as asked."""
    jobs = [JOBS.evaluation(run) for run in PLAN.runs]
    jobs += [JOBS.teacher_evaluation(*teacher) for teacher in PLAN.teachers]
    return there(jobs, "evaluation.json")


def there(jobs: list[JobPlan], file: str) -> list[JobPlan]:
    """Return all jobs, or with allow_missing those whose file there is, as it is asked."""
    if not ALLOW_MISSING:
        return jobs
    return [job for job in jobs if is_settled(job) and Path(job.folder, file).is_file()]


def packing_of(wildcards) -> JobPlan:
    """Return the packing of the data set that a rule's wildcards name."""
    return JOBS.packing(wildcards.dataset)


def measurement_of(wildcards) -> JobPlan:
    """Return the measurement of the network that a rule's wildcards name."""
    return JOBS.measurement(wildcards.dataset, wildcards.network)


def outputs_of(wildcards) -> JobPlan:
    """Return the teacher's pass over one fixed view that a rule's wildcards name."""
    return JOBS.teacher_outputs(wildcards.dataset, wildcards.teacher, int(wildcards.seed))


def pretraining_of(wildcards) -> JobPlan:
    """Return the pre-stage that a rule's wildcards name."""
    return JOBS.pretraining(wildcards.dataset, wildcards.teacher, wildcards.method, int(wildcards.seed))


def student_of(wildcards) -> JobPlan:
    """Return the training of the student that a rule's wildcards name."""
    return JOBS.student(run_of(wildcards))


def teacher_update_of(wildcards) -> JobPlan:
    """Return the teacher update that a rule's wildcards name."""
    return JOBS.half(run_of(wildcards), int(wildcards.stage), "teacher_update")


def student_update_of(wildcards) -> JobPlan:
    """Return the student update that a rule's wildcards name."""
    return JOBS.half(run_of(wildcards), int(wildcards.stage), "student_update")


def evaluation_of(wildcards) -> JobPlan:
    """Return the evaluation of the run that a rule's wildcards name."""
    return JOBS.evaluation(run_of(wildcards))


def teacher_evaluation_of(wildcards) -> JobPlan:
    """Return the evaluation of the teacher that a rule's wildcards name."""
    return JOBS.teacher_evaluation(wildcards.dataset, wildcards.teacher, int(wildcards.seed))


def single_of(wildcards) -> JobPlan:
    """Return the evaluation in mode single of the run that a rule's wildcards name."""
    return JOBS.single(run_of(wildcards), CHECKPOINT)


def synergy_of(wildcards) -> JobPlan:
    """Return the evaluation in mode synergy of the chain that a rule's wildcards name."""
    return JOBS.synergy(run_of(wildcards))


def benchmark_of(_) -> JobPlan:
    """Return the measurement of this machine's speed, which has a folder of its own."""
    return JobPlan("benchmark", "results/benchmark", BENCHMARK_OPTIONS, code_digest({"benchmark"}))


def together(wildcards) -> list[JobPlan]:
    """Return the trainings of one job: each is what it would be alone, whose record is its own."""
    return [JOBS.student(run) for run in companions(wildcards)]


def together_inputs(wildcards) -> dict:
    """Return what all of them read, each file once."""
    jobs = together(wildcards)
    lists = ("tuned", "initial", "outputs", "pretrained")
    return {
        "data": jobs[0].inputs["data"],
        "teachers": jobs[0].inputs["teachers"],
        **{name: list(dict.fromkeys(file for job in jobs for file in job.inputs[name])) for name in lists},
        "asked": judged(jobs[0], fresh=all(map(stays, jobs))),
        "checked": checked(*jobs),
    }


def continual_job(wildcards) -> JobPlan:
    """Return the training of the class-incremental run that a rule's wildcards name."""
    return JOBS.continual(continual_of(wildcards))


def matrix_job(wildcards) -> JobPlan:
    """Return the evaluation of the class-incremental run that a rule's wildcards name."""
    return JOBS.matrix(continual_of(wildcards))


def synergy_outputs_job(wildcards) -> JobPlan:
    """Return the pass of the finished chain that a rule's wildcards name."""
    return JOBS.synergy_outputs(run_of(wildcards))


@cache
def matrices() -> list[JobPlan]:
    """Return the evaluations of all class-incremental runs, or with allow_missing of those that there are."""
    return there([JOBS.matrix(run) for run in PLAN.continual_runs], "matrix.json")


def continual_report_job(_) -> JobPlan:
    """Return the report of class-incremental runs."""
    settings = canonical([JOBS.continual_rows(), REPORT])
    inputs = {"matrices": [f"{job.folder}/matrix.json" for job in matrices()]}
    return JOBS.report("continual_report", settings, inputs, matrices())


def continual_report_inputs(wildcards) -> dict:
    """Return the matrices that there are; with allow_missing the reasons of the others may have changed."""
    job = continual_report_job(wildcards)
    return {**job.inputs, "asked": judged(job, fresh=not ALLOW_MISSING)}


def experiment_file(_) -> str:
    """Return the file of the checked experiment, which can be longer than an argument."""
    return text_file(canonical(SHOWN))


@cache
def rows() -> list[dict]:
    """Return what `collect` needs of every run, with allow_missing also whether its results are there as asked."""
    found = JOBS.rows()
    if ALLOW_MISSING:
        folders = {job.folder for job in evaluations()}
        for row in found:
            row["made"]["there"] = row["made"]["steps"][-1]["folder"] in folders
    return found


def rows_file(_) -> str:
    """Return the file of what `collect` needs of every run."""
    return text_file(canonical(rows()))


@cache
def collection(_=None) -> JobPlan:
    """Return the gathering of all runs, whose rows say what each must have been made from."""
    files = [f"{job.folder}/evaluation.json" for job in evaluations()]
    return JOBS.report("collect", canonical(rows()), {"evaluations": files}, evaluations())


@cache
def statistics_of(_=None) -> JobPlan:
    """Return the statistics of all runs."""
    return JOBS.report("statistics", REPORT, {"runs": RUNS}, [collection()], module="paired_statistics")


@cache
def tables_of(_=None) -> JobPlan:
    """Return the tables of the comparison."""
    settings = canonical([SHOWN, PLAN.cards_digest()])
    return JOBS.report("tables", settings, {"runs": RUNS, "statistics": STATISTICS}, [statistics_of()])


@cache
def figures_of(_=None) -> JobPlan:
    """Return the figures of the comparison."""
    metrics = [f"{job.folder}/metrics.csv" for job in evaluations()]
    inputs = {"runs": RUNS, "statistics": STATISTICS, "metrics": metrics}
    return JOBS.report("figures", REPORT, inputs, [statistics_of()])


@cache
def analysis_of(_=None) -> JobPlan:
    """Return the table and figures of the experiment's own analysis."""
    return JOBS.report("analysis", canonical(SHOWN), {"runs": RUNS}, [collection()])


@cache
def page_of(_=None) -> JobPlan:
    """Return the page that shows all of it."""
    template = TEMPLATE.read_text(encoding="utf-8")
    settings = canonical([SHOWN, PLAN.cards_digest(), template])
    inputs = {
        "figures": rules.figures.output,
        "analysis": rules.analysis.output if PLAN.designs else [],
        "runs": RUNS,
        "statistics": STATISTICS,
        "continual": f"{FOLDER}/tables/continual.json" if PLAN.continual else [],
    }
    before = [figures_of(), *([analysis_of()] if PLAN.designs else [])]
    before += [continual_report_job(None)] if PLAN.continual else []
    return JOBS.report("page", settings, inputs, before)


def collection_inputs(_) -> dict:
    """Return the evaluations that there are; with allow_missing the reasons of the others may have changed."""
    return {**collection().inputs, "asked": judged(collection(), fresh=not ALLOW_MISSING)}


def check_of(_) -> JobPlan:
    """Return the check of all networks and methods."""
    return JOBS.check()


def misfits() -> list[str]:
    """Return what the check found not to fit, line by line, if that is why there are no results."""
    job = JOBS.check()
    refused = reason_of({"record": job.record, "identity": job.identity}) and Path(CHECK_LOG).is_file()
    lines = Path(CHECK_LOG).read_text(encoding="utf-8", errors="replace").splitlines() if refused else []
    return [line for line in lines if " ERROR " in line]
