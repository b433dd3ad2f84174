# Teachers, fine-tuned or from scratch; what they make of one fixed view of the images; what a method prepares on them.


rule train_teacher:
    input:
        reads("train_teacher"),
    output:
        **trained(TEACHER_FOLDER),
    log:
        f"{LOGS}/train_teacher/{{dataset}}_{{teacher}}_seed{{seed}}.log",
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        **work("train_teacher"),
        gpu=GPUS,
    params:
        **told("train_teacher"),
    shell:
        command("train_teacher", "settings data out tuned code gpus threads")


rule teacher_outputs:
    input:
        reads("teacher_outputs"),
    output:
        f"{FOLDER}/{{dataset}}/teacher_outputs/{{teacher}}/seed{{seed}}/outputs.safetensors",
        f"{FOLDER}/{{dataset}}/teacher_outputs/{{teacher}}/seed{{seed}}/run.json",
    log:
        f"{LOGS}/teacher_outputs/{{dataset}}_{{teacher}}_seed{{seed}}.log",
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        **work("teacher_outputs"),
        gpu=GPUS,
    params:
        **told("teacher_outputs"),
    shell:
        command("teacher_outputs", "settings data teachers out code gpus threads")


rule pretrain_method:
    input:
        reads("pretrain_method"),
    output:
        [f"{PRESTAGE_FOLDER}/{file}" for file in ("extra.safetensors", "metrics.csv", "run.json")],
    log:
        f"{LOGS}/pretrain_method/{{dataset}}_{{teacher}}_{{method}}_seed{{seed}}.log",
    wildcard_constraints:
        method=any_of(name for name, variant in PLAN.variants.items() if variant.pretrain),
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        **work("pretrain_method"),
        gpu=GPUS,
    params:
        **told("pretrain_method"),
    shell:
        command("pretrain_method", "settings data teachers tuned out code gpus threads")
