# How fast this machine trains, against a plain loop of the field's kind; not a part of any experiment.


rule benchmark:
    output:
        json="results/benchmark/benchmark.json",
        report="results/benchmark/report.md",
    log:
        "results/benchmark/benchmark.log",
    conda:
        ENVIRONMENT
    threads: DECODING_THREADS
    resources:
        mem_mb=lambda wildcards, attempt: 16000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
        gpu=GPUS,
    params:
        options=BENCHMARK_OPTIONS,
        code=lambda wildcards: code_digest({"benchmark"}),
    shell:
        'python "$SCRIPTS/benchmark.py" --gpus {resources.gpu} --threads {threads} {params.options} --out {output.json:q}'
        " --log {log:q}"
