# How each network runs fastest on this machine, measured once for all runs of a data set that are long enough.


rule tune:
    input:
        reads("tune"),
    output:
        [f"{FOLDER}/{{dataset}}/tuned/{{network}}/{file}.json" for file in ("choice", "measured")],
    log:
        f"{LOGS}/tune/{{dataset}}_{{network}}.log",
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        **work("tune"),
        gpu=GPUS,
    params:
        **told("tune"),
    shell:
        command("tune", "settings data out code gpus threads")
