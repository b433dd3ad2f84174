# Class-incremental runs: one job trains all tasks; the rule of the matrix alone reads the test split.
CONTINUAL_FIGURES = layout.continual_figures(PLAN.continual.datasets)

if PLAN.continual.runs:

    localrules:
        continual_report,

    rule continual_run:
        input:
            reads("continual_run"),
        output:
            [f"{CONTINUAL_FOLDER}/checkpoints/task{task}.safetensors" for task in PLAN.continual.tasks],
            metrics=f"{CONTINUAL_FOLDER}/metrics.csv",
            run=f"{CONTINUAL_FOLDER}/run.json",
        log:
            f"{LOGS}/continual_run/{{dataset}}_{{student}}_{{strategy}}_seed{{seed}}.log",
        conda:
            ENVIRONMENT
        threads: THREADS
        resources:
            **work("continual_run"),
            gpu=GPUS,
        params:
            **told("continual_run"),
        shell:
            command("continual_run", "settings data teachers outputs out code gpus threads")

    rule synergy_outputs:
        input:
            reads("synergy_outputs"),
        output:
            f"{RUN_FOLDER}/synergy_outputs/outputs.safetensors",
            f"{RUN_FOLDER}/synergy_outputs/run.json",
        log:
            f"{LOGS}/synergy_outputs/{RUN_LOG}.log",
        wildcard_constraints:
            method=CHAINS,
        conda:
            ENVIRONMENT
        threads: THREADS
        resources:
            **work("synergy_outputs"),
            gpu=GPUS,
        params:
            **told("synergy_outputs"),
        shell:
            command("synergy_outputs", "settings data previous out code gpus threads")

    rule continual_matrix:
        input:
            reads("continual_matrix"),
        output:
            f"{CONTINUAL_FOLDER}/matrix.json",
        log:
            f"{LOGS}/continual_matrix/{{dataset}}_{{student}}_{{strategy}}_seed{{seed}}.log",
        conda:
            ENVIRONMENT
        threads: THREADS
        resources:
            **work("continual_matrix"),
            gpu=GPUS,
        params:
            **told("continual_matrix"),
        shell:
            command("continual_matrix", "settings data weights out gpus threads")

    rule continual_report:
        input:
            # with allow_missing the reasons of the others may have changed
            reads("continual_report", fresh=not ASKED.allow_missing),
        output:
            report(expand(f"{FOLDER}/tables/{{name}}", name=layout.continual_tables()), category="Tables"),
            report(expand(f"{FOLDER}/figures/{{name}}", name=CONTINUAL_FIGURES), category="Figures"),
        log:
            f"{LOGS}/continual_report.log",
        conda:
            ENVIRONMENT
        params:
            **told("continual_report"),
            runs=lambda w: file_of(canonical(reports.continual_rows(JOBS))),
            report=lambda w: reports.report_text(PLAN),
        shell:
            command("continual_report", "runs report out", runs="params.runs:q")
