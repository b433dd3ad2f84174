# Students of every method that is one job; the baseline is the method ce.


rule train_student:
    input:
        reads(student_of),
    output:
        best=f"{RUN_FOLDER}/checkpoints/best.safetensors",
        last=f"{RUN_FOLDER}/checkpoints/last.safetensors",
        metrics=f"{RUN_FOLDER}/metrics.csv",
        run=f"{RUN_FOLDER}/run.json",
    log:
        f"{FOLDER}/logs/train_student/{{dataset}}_{{team}}_{{method}}_seed{{seed}}.log",
    wildcard_constraints:
        method=any_of(
            name for name, variant in PLAN.variants.items() if not variant.chain and name not in EXPERIMENT.co_train
        ),
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        **work(student_of),
        gpu=GPUS,
    params:
        **told(student_of),
    shell:
        'python "$SCRIPTS/train_student.py" --settings {params.settings:q} --data {input.data:q}'
        " --teachers {input.teachers:q} --outputs {input.outputs:q} --pretrained {input.pretrained:q} --out {params.out:q}"
        " --tuned {input.tuned:q} --code {params.code} --gpus {resources.gpu} --threads {threads}"
        " --made {params.made:q} --results {output:q} --log {log:q}"


if EXPERIMENT.co_train:

    rule train_students:
        input:
            unpack(together_inputs),
        output:
            expand(
                f"{FOLDER}/{{{{dataset}}}}/{{{{team}}}}/{{method}}/seed{{{{seed}}}}/{{file}}",
                method=EXPERIMENT.co_train,
                file=["checkpoints/best.safetensors", "checkpoints/last.safetensors", "metrics.csv", "run.json"],
            ),
        log:
            f"{FOLDER}/logs/train_students/{{dataset}}_{{team}}_seed{{seed}}.log",
        conda:
            ENVIRONMENT
        threads: THREADS
        resources:
            runtime=lambda w, attempt: sum(runtime_minutes(job.settings, job.images, attempt) for job in together(w)),
            mem_mb=lambda w, attempt: memory_together_mb([job.settings for job in together(w)], attempt),
            gpu=GPUS,
        params:
            runs=lambda w: text_file(JOBS.side_by_side(companions(w))),
        shell:
            'python "$SCRIPTS/train_students.py" --runs {params.runs:q} --data {input.data:q}'
            " --teachers {input.teachers:q} --gpus {resources.gpu} --threads {threads} --results {output:q} --log {log:q}"
