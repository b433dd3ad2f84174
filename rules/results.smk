# From runs to what people read.


localrules:
    collect,
    statistics,
    tables,
    figures,
    page,
    asib_result,
    all,
    trained,
    single,
    synergy,


def experiment_file(_) -> str:
    """Return the file of the checked experiment, which can be longer than an argument."""
    return text_file(canonical(EXPERIMENT.model_dump(mode="json")))


def rows_file(_) -> str:
    """Return the file of what `collect` needs of every run."""
    return text_file(canonical(JOBS.rows()))


@cache
def collection(_=None) -> JobPlan:
    """Return the gathering of all runs, whose rows say what each must have been made from."""
    files = [f"{job.folder}/evaluation.json" for job in evaluations()]
    return JOBS.report("collect", canonical(JOBS.rows()), {"evaluations": files}, evaluations())


@cache
def statistics_of(_=None) -> JobPlan:
    """Return the statistics of all runs."""
    return JOBS.report("statistics", REPORT, {"runs": RUNS}, [collection()], module="paired_statistics")


@cache
def tables_of(_=None) -> JobPlan:
    """Return the tables of the comparison."""
    settings = canonical([EXPERIMENT.model_dump(mode="json"), PLAN.cards_digest()])
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
    settings = canonical(EXPERIMENT.model_dump(mode="json"))
    return JOBS.report("analysis", settings, {"runs": RUNS}, [collection()])


@cache
def page_of(_=None) -> JobPlan:
    """Return the page that shows all of it."""
    template = TEMPLATE.read_text(encoding="utf-8")
    settings = canonical([EXPERIMENT.model_dump(mode="json"), PLAN.cards_digest(), template])
    inputs = {
        "figures": rules.figures.output,
        "analysis": rules.analysis.output if PLAN.designs else [],
        "runs": RUNS,
        "statistics": STATISTICS,
        "continual": f"{FOLDER}/tables/continual.json" if PLAN.continual else [],
    }
    before = [tables_of(), figures_of(), *([analysis_of()] if PLAN.designs else [])]
    before += [continual_report_job(None)] if PLAN.continual else []
    return JOBS.report("page", settings, inputs, before)


def collection_inputs(_) -> dict:
    """Return the evaluations that there are; with allow_missing the reasons of the others may have changed."""
    return {**collection().inputs, "asked": judged(collection(), fresh=not ALLOW_MISSING)}


RUNS = f"{FOLDER}/runs.csv"
STATISTICS = f"{FOLDER}/statistics.json"


rule collect:
    input:
        unpack(collection_inputs),
    output:
        RUNS,
    log:
        f"{FOLDER}/logs/collect.log",
    conda:
        ENVIRONMENT
    params:
        **told(collection),
        rows=rows_file,
    shell:
        'python "$SCRIPTS/collect.py" --rows {params.rows:q} --out {output:q} --made {params.made:q} --log {log:q}'


rule statistics:
    input:
        reads(statistics_of),
    output:
        STATISTICS,
    log:
        f"{FOLDER}/logs/statistics.log",
    conda:
        ENVIRONMENT
    params:
        **told(statistics_of),
    # the script is not named statistics.py: beside other scripts it would hide the standard library's module
    shell:
        'python "$SCRIPTS/paired_statistics.py" --runs {input.runs:q} --report {params.settings:q} --out {output:q}'
        " --made {params.made:q} --log {log:q}"


rule tables:
    input:
        reads(tables_of),
    output:
        report(
            expand(f"{FOLDER}/tables/comparison.{{kind}}", kind=["csv", "md", "tex", "json"]),
            category="Tables",
        ),
    log:
        f"{FOLDER}/logs/tables.log",
    conda:
        ENVIRONMENT
    params:
        made=lambda w: noted(tables_of()),
        experiment=experiment_file,
        out=lambda w, output: Path(output[0]).parent,
    shell:
        'python "$SCRIPTS/tables.py" --experiment {params.experiment:q} --runs {input.runs:q}'
        " --statistics {input.statistics:q} --out {params.out:q} --made {params.made:q} --log {log:q}"


rule figures:
    input:
        reads(figures_of),
    output:
        report(
            [f"{FOLDER}/figures/{name}" for name in figure_files(PLAN.groups)],
            category="Figures",
        ),
    log:
        f"{FOLDER}/logs/figures.log",
    conda:
        ENVIRONMENT
    params:
        **told(figures_of),
        # a figure lies in <out>/<data set>/<pair>/
        figures=lambda w, output: Path(output[0]).parents[2],
    shell:
        'python "$SCRIPTS/figures.py" --runs {input.runs:q} --statistics {input.statistics:q}'
        " --report {params.settings:q} --out {params.figures:q} --made {params.made:q} --log {log:q}"


if PLAN.designs:

    localrules:
        analysis,

    rule analysis:
        input:
            reads(analysis_of),
        output:
            report(expand(f"{FOLDER}/tables/{{name}}", name=design_tables()), category="Tables"),
            report(
                [f"{FOLDER}/figures/{name}" for name in design_figures(PLAN.designs)],
                category="Figures",
            ),
        log:
            f"{FOLDER}/logs/analysis.log",
        conda:
            ENVIRONMENT
        params:
            **told(analysis_of),
            experiment=experiment_file,
        shell:
            'python "$SCRIPTS/analysis.py" --experiment {params.experiment:q} --runs {input.runs:q}'
            " --out {params.out:q} --made {params.made:q} --log {log:q}"


rule page:
    input:
        reads(page_of),
    output:
        report(f"{FOLDER}/report.html", category="Page"),
    log:
        f"{FOLDER}/logs/page.log",
    conda:
        ENVIRONMENT
    params:
        **told(page_of),
        experiment=experiment_file,
        figures=lambda w, input: Path(input.figures[0]).parents[2],
    shell:
        'python "$SCRIPTS/page.py" --experiment {params.experiment:q} --runs {input.runs:q}'
        " --statistics {input.statistics:q} --figures {params.figures:q} --continual {input.continual:q} --out {output:q}"
        " --made {params.made:q} --log {log:q}"
