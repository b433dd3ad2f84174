# Every network and every method, before anything is trained: all that does not fit is told at once.
CHECK_LOG = f"{LOGS}/check_pairs.log"


rule check_pairs:
    input:
        reads("check_pairs"),
    output:
        CHECKED,
    log:
        CHECK_LOG,
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        **work("check_pairs"),
    params:
        **told("check_pairs"),
    shell:
        command("check_pairs", "checks out threads", checks="params.settings:q", out="output:q")


# Snakemake's words about the failed job would otherwise be the last that its user reads.
onerror:
    say(misfits() or failed())
