# Teachers, fine-tuned or from scratch; what they make of one fixed view of the images; what a method prepares on them.


rule train_teacher:
    input:
        data=manifest,
        initial=lambda w: PLAN.initial_weights(w.teacher),
        tuned=lambda w: PLAN.tuned_for_teacher(w.dataset, w.teacher),
    output:
        best=f"{FOLDER}/{{dataset}}/teachers/{{teacher}}/seed{{seed}}/checkpoints/best.safetensors",
        last=f"{FOLDER}/{{dataset}}/teachers/{{teacher}}/seed{{seed}}/checkpoints/last.safetensors",
        metrics=f"{FOLDER}/{{dataset}}/teachers/{{teacher}}/seed{{seed}}/metrics.csv",
        run=f"{FOLDER}/{{dataset}}/teachers/{{teacher}}/seed{{seed}}/run.json",
    log:
        f"{FOLDER}/logs/train_teacher/{{dataset}}_{{teacher}}_seed{{seed}}.log",
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        **work("teacher_job"),
        gpu=GPUS,
    params:
        settings=lambda w: PLAN.teacher_job(w.dataset, w.teacher, int(w.seed)),
        code=lambda w: PLAN.teacher_code(w.teacher),
        out=lambda w, output: Path(output.run).parent,
    shell:
        'python "$SCRIPTS/train_teacher.py" --settings {params.settings:q} --data {input.data:q} --out {params.out:q}'
        " --tuned {input.tuned:q} --code {params.code} --gpus {resources.gpu} --threads {threads} --log {log:q}"


rule teacher_outputs:
    input:
        data=manifest,
        teacher=lambda w: f"{teacher_folder(w.dataset, w.teacher, int(w.seed))}/checkpoints/best.safetensors",
    output:
        outputs=f"{FOLDER}/{{dataset}}/teacher_outputs/{{teacher}}/seed{{seed}}/outputs.safetensors",
        run=f"{FOLDER}/{{dataset}}/teacher_outputs/{{teacher}}/seed{{seed}}/run.json",
    log:
        f"{FOLDER}/logs/teacher_outputs/{{dataset}}_{{teacher}}_seed{{seed}}.log",
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        **work("outputs_job"),
        gpu=GPUS,
    params:
        settings=lambda w: PLAN.outputs_job(w.dataset, w.teacher, int(w.seed)),
        code=lambda w: PLAN.outputs_code(w.teacher),
        out=lambda w, output: Path(output.run).parent,
    shell:
        'python "$SCRIPTS/teacher_outputs.py" --settings {params.settings:q} --data {input.data:q}'
        " --teachers {input.teacher:q} --out {params.out:q} --code {params.code} --gpus {resources.gpu}"
        " --threads {threads} --log {log:q}"


rule pretrain_method:
    input:
        data=manifest,
        teacher=lambda w: f"{teacher_folder(w.dataset, w.teacher, int(w.seed))}/checkpoints/best.safetensors",
        tuned=lambda w: PLAN.tuned_for_pretraining(w.dataset, w.teacher, w.method),
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
        **work("pretrain_job"),
        gpu=GPUS,
    params:
        settings=lambda w: PLAN.pretrain_job(w.dataset, w.teacher, w.method, int(w.seed)),
        code=lambda w: PLAN.pretrain_code(w.teacher, w.method),
        out=lambda w, output: Path(output.run).parent,
    shell:
        'python "$SCRIPTS/pretrain_method.py" --settings {params.settings:q} --data {input.data:q}'
        " --teachers {input.teacher:q} --tuned {input.tuned:q} --out {params.out:q} --code {params.code}"
        " --gpus {resources.gpu} --threads {threads} --log {log:q}"
