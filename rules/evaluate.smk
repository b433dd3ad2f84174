# The only rules that read the test split.


rule evaluate:
    input:
        reads("evaluate"),
    output:
        predictions=f"{RUN_FOLDER}/predictions.npz",
        evaluation=f"{RUN_FOLDER}/evaluation.json",
    log:
        f"{LOGS}/evaluate/{RUN_LOG}.log",
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        **work("evaluate"),
        gpu=GPUS,
    params:
        **told("evaluate"),
    shell:
        command("evaluate", "settings data out teacher members gpus threads")


use rule evaluate as evaluate_teacher with:
    input:
        reads("evaluate_teacher"),
    output:
        predictions=f"{TEACHER_FOLDER}/predictions.npz",
        evaluation=f"{TEACHER_FOLDER}/evaluation.json",
    log:
        f"{LOGS}/evaluate_teacher/{{dataset}}_{{teacher}}_seed{{seed}}.log",
    resources:
        **work("evaluate_teacher"),
        gpu=GPUS,
    params:
        **told("evaluate_teacher"),


rule evaluate_single:
    input:
        reads("evaluate_single"),
    output:
        f"{RUN_FOLDER}/single.json",
    log:
        f"{LOGS}/evaluate_single/{RUN_LOG}.log",
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        **work("evaluate_single"),
        gpu=GPUS,
    params:
        **told("evaluate_single"),
    shell:
        command("evaluate_single", "settings data weights out gpus threads", out="output:q")


rule evaluate_synergy:
    input:
        reads("evaluate_synergy"),
    output:
        f"{RUN_FOLDER}/synergy.json",
    log:
        f"{LOGS}/evaluate_synergy/{RUN_LOG}.log",
    wildcard_constraints:
        method=CHAINS,
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        **work("evaluate_synergy"),
        gpu=GPUS,
    params:
        **told("evaluate_synergy"),
    shell:
        command("evaluate_synergy", "settings data previous out gpus threads", out="output:q")
