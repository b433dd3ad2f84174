# ASIB: every half of every stage is a job that starts from the half before it.


rule asib_teacher_update:
    input:
        data=manifest,
        teachers=lambda w: teacher_weights(w) if w.stage == "1" else [],
        previous=before_teacher_update,
        initial=lambda w: PLAN.initial_weights(run_of(w).student) if w.stage == "1" else [],
        tuned=lambda w: PLAN.tuned_for_student(run_of(w)),
    output:
        state=f"{RUN_FOLDER}/stage{{stage}}/teacher_update/state.pt",
        metrics=f"{RUN_FOLDER}/stage{{stage}}/teacher_update/metrics.csv",
        run=f"{RUN_FOLDER}/stage{{stage}}/teacher_update/run.json",
    log:
        f"{FOLDER}/logs/asib_teacher_update/{{dataset}}_{{team}}_{{method}}_seed{{seed}}_stage{{stage}}.log",
    wildcard_constraints:
        method=CHAINS,
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        **work("student_job"),
        gpu=GPUS,
    params:
        settings=lambda w: PLAN.half_job(run_of(w), int(w.stage), "teacher_update"),
        code=lambda w: PLAN.run_code(run_of(w)),
        out=f"{RUN_FOLDER}/stage{{stage}}/teacher_update",
    shell:
        'python "$SCRIPTS/asib_teacher_update.py" --settings {params.settings:q} --data {input.data:q}'
        " --teachers {input.teachers:q} --previous {input.previous:q} --tuned {input.tuned:q} --out {params.out:q}"
        " --code {params.code} --gpus {resources.gpu} --threads {threads} --log {log:q}"


rule asib_student_update:
    input:
        data=manifest,
        previous=f"{RUN_FOLDER}/stage{{stage}}/teacher_update/state.pt",
        tuned=lambda w: PLAN.tuned_for_student(run_of(w)),
    output:
        state=f"{RUN_FOLDER}/stage{{stage}}/student_update/state.pt",
        best=f"{RUN_FOLDER}/stage{{stage}}/student_update/checkpoints/best.safetensors",
        last=f"{RUN_FOLDER}/stage{{stage}}/student_update/checkpoints/last.safetensors",
        metrics=f"{RUN_FOLDER}/stage{{stage}}/student_update/metrics.csv",
        run=f"{RUN_FOLDER}/stage{{stage}}/student_update/run.json",
    log:
        f"{FOLDER}/logs/asib_student_update/{{dataset}}_{{team}}_{{method}}_seed{{seed}}_stage{{stage}}.log",
    wildcard_constraints:
        method=CHAINS,
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        **work("student_job"),
        gpu=GPUS,
    params:
        settings=lambda w: PLAN.half_job(run_of(w), int(w.stage), "student_update"),
        code=lambda w: PLAN.run_code(run_of(w)),
        out=f"{RUN_FOLDER}/stage{{stage}}/student_update",
    shell:
        'python "$SCRIPTS/asib_student_update.py" --settings {params.settings:q} --data {input.data:q}'
        " --previous {input.previous:q} --tuned {input.tuned:q} --out {params.out:q} --code {params.code}"
        " --gpus {resources.gpu} --threads {threads} --log {log:q}"


rule asib_result:
    input:
        runs=lambda w: halves(w, "run.json"),
        metrics=lambda w: halves(w, "metrics.csv"),
        weights=lambda w: [
            f"{folder}/checkpoints/{name}.safetensors"
            for folder in (str(Path(run).parent) for run in halves(w, "run.json") if "student_update" in run)
            for name in ("best", "last")
        ],
    output:
        best=f"{RUN_FOLDER}/checkpoints/best.safetensors",
        last=f"{RUN_FOLDER}/checkpoints/last.safetensors",
        metrics=f"{RUN_FOLDER}/metrics.csv",
        half_stages=f"{RUN_FOLDER}/half_stages.csv",
        run=f"{RUN_FOLDER}/run.json",
    log:
        f"{FOLDER}/logs/asib_result/{{dataset}}_{{team}}_{{method}}_seed{{seed}}.log",
    wildcard_constraints:
        method=CHAINS,
    conda:
        ENVIRONMENT
    params:
        code=code_digest({"asib_result"}),
        out=lambda w, output: Path(output.run).parent,
        halves=lambda w, input: [str(Path(run).parent) for run in input.runs],
    shell:
        'python "$SCRIPTS/asib_result.py" --halves {params.halves:q} --out {params.out:q} --log {log:q}'
