# Students of every method that is one job; the baseline is the method ce.
ALONE = [name for name, variant in PLAN.variants.items() if not variant.chain and name not in EXPERIMENT.co_train]


rule train_student:
    input:
        reads("train_student"),
    output:
        **trained(RUN_FOLDER),
    log:
        f"{LOGS}/train_student/{RUN_LOG}.log",
    wildcard_constraints:
        method=any_of(ALONE),
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        **work("train_student"),
        gpu=GPUS,
    params:
        **told("train_student"),
    shell:
        command("train_student", "settings data teachers outputs pretrained out tuned code gpus threads")


if EXPERIMENT.co_train:

    rule train_students:
        input:
            reads("train_students"),
        output:
            expand(f"{RUN_FOLDER}/{{file}}", method=EXPERIMENT.co_train, file=TRAINED.values(), allow_missing=True),
        log:
            f"{LOGS}/train_students/{{dataset}}_{{team}}_seed{{seed}}.log",
        conda:
            ENVIRONMENT
        threads: THREADS
        resources:
            **work("train_students"),
            gpu=GPUS,
        params:
            runs=lambda w: text_file(JOBS.named("train_students", w).settings),
        shell:
            'python "$SCRIPTS/train_students.py" --runs {params.runs:q} --data {input.data:q}'
            " --teachers {input.teachers:q} --gpus {resources.gpu} --threads {threads} --results {output:q} --log {log:q}"
