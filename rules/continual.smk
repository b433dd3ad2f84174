# Class-incremental runs: one job trains all tasks; the rule of the matrix alone reads the test split.


wildcard_constraints:
    strategy=any_of(PLAN.strategies),


if PLAN.continual:

    localrules:
        continual_report,

    rule continual_run:
        input:
            reads(continual_job),
        output:
            weights=[f"{CONTINUAL_FOLDER}/checkpoints/task{task}.safetensors" for task in TASKS],
            metrics=f"{CONTINUAL_FOLDER}/metrics.csv",
            run=f"{CONTINUAL_FOLDER}/run.json",
        log:
            f"{FOLDER}/logs/continual_run/{{dataset}}_{{student}}_{{strategy}}_seed{{seed}}.log",
        wildcard_constraints:
            student=any_of(PLAN.continual_students),
        conda:
            ENVIRONMENT
        threads: THREADS
        resources:
            **work(continual_job),
            gpu=GPUS,
        params:
            **told(continual_job),
        shell:
            'python "$SCRIPTS/continual_run.py" --settings {params.settings:q} --data {input.data:q}'
            " --teachers {input.teachers:q} --outputs {input.outputs:q} --out {params.out:q} --code {params.code}"
            " --gpus {resources.gpu} --threads {threads} --made {params.made:q} --results {output:q} --log {log:q}"

    rule synergy_outputs:
        input:
            reads(synergy_outputs_job),
        output:
            outputs=f"{RUN_FOLDER}/synergy_outputs/outputs.safetensors",
            run=f"{RUN_FOLDER}/synergy_outputs/run.json",
        log:
            f"{FOLDER}/logs/synergy_outputs/{{dataset}}_{{team}}_{{method}}_seed{{seed}}.log",
        wildcard_constraints:
            method=CHAINS,
        conda:
            ENVIRONMENT
        threads: THREADS
        resources:
            **work(synergy_outputs_job),
            gpu=GPUS,
        params:
            **told(synergy_outputs_job),
        shell:
            'python "$SCRIPTS/synergy_outputs.py" --settings {params.settings:q} --data {input.data:q}'
            " --previous {input.previous:q} --out {params.out:q} --code {params.code} --gpus {resources.gpu}"
            " --threads {threads} --made {params.made:q} --results {output:q} --log {log:q}"

    rule continual_matrix:
        input:
            reads(matrix_job),
        output:
            f"{CONTINUAL_FOLDER}/matrix.json",
        log:
            f"{FOLDER}/logs/continual_matrix/{{dataset}}_{{student}}_{{strategy}}_seed{{seed}}.log",
        wildcard_constraints:
            student=any_of(PLAN.continual_students),
        conda:
            ENVIRONMENT
        threads: THREADS
        resources:
            gpu=GPUS,
            mem_mb=lambda w, attempt: 3000 * attempt,
            runtime=lambda w, attempt: 20 * attempt,
        params:
            **told(matrix_job),
        shell:
            'python "$SCRIPTS/continual_matrix.py" --settings {params.settings:q} --data {input.data:q}'
            " --weights {input.weights:q} --out {params.out:q} --gpus {resources.gpu} --threads {threads} --made {params.made:q} --results {output:q} --log {log:q}"

    rule continual_report:
        input:
            unpack(continual_report_inputs),
        output:
            report(expand(f"{FOLDER}/tables/{{name}}", name=continual_tables()), category="Tables"),
            report(
                expand(f"{FOLDER}/figures/{{name}}", name=continual_figures(PLAN.continual_datasets)),
                category="Figures",
            ),
        log:
            f"{FOLDER}/logs/continual_report.log",
        conda:
            ENVIRONMENT
        params:
            **told(continual_report_job),
            runs=lambda w: text_file(canonical(JOBS.continual_rows())),
            report=lambda w: REPORT,
        shell:
            'python "$SCRIPTS/continual_report.py" --runs {params.runs:q} --report {params.report:q} --out {params.out:q}'
            " --made {params.made:q} --results {output:q} --log {log:q}"
