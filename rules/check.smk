# Every network and every method, before anything is trained: all that does not fit is told at once.


rule check_pairs:
    input:
        reads(check_of),
    output:
        CHECKED,
    log:
        CHECK_LOG,
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        mem_mb=lambda w, attempt: 8000 * attempt,
        runtime=lambda w, attempt: 30 * attempt,
    params:
        checks=lambda w: text_file(JOBS.check().settings),
        made=lambda w: noted(JOBS.check()),
    shell:
        'python "$SCRIPTS/check_pairs.py" --checks {params.checks:q} --out {output:q} --threads {threads}'
        " --made {params.made:q} --results {output:q} --log {log:q}"


# Snakemake's words about the failed job would otherwise be the last that its user reads.
onerror:
    for sentence in misfits():
        print(sentence, file=sys.stderr)
