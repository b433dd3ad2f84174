# Images, packed once into arrays.


rule prepare_data:
    input:
        reads(packing_of),
    output:
        f"{DATA_FOLDER}/train_images.npy",
        f"{DATA_FOLDER}/train_labels.npy",
        f"{DATA_FOLDER}/test_images.npy",
        f"{DATA_FOLDER}/test_labels.npy",
        manifest=f"{DATA_FOLDER}/manifest.json",
    log:
        f"{FOLDER}/logs/prepare_data/{{dataset}}.log",
    conda:
        ENVIRONMENT
    threads: DECODING_THREADS
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        **told(packing_of),
        download=lambda wildcards: "--download" if EXPERIMENT.datasets[wildcards.dataset].download else "",
    shell:
        'python "$SCRIPTS/prepare_data.py" --settings {params.settings:q} {params.download} --out {params.out:q}'
        " --threads {threads} --made {params.made:q} --results {output:q} --log {log:q}"
