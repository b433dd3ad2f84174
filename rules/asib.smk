# ASIB: every half of every stage is a job that starts from the half before it.
STAGE_FOLDER = f"{RUN_FOLDER}/stage{{stage}}"


rule asib_teacher_update:
    input:
        reads("asib_teacher_update"),
    output:
        [f"{STAGE_FOLDER}/teacher_update/{file}" for file in ("state.pt", "metrics.csv", "run.json")],
    log:
        f"{LOGS}/asib_teacher_update/{RUN_LOG}_stage{{stage}}.log",
    wildcard_constraints:
        method=CHAINS,
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        **work("asib_teacher_update"),
        gpu=GPUS,
    params:
        **told("asib_teacher_update"),
    shell:
        command("asib_teacher_update", "settings data teachers previous tuned out code gpus threads")


rule asib_student_update:
    input:
        reads("asib_student_update"),
    output:
        **trained(f"{STAGE_FOLDER}/student_update"),
        state=f"{STAGE_FOLDER}/student_update/state.pt",
    log:
        f"{LOGS}/asib_student_update/{RUN_LOG}_stage{{stage}}.log",
    wildcard_constraints:
        method=CHAINS,
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        **work("asib_student_update"),
        gpu=GPUS,
    params:
        **told("asib_student_update"),
    shell:
        command("asib_student_update", "settings data previous tuned out code gpus threads")


rule asib_result:
    input:
        reads("asib_result"),
    output:
        **trained(RUN_FOLDER),
        half_stages=f"{RUN_FOLDER}/half_stages.csv",
    log:
        f"{LOGS}/asib_result/{RUN_LOG}.log",
    wildcard_constraints:
        method=CHAINS,
    conda:
        ENVIRONMENT
    params:
        **told("asib_result"),
        halves=lambda w, input: [Path(file).parent for file in input.runs],
    shell:
        command("asib_result", "halves out", halves="params.halves:q")


rule asib_predictions:
    input:
        reads("asib_predictions"),
    output:
        f"{STAGE_FOLDER}/{{half}}/predictions.npz",
    log:
        f"{LOGS}/asib_predictions/{RUN_LOG}_stage{{stage}}_{{half}}.log",
    wildcard_constraints:
        method=CHAINS,
        half="teacher_update|student_update",
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        **work("asib_predictions"),
        gpu=GPUS,
    params:
        **told("asib_predictions"),
    shell:
        command("asib_predictions", "settings data teachers previous out gpus threads", out="output:q")
