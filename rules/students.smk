# Students of every method that is one job; the baseline is the method ce.


rule train_student:
    input:
        data=manifest,
        teachers=teacher_weights,
        pretrained=pretrained,
        initial=lambda w: PLAN.initial_weights(run_of(w).student),
    output:
        best=f"{FOLDER}/{{dataset}}/{{team}}/{{method}}/seed{{seed}}/checkpoints/best.safetensors",
        last=f"{FOLDER}/{{dataset}}/{{team}}/{{method}}/seed{{seed}}/checkpoints/last.safetensors",
        metrics=f"{FOLDER}/{{dataset}}/{{team}}/{{method}}/seed{{seed}}/metrics.csv",
        run=f"{FOLDER}/{{dataset}}/{{team}}/{{method}}/seed{{seed}}/run.json",
    log:
        f"{FOLDER}/logs/train_student/{{dataset}}_{{team}}_{{method}}_seed{{seed}}.log",
    wildcard_constraints:
        method=any_of(name for name, variant in PLAN.variants.items() if not variant.chain),
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        **work("student_job"),
        gpu=GPUS,
    params:
        settings=lambda w: PLAN.student_job(run_of(w)),
        code=lambda w: PLAN.run_code(run_of(w)),
        data=lambda w, input: Path(input.data).parent,
        out=lambda w, output: Path(output.run).parent,
        pretrained=lambda w, input: ["--pretrained", input.pretrained] if input.pretrained else [],
    shell:
        'python "$SCRIPTS/train_student.py" --settings {params.settings:q} --data {params.data:q}'
        " --teachers {input.teachers:q} {params.pretrained:q} --out {params.out:q} --code {params.code}"
        " --gpus {resources.gpu} --threads {threads} --log {log:q}"
