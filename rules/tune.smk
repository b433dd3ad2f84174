# How each network runs fastest on this machine, measured once for all runs of a data set that are long enough.


rule tune:
    input:
        reads(measurement_of),
    output:
        choice=f"{FOLDER}/{{dataset}}/tuned/{{network}}/choice.json",
        measured=f"{FOLDER}/{{dataset}}/tuned/{{network}}/measured.json",
    log:
        f"{FOLDER}/logs/tune/{{dataset}}_{{network}}.log",
    wildcard_constraints:
        network=any_of(PLAN.architectures),
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        gpu=GPUS,
        mem_mb=lambda w, attempt: 6000 * attempt,
        runtime=lambda w, attempt: 30 * attempt,
    params:
        **told(measurement_of),
    shell:
        'python "$SCRIPTS/tune.py" --settings {params.settings:q} --data {input.data:q} --out {params.out:q}'
        " --code {params.code} --gpus {resources.gpu} --threads {threads} --made {params.made:q} --results {output:q} --log {log:q}"
