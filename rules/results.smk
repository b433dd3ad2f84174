# From runs to what people read.
RUNS = reports.runs_file(PLAN)
STATISTICS = f"{FOLDER}/statistics.json"


localrules:
    collect,
    details,
    statistics,
    tables,
    figures,
    sink,
    page,
    asib_result,
    all,
    trained,
    single,
    synergy,


rule collect:
    input:
        # with allow_missing the reasons of the runs that are not there may have changed
        reads("collect", fresh=not ASKED.allow_missing),
    output:
        RUNS,
    log:
        f"{LOGS}/collect.log",
    conda:
        ENVIRONMENT
    params:
        **told("collect"),
    shell:
        command("collect", "rows out", rows="params.settings:q", out="output:q")


rule details:
    input:
        reads("details"),
    output:
        f"{FOLDER}/curves.csv",
        f"{FOLDER}/details.json",
    log:
        f"{LOGS}/details.log",
    conda:
        ENVIRONMENT
    params:
        **told("details"),
    shell:
        command("details", "runs settings out")


rule networks:
    input:
        reads("networks"),
    output:
        f"{FOLDER}/networks.json",
    log:
        f"{LOGS}/networks.log",
    conda:
        ENVIRONMENT
    resources:
        **work("networks"),
    params:
        **told("networks", as_file=True),
    shell:
        command("networks", "runs settings out", out="output:q")


rule statistics:
    input:
        reads("statistics"),
    output:
        STATISTICS,
    log:
        f"{LOGS}/statistics.log",
    conda:
        ENVIRONMENT
    params:
        **told("statistics"),
    # the script is not named statistics.py: beside other scripts it would hide the standard library's module
    shell:
        command("paired_statistics", "runs report out", report="params.settings:q", out="output:q")


rule tables:
    input:
        reads("tables"),
    output:
        report(
            expand(f"{FOLDER}/tables/{{name}}", name=layout.table_files(bool(PLAN.searches.runs))), category="Tables"
        ),
        f"{FOLDER}/tables/{layout.REFERENCES}",
    log:
        f"{LOGS}/tables.log",
    conda:
        ENVIRONMENT
    params:
        **told("tables"),
        experiment=experiment_file,
        folder=lambda w, output: Path(output[0]).parent,
    shell:
        command("tables", "experiment runs statistics networks trials out", out="params.folder:q")


rule figures:
    input:
        reads("figures"),
    output:
        report(expand(f"{FOLDER}/figures/{{name}}", name=layout.figure_files(PLAN.groups)), category="Figures"),
    log:
        f"{LOGS}/figures.log",
    conda:
        ENVIRONMENT
    params:
        **told("figures"),
        # a figure lies in <out>/<data set>/<pair>/
        folder=lambda w, output: Path(output[0]).parents[2],
    shell:
        command("figures", "runs statistics curves settings out", out="params.folder:q")


if any(design.chains for design in PLAN.designs):

    localrules:
        diagnosis,

    rule diagnosis:
        input:
            reads("diagnosis"),
        output:
            f"{FOLDER}/synergy.csv",
        log:
            f"{LOGS}/diagnosis.log",
        conda:
            ENVIRONMENT
        params:
            **told("diagnosis"),
        shell:
            command("diagnosis", "runs settings out", out="output:q")


if PLAN.designs:

    localrules:
        analysis,

    rule analysis:
        input:
            reads("analysis"),
        output:
            report(expand(f"{FOLDER}/tables/{{name}}", name=layout.design_tables()), category="Tables"),
            report(expand(f"{FOLDER}/figures/{{name}}", name=layout.design_figures(PLAN.designs)), category="Figures"),
        log:
            f"{LOGS}/analysis.log",
        conda:
            ENVIRONMENT
        params:
            **told("analysis"),
            experiment=experiment_file,
        shell:
            command("analysis", "experiment runs synergy out")


rule sink:
    input:
        reads("sink"),
    output:
        f"{FOLDER}/sinks/{{sink}}/index.json",
    log:
        f"{LOGS}/sink_{{sink}}.log",
    wildcard_constraints:
        sink=any_of(EXPERIMENT.report.sinks),
    conda:
        ENVIRONMENT
    params:
        **told("sink"),
    shell:
        command("sinks", "settings runs statistics out", out="output:q")


rule page:
    input:
        reads("page", figures=rules.figures.output, analysis=rules.analysis.output if PLAN.designs else []),
    output:
        report(f"{FOLDER}/report.html", category="Page"),
    log:
        f"{LOGS}/page.log",
    conda:
        ENVIRONMENT
    params:
        **told("page"),
        experiment=experiment_file,
        folder=f"{FOLDER}/figures",
    shell:
        command(
            "page",
            "experiment runs statistics networks trials curves details figures continual synergy out",
            figures="params.folder:q",
            out="output:q",
        )
