# The only rules that read the test split.


rule evaluate:
    input:
        reads(evaluation_of),
    output:
        predictions=f"{RUN_FOLDER}/predictions.npz",
        evaluation=f"{RUN_FOLDER}/evaluation.json",
    log:
        f"{FOLDER}/logs/evaluate/{{dataset}}_{{team}}_{{method}}_seed{{seed}}.log",
    wildcard_constraints:
        method=any_of(PLAN.variants),
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        gpu=GPUS,
        mem_mb=lambda w, attempt: 3000 * attempt,
        runtime=lambda w, attempt: 20 * attempt,
    params:
        **told(evaluation_of),
    shell:
        'python "$SCRIPTS/evaluate.py" --settings {params.settings:q} --data {input.data:q} --out {params.out:q}'
        " --teacher {input.teacher:q} --members {input.members:q} --gpus {resources.gpu} --threads {threads}"
        " --made {params.made:q} --results {output:q} --log {log:q}"


use rule evaluate as evaluate_teacher with:
    input:
        reads(teacher_evaluation_of),
    output:
        predictions=f"{TEACHER_FOLDER}/predictions.npz",
        evaluation=f"{TEACHER_FOLDER}/evaluation.json",
    log:
        f"{FOLDER}/logs/evaluate_teacher/{{dataset}}_{{teacher}}_seed{{seed}}.log",
    params:
        **told(teacher_evaluation_of),


rule evaluate_single:
    input:
        reads(single_of),
    output:
        f"{RUN_FOLDER}/single.json",
    log:
        f"{FOLDER}/logs/evaluate_single/{{dataset}}_{{team}}_{{method}}_seed{{seed}}.log",
    wildcard_constraints:
        method=any_of(PLAN.variants),
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        gpu=GPUS,
        mem_mb=lambda w, attempt: 3000 * attempt,
        runtime=lambda w, attempt: 20 * attempt,
    params:
        **told(single_of),
    shell:
        'python "$SCRIPTS/evaluate_single.py" --settings {params.settings:q} --data {input.data:q}'
        " --weights {input.weights:q} --out {output:q} --gpus {resources.gpu} --threads {threads}"
        " --made {params.made:q} --results {output:q} --log {log:q}"


rule evaluate_synergy:
    input:
        reads(synergy_of),
    output:
        f"{RUN_FOLDER}/synergy.json",
    log:
        f"{FOLDER}/logs/evaluate_synergy/{{dataset}}_{{team}}_{{method}}_seed{{seed}}.log",
    wildcard_constraints:
        method=CHAINS,
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        gpu=GPUS,
        mem_mb=lambda w, attempt: 3000 * attempt,
        runtime=lambda w, attempt: 20 * attempt,
    params:
        **told(synergy_of),
    shell:
        'python "$SCRIPTS/evaluate_synergy.py" --settings {params.settings:q} --data {input.data:q}'
        " --previous {input.previous:q} --out {output:q} --gpus {resources.gpu} --threads {threads}"
        " --made {params.made:q} --results {output:q} --log {log:q}"
