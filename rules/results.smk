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
        'python "$SCRIPTS/collect.py" --rows {params.rows:q} --out {output:q} --made {params.made:q} --results {output:q} --log {log:q}'


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
        " --made {params.made:q} --results {output:q} --log {log:q}"


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
        " --statistics {input.statistics:q} --out {params.out:q} --made {params.made:q} --results {output:q} --log {log:q}"


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
        " --report {params.settings:q} --out {params.figures:q} --made {params.made:q} --results {output:q} --log {log:q}"


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
            " --out {params.out:q} --made {params.made:q} --results {output:q} --log {log:q}"


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
        " --made {params.made:q} --results {output:q} --log {log:q}"
