# From runs to what people read.


def finished(wildcards) -> list[str]:
    """Return the evaluations of all runs, or with allow_missing of those that there are."""
    files = [f"{FOLDER}/{run.path}/evaluation.json" for run in PLAN.runs]
    files += [f"{teacher_folder(*teacher)}/evaluation.json" for teacher in PLAN.teachers]
    return [file for file in files if Path(file).is_file()] if ALLOW_MISSING else files


localrules: collect, statistics, tables, figures, page, asib_result, all, trained


rule collect:
    input:
        finished,
    output:
        f"{FOLDER}/runs.csv",
    params:
        experiment=canonical(EXPERIMENT.model_dump(mode="json")),
        code=code_digest({"collect"}),
    log:
        f"{FOLDER}/logs/collect.log",
    conda:
        ENVIRONMENT
    shell:
        "{PYTHON} {SCRIPTS}/collect.py --experiment {params.experiment:q} --out {output:q} --log {log:q}"


rule statistics:
    input:
        f"{FOLDER}/runs.csv",
    output:
        f"{FOLDER}/statistics.json",
    params:
        report=canonical(EXPERIMENT.report.model_dump(mode="json")),
        code=code_digest({"paired_statistics"}),
    log:
        f"{FOLDER}/logs/statistics.log",
    conda:
        ENVIRONMENT
    # the script is not named statistics.py: beside other scripts it would hide the standard library's module
    shell:
        "{PYTHON} {SCRIPTS}/paired_statistics.py --runs {input:q} --report {params.report:q} --out {output:q} --log {log:q}"


rule tables:
    input:
        runs=f"{FOLDER}/runs.csv",
        statistics=f"{FOLDER}/statistics.json",
    output:
        report(
            expand(f"{FOLDER}/tables/comparison.{{kind}}", kind=["csv", "md", "tex", "json"]),
            category="Tables",
        ),
    params:
        experiment=canonical(EXPERIMENT.model_dump(mode="json")),
        cards=PLAN.cards_digest(),
        code=code_digest({"tables"}),
    log:
        f"{FOLDER}/logs/tables.log",
    conda:
        ENVIRONMENT
    shell:
        "{PYTHON} {SCRIPTS}/tables.py --experiment {params.experiment:q} --runs {input.runs:q}"
        " --statistics {input.statistics:q} --out {FOLDER}/tables --log {log:q}"


rule figures:
    input:
        runs=f"{FOLDER}/runs.csv",
        statistics=f"{FOLDER}/statistics.json",
        metrics=lambda w: [str(Path(file).parent / "metrics.csv") for file in finished(w)],
    output:
        report(
            [f"{FOLDER}/figures/{name}" for name in figure_files(PLAN.groups)],
            category="Figures",
        ),
    params:
        report=canonical(EXPERIMENT.report.model_dump(mode="json")),
        code=code_digest({"figures"}),
    log:
        f"{FOLDER}/logs/figures.log",
    conda:
        ENVIRONMENT
    shell:
        "{PYTHON} {SCRIPTS}/figures.py --runs {input.runs:q} --statistics {input.statistics:q}"
        " --report {params.report:q} --out {FOLDER}/figures --log {log:q}"


rule page:
    input:
        rules.figures.output,
        runs=f"{FOLDER}/runs.csv",
        statistics=f"{FOLDER}/statistics.json",
    output:
        report(f"{FOLDER}/report.html", category="Page"),
    params:
        experiment=canonical(EXPERIMENT.model_dump(mode="json")),
        cards=PLAN.cards_digest(),
        template=text_digest(TEMPLATE.read_text()),
        code=code_digest({"page"}),
    log:
        f"{FOLDER}/logs/page.log",
    conda:
        ENVIRONMENT
    shell:
        "{PYTHON} {SCRIPTS}/page.py --experiment {params.experiment:q} --runs {input.runs:q}"
        " --statistics {input.statistics:q} --figures {FOLDER}/figures --out {output:q} --log {log:q}"
