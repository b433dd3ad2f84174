# Teachers, fine-tuned or from scratch; what they make of one fixed view of the images; what a method prepares on them.


rule train_teacher:
    input:
        reads(teacher_of),
    output:
        best=f"{TEACHER_FOLDER}/checkpoints/best.safetensors",
        last=f"{TEACHER_FOLDER}/checkpoints/last.safetensors",
        metrics=f"{TEACHER_FOLDER}/metrics.csv",
        run=f"{TEACHER_FOLDER}/run.json",
    log:
        f"{FOLDER}/logs/train_teacher/{{dataset}}_{{teacher}}_seed{{seed}}.log",
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        **work(teacher_of),
        gpu=GPUS,
    params:
        **told(teacher_of),
    shell:
        'python "$SCRIPTS/train_teacher.py" --settings {params.settings:q} --data {input.data:q} --out {params.out:q}'
        " --tuned {input.tuned:q} --code {params.code} --gpus {resources.gpu} --threads {threads}"
        " --made {params.made:q} --results {output:q} --log {log:q}"


rule teacher_outputs:
    input:
        reads(outputs_of),
    output:
        outputs=f"{FOLDER}/{{dataset}}/teacher_outputs/{{teacher}}/seed{{seed}}/outputs.safetensors",
        run=f"{FOLDER}/{{dataset}}/teacher_outputs/{{teacher}}/seed{{seed}}/run.json",
    log:
        f"{FOLDER}/logs/teacher_outputs/{{dataset}}_{{teacher}}_seed{{seed}}.log",
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        **work(outputs_of),
        gpu=GPUS,
    params:
        **told(outputs_of),
    shell:
        'python "$SCRIPTS/teacher_outputs.py" --settings {params.settings:q} --data {input.data:q}'
        " --teachers {input.teachers:q} --out {params.out:q} --code {params.code} --gpus {resources.gpu}"
        " --threads {threads} --made {params.made:q} --results {output:q} --log {log:q}"


rule pretrain_method:
    input:
        reads(pretraining_of),
    output:
        extra=f"{FOLDER}/{{dataset}}/pretrain/{{teacher}}/{{method}}/seed{{seed}}/extra.safetensors",
        metrics=f"{FOLDER}/{{dataset}}/pretrain/{{teacher}}/{{method}}/seed{{seed}}/metrics.csv",
        run=f"{FOLDER}/{{dataset}}/pretrain/{{teacher}}/{{method}}/seed{{seed}}/run.json",
    log:
        f"{FOLDER}/logs/pretrain_method/{{dataset}}_{{teacher}}_{{method}}_seed{{seed}}.log",
    wildcard_constraints:
        method=any_of(name for name, variant in PLAN.variants.items() if variant.pretrain),
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        **work(pretraining_of),
        gpu=GPUS,
    params:
        **told(pretraining_of),
    shell:
        'python "$SCRIPTS/pretrain_method.py" --settings {params.settings:q} --data {input.data:q}'
        " --teachers {input.teachers:q} --tuned {input.tuned:q} --out {params.out:q} --code {params.code}"
        " --gpus {resources.gpu} --threads {threads} --made {params.made:q} --results {output:q} --log {log:q}"
