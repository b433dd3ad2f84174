# The only rules that read the test split.


rule evaluate:
    input:
        data=manifest,
        best=f"{RUN_FOLDER}/checkpoints/best.safetensors",
        last=f"{RUN_FOLDER}/checkpoints/last.safetensors",
        metrics=f"{RUN_FOLDER}/metrics.csv",
        teacher=teacher_predictions,
        members=ensemble_predictions,
    output:
        predictions=f"{RUN_FOLDER}/predictions.npz",
        evaluation=f"{RUN_FOLDER}/evaluation.json",
    log:
        f"{FOLDER}/logs/evaluate/{{dataset}}_{{team}}_{{method}}_seed{{seed}}.log",
    wildcard_constraints:
        method=any_of(PLAN.variants),
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        gpu=GPUS,
        mem_mb=lambda w, attempt: 3000 * attempt,
        runtime=lambda w, attempt: 20 * attempt,
    params:
        settings=lambda w: PLAN.evaluation_job(w.dataset, run_of(w).student, int(w.seed)),
        code=lambda w: PLAN.evaluation_code(run_of(w).student),
        out=lambda w, output: Path(output.evaluation).parent,
    shell:
        'python "$SCRIPTS/evaluate.py" --settings {params.settings:q} --data {input.data:q} --out {params.out:q}'
        " --teacher {input.teacher:q} --members {input.members:q} --gpus {resources.gpu} --threads {threads} --log {log:q}"


use rule evaluate as evaluate_teacher with:
    input:
        data=manifest,
        best=f"{FOLDER}/{{dataset}}/teachers/{{teacher}}/seed{{seed}}/checkpoints/best.safetensors",
        last=f"{FOLDER}/{{dataset}}/teachers/{{teacher}}/seed{{seed}}/checkpoints/last.safetensors",
        metrics=f"{FOLDER}/{{dataset}}/teachers/{{teacher}}/seed{{seed}}/metrics.csv",
        teacher=[],
        members=[],
    output:
        predictions=f"{FOLDER}/{{dataset}}/teachers/{{teacher}}/seed{{seed}}/predictions.npz",
        evaluation=f"{FOLDER}/{{dataset}}/teachers/{{teacher}}/seed{{seed}}/evaluation.json",
    log:
        f"{FOLDER}/logs/evaluate_teacher/{{dataset}}_{{teacher}}_seed{{seed}}.log",
    params:
        settings=lambda w: PLAN.evaluation_job(w.dataset, w.teacher, int(w.seed), teacher=True),
        code=lambda w: PLAN.evaluation_code(w.teacher),
        out=lambda w, output: Path(output.evaluation).parent,


rule evaluate_single:
    input:
        data=manifest,
        weights=lambda w: CHECKPOINT or f"{RUN_FOLDER}/checkpoints/best.safetensors".format(**w),
    output:
        f"{RUN_FOLDER}/single.json",
    log:
        f"{FOLDER}/logs/evaluate_single/{{dataset}}_{{team}}_{{method}}_seed{{seed}}.log",
    wildcard_constraints:
        method=any_of(PLAN.variants),
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        gpu=GPUS,
        mem_mb=lambda w, attempt: 3000 * attempt,
        runtime=lambda w, attempt: 20 * attempt,
    params:
        settings=lambda w: PLAN.evaluation_job(w.dataset, run_of(w).student, int(w.seed)),
        code=lambda w: PLAN.evaluation_code(run_of(w).student),
    shell:
        'python "$SCRIPTS/evaluate_single.py" --settings {params.settings:q} --data {input.data:q}'
        " --weights {input.weights:q} --out {output:q} --gpus {resources.gpu} --threads {threads} --log {log:q}"


rule evaluate_synergy:
    input:
        data=manifest,
        previous=last_half,
    output:
        f"{RUN_FOLDER}/synergy.json",
    log:
        f"{FOLDER}/logs/evaluate_synergy/{{dataset}}_{{team}}_{{method}}_seed{{seed}}.log",
    wildcard_constraints:
        method=CHAINS,
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        gpu=GPUS,
        mem_mb=lambda w, attempt: 3000 * attempt,
        runtime=lambda w, attempt: 20 * attempt,
    params:
        settings=lambda w: PLAN.half_job(run_of(w), PLAN.stages(w.method), "student_update"),
        code=lambda w: PLAN.run_code(run_of(w)),
    shell:
        'python "$SCRIPTS/evaluate_synergy.py" --settings {params.settings:q} --data {input.data:q}'
        " --previous {input.previous:q} --out {output:q} --gpus {resources.gpu} --threads {threads} --log {log:q}"
