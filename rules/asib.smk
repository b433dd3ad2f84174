# ASIB: every half of every stage is a job that starts from the half before it.


rule asib_teacher_update:
    input:
        reads(teacher_update_of),
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
        **work(teacher_update_of),
        gpu=GPUS,
    params:
        **told(teacher_update_of),
    shell:
        'python "$SCRIPTS/asib_teacher_update.py" --settings {params.settings:q} --data {input.data:q}'
        " --teachers {input.teachers:q} --previous {input.previous:q} --tuned {input.tuned:q} --out {params.out:q}"
        " --code {params.code} --gpus {resources.gpu} --threads {threads} --made {params.made:q} --results {output:q} --log {log:q}"


rule asib_student_update:
    input:
        reads(student_update_of),
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
        **work(student_update_of),
        gpu=GPUS,
    params:
        **told(student_update_of),
    shell:
        'python "$SCRIPTS/asib_student_update.py" --settings {params.settings:q} --data {input.data:q}'
        " --previous {input.previous:q} --tuned {input.tuned:q} --out {params.out:q} --code {params.code}"
        " --gpus {resources.gpu} --threads {threads} --made {params.made:q} --results {output:q} --log {log:q}"


rule asib_result:
    input:
        reads(lambda w: JOBS.result(run_of(w))),
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
        **told(lambda w: JOBS.result(run_of(w))),
        halves=lambda w: [job.folder for job in JOBS.halves(run_of(w))],
    shell:
        'python "$SCRIPTS/asib_result.py" --halves {params.halves:q} --out {params.out:q} --made {params.made:q} --results {output:q}'
        " --log {log:q}"
