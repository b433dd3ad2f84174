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


rule collect:
    input:
        finished,
    output:
        f"{FOLDER}/runs.csv",
    log:
        f"{FOLDER}/logs/collect.log",
    conda:
        ENVIRONMENT
    params:
        experiment=canonical(EXPERIMENT.model_dump(mode="json")),
        code=code_digest({"collect"}),
    shell:
        'python "$SCRIPTS/collect.py" --experiment {params.experiment:q} --out {output:q} --log {log:q}'


rule statistics:
    input:
        f"{FOLDER}/runs.csv",
    output:
        f"{FOLDER}/statistics.json",
    log:
        f"{FOLDER}/logs/statistics.log",
    conda:
        ENVIRONMENT
    params:
        report=REPORT,
        code=code_digest({"paired_statistics"}),
    # the script is not named statistics.py: beside other scripts it would hide the standard library's module
    shell:
        'python "$SCRIPTS/paired_statistics.py" --runs {input:q} --report {params.report:q} --out {output:q} --log {log:q}'


rule tables:
    input:
        runs=f"{FOLDER}/runs.csv",
        statistics=f"{FOLDER}/statistics.json",
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
        experiment=canonical(EXPERIMENT.model_dump(mode="json")),
        cards=PLAN.cards_digest(),
        code=code_digest({"tables"}),
        out=lambda w, output: Path(output[0]).parent,
    shell:
        'python "$SCRIPTS/tables.py" --experiment {params.experiment:q} --runs {input.runs:q}'
        " --statistics {input.statistics:q} --out {params.out:q} --log {log:q}"


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
    log:
        f"{FOLDER}/logs/figures.log",
    conda:
        ENVIRONMENT
    params:
        report=REPORT,
        code=code_digest({"figures"}),
        # a figure lies in <out>/<data set>/<pair>/
        out=lambda w, output: Path(output[0]).parents[2],
    shell:
        'python "$SCRIPTS/figures.py" --runs {input.runs:q} --statistics {input.statistics:q}'
        " --report {params.report:q} --out {params.out:q} --log {log:q}"


if PLAN.designs:

    localrules:
        analysis,

    rule analysis:
        input:
            f"{FOLDER}/runs.csv",
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
            experiment=canonical(EXPERIMENT.model_dump(mode="json")),
            code=code_digest({"analysis"}),
            out=FOLDER,
        shell:
            'python "$SCRIPTS/analysis.py" --experiment {params.experiment:q} --runs {input:q} --out {params.out:q}'
            " --log {log:q}"


rule page:
    input:
        rules.figures.output,
        rules.analysis.output if PLAN.designs else [],
        runs=f"{FOLDER}/runs.csv",
        statistics=f"{FOLDER}/statistics.json",
        continual=f"{FOLDER}/tables/continual.json" if PLAN.continual else [],
    output:
        report(f"{FOLDER}/report.html", category="Page"),
    log:
        f"{FOLDER}/logs/page.log",
    conda:
        ENVIRONMENT
    params:
        experiment=canonical(EXPERIMENT.model_dump(mode="json")),
        cards=PLAN.cards_digest(),
        template=text_digest(TEMPLATE.read_text(encoding="utf-8")),
        code=code_digest({"page"}),
        figures=lambda w, input: Path(input[0]).parents[2],
    shell:
        'python "$SCRIPTS/page.py" --experiment {params.experiment:q} --runs {input.runs:q}'
        " --statistics {input.statistics:q} --figures {params.figures:q} --continual {input.continual:q} --out {output:q}"
        " --log {log:q}"
