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
        **told("check_pairs", as_file=True),
    shell:
        command("check_pairs", "checks out threads", checks="params.settings:q", out="output:q")


def misfits() -> list[str]:
    """Return what the check found not to fit, line by line, if that is why there are no results."""
    job = JOBS.of("check_pairs")
    refused = reason_of({"record": job.record, "identity": job.identity}) and Path(CHECK_LOG).is_file()
    lines = Path(CHECK_LOG).read_text(encoding="utf-8", errors="replace").splitlines() if refused else []
    return [line for line in lines if " ERROR " in line]


# Snakemake's words about the failed job would otherwise be the last that its user reads.
onerror:
    for sentence in misfits():
        print(sentence, file=sys.stderr)
