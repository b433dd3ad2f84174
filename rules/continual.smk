# Class-incremental runs: a job a task, each from the state of the task before; the test split is read by the matrix alone.

CONTINUAL_FOLDER = f"{FOLDER}/{{dataset}}/continual/{{student}}/{{strategy}}/seed{{seed}}"


wildcard_constraints:
    strategy=any_of(PLAN.strategies),
    task=r"[1-9]\d*",


rule continual_task:
    input:
        data=manifest,
        teachers=continual_teachers,
        outputs=continual_targets,
        previous=task_before,
        initial=lambda w: PLAN.initial_weights(w.student) if w.task == "1" else [],
    output:
        state=f"{CONTINUAL_FOLDER}/task{{task}}/state.pt",
        last=f"{CONTINUAL_FOLDER}/task{{task}}/checkpoints/last.safetensors",
        metrics=f"{CONTINUAL_FOLDER}/task{{task}}/metrics.csv",
        run=f"{CONTINUAL_FOLDER}/task{{task}}/run.json",
    log:
        f"{FOLDER}/logs/continual_task/{{dataset}}_{{student}}_{{strategy}}_seed{{seed}}_task{{task}}.log",
    wildcard_constraints:
        student=any_of(PLAN.continual_students),
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        **work("task_job"),
        gpu=GPUS,
    params:
        settings=lambda w: PLAN.task_job(continual_run(w), int(w.task)),
        code=lambda w: PLAN.task_code(continual_run(w)),
        out=lambda w, output: Path(output.run).parent,
    shell:
        'python "$SCRIPTS/continual_task.py" --settings {params.settings:q} --data {input.data:q}'
        " --teachers {input.teachers:q} --outputs {input.outputs:q} --previous {input.previous:q} --out {params.out:q}"
        " --code {params.code} --gpus {resources.gpu} --threads {threads} --log {log:q}"


rule continual_matrix:
    input:
        data=manifest,
        weights=lambda w: after_tasks(w, "checkpoints/last.safetensors"),
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


if PLAN.continual:

    localrules:
        continual_report,

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
            report=canonical(EXPERIMENT.report.model_dump(mode="json")),
            code=code_digest({"continual_report"}),
            out=FOLDER,
        shell:
            'python "$SCRIPTS/continual_report.py" --runs {params.runs:q} --report {params.report:q} --out {params.out:q}'
            " --log {log:q}"
