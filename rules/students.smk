# Students of every method that is one job; the baseline is the method ce.
ALONE = [
    name
    for name, variant in PLAN.variants.items()
    if not variant.chain and not variant.trial and name not in EXPERIMENT.co_train
]


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
        command("train_student", "settings data teachers outputs pretrained budget chosen out tuned code gpus threads")


# Those of co_train: a rule for each set of methods and seeds that one job trains.
TOGETHER = together(EXPERIMENT)
SIDE_BY_SIDE: dict[str, dict] = {}
"""By name of such a rule: the first run of its jobs, as far as its files have no wildcard for it."""
for NUMBER, SHARED in enumerate(TOGETHER, 1):
    FIRST = {"method": SHARED.methods[0], **({"seed": SHARED.seeds[0]} if SHARED.seeds else {})}
    NUMBERED = f"_{NUMBER}" if len(TOGETHER) > 1 else ""
    SIDE_BY_SIDE[f"train_students{NUMBERED}"] = FIRST
    FOLDERS = expand(RUN_FOLDER, method=SHARED.methods, seed=SHARED.seeds or "{seed}", allow_missing=True)

    rule train_students:
        name:
            f"train_students{NUMBERED}"
        input:
            reads("train_students", which=FIRST),
        output:
            [f"{folder}/{file}" for folder in FOLDERS for file in TRAINED.values()],
        log:
            f"{LOGS}/train_students/{{dataset}}_{{team}}{NUMBERED}{'' if SHARED.seeds else '_seed{seed}'}.log",
        conda:
            ENVIRONMENT
        threads: THREADS
        resources:
            **work("train_students", which=FIRST),
            gpu=GPUS,
        params:
            runs=told("train_students", which=FIRST)["settings"],
        shell:
            'python "$SCRIPTS/train_students.py" --runs {params.runs:q} --data {input.data:q}'
            " --teachers {input.teachers:q} --gpus {resources.gpu} --threads {threads} --results {output:q} --log {log:q}"
