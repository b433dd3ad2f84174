# Images, packed once into arrays.


rule prepare_data:
    output:
        f"{FOLDER}/{{dataset}}/data/train_images.npy",
        f"{FOLDER}/{{dataset}}/data/train_labels.npy",
        f"{FOLDER}/{{dataset}}/data/test_images.npy",
        f"{FOLDER}/{{dataset}}/data/test_labels.npy",
        manifest=f"{FOLDER}/{{dataset}}/data/manifest.json",
    log:
        f"{FOLDER}/logs/prepare_data/{{dataset}}.log",
    conda:
        ENVIRONMENT
    threads: DECODING_THREADS
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        settings=lambda wildcards: PLAN.data_settings(wildcards.dataset),
        code=lambda wildcards: PLAN.data_code(wildcards.dataset),
        out=lambda wildcards: f"{FOLDER}/{wildcards.dataset}/data",
    shell:
        'python "$SCRIPTS/prepare_data.py" --settings {params.settings:q} --out {params.out:q}'
        " --threads {threads} --log {log:q}"
