# How fast this machine trains, against a plain loop of the field's kind; not a part of any experiment.


rule benchmark:
    input:
        reads(benchmark_of),
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
        # several words, so not quoted
        options=lambda wildcards: BENCHMARK_OPTIONS,
        made=lambda wildcards: noted(benchmark_of(wildcards)),
    shell:
        'python "$SCRIPTS/benchmark.py" --gpus {resources.gpu} --threads {threads} {params.options} --out {output.json:q}'
        " --made {params.made:q} --results {output:q} --log {log:q}"
