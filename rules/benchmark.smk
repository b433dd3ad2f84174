# How fast this machine trains, against a plain loop of the field's kind; not a part of any experiment.


rule benchmark:
    input:
        reads("benchmark"),
    output:
        json="results/benchmark/benchmark.json",
        report="results/benchmark/report.md",
    log:
        "results/benchmark/benchmark.log",
    conda:
        ENVIRONMENT
    threads: DECODING_THREADS
    resources:
        **work("benchmark"),
        gpu=GPUS,
    params:
        **told("benchmark", as_file=False),
    # several words, so not quoted
    shell:
        command("benchmark", "gpus threads out", out="output.json:q") + " {params.settings}"
