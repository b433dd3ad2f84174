# Images, packed once into arrays.


rule prepare_data:
    input:
        reads("prepare_data"),
    output:
        [f"{DATA_FOLDER}/{split}_{kind}.npy" for split in ("train", "test") for kind in ("images", "labels")],
        manifest=f"{DATA_FOLDER}/manifest.json",
    log:
        f"{LOGS}/prepare_data/{{dataset}}.log",
    conda:
        ENVIRONMENT
    threads: DECODING_THREADS
    resources:
        **work("prepare_data"),
    params:
        **told("prepare_data"),
        download=lambda w: "--download" if EXPERIMENT.datasets[w.dataset].download else "",
    shell:
        command("prepare_data", "settings out threads") + " {params.download}"
