# Class-incremental runs: one job trains all tasks; the rule of the matrix alone reads the test split.


wildcard_constraints:
    strategy=any_of(PLAN.strategies),


if PLAN.continual:

    localrules:
        continual_report,

    rule continual_run:
        input:
            data=manifest,
            teachers=continual_teachers,
            outputs=continual_targets,
            initial=lambda w: PLAN.initial_weights(w.student),
        output:
            weights=after_tasks(),
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
            **work("continual_job"),
            gpu=GPUS,
        params:
            settings=lambda w: PLAN.continual_job(continual_run(w)),
            code=lambda w: PLAN.continual_code(continual_run(w)),
            out=lambda w, output: Path(output.run).parent,
        shell:
            'python "$SCRIPTS/continual_run.py" --settings {params.settings:q} --data {input.data:q}'
            " --teachers {input.teachers:q} --outputs {input.outputs:q} --out {params.out:q} --code {params.code}"
            " --gpus {resources.gpu} --threads {threads} --log {log:q}"

    rule synergy_outputs:
        input:
            data=manifest,
            previous=lambda w: halves(w, "state.pt")[-1],
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
            **work("student_job"),
            gpu=GPUS,
        params:
            settings=lambda w: PLAN.synergy_job(run_of(w)),
            code=lambda w: PLAN.synergy_code(run_of(w)),
            out=lambda w, output: Path(output.run).parent,
        shell:
            'python "$SCRIPTS/synergy_outputs.py" --settings {params.settings:q} --data {input.data:q}'
            " --previous {input.previous:q} --out {params.out:q} --code {params.code} --gpus {resources.gpu}"
            " --threads {threads} --log {log:q}"

    rule continual_matrix:
        input:
            data=manifest,
            weights=after_tasks(),
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
            settings=lambda w: PLAN.matrix_job(continual_run(w)),
            code=lambda w: PLAN.matrix_code(continual_run(w)),
            out=lambda w, output: Path(output[0]).parent,
        shell:
            'python "$SCRIPTS/continual_matrix.py" --settings {params.settings:q} --data {input.data:q}'
            " --weights {input.weights:q} --out {params.out:q} --gpus {resources.gpu} --threads {threads} --log {log:q}"

    rule continual_report:
        input:
            continual_matrices,
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
            runs=canonical(PLAN.continual_rows()),
            report=REPORT,
            code=code_digest({"continual_report"}),
            out=FOLDER,
        shell:
            'python "$SCRIPTS/continual_report.py" --runs {params.runs:q} --report {params.report:q} --out {params.out:q}'
            " --log {log:q}"
