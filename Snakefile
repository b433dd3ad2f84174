# One comparison of distillation methods, from images to tables. The configuration is checked before any rule exists;
# what each rule does is in rules/, how it does it in workflow_scripts/.
import gc

from snakemake.utils import min_version

min_version("9.0")

# Thousands of jobs stay in memory to the end: searching them for garbage time and again takes a tenth of a dry run.
gc.set_threshold(100_000, 50, 1000)


include: "rules/common.smk"
include: "rules/targets.smk"
include: "rules/jobs.smk"
include: "rules/data.smk"
include: "rules/check.smk"
include: "rules/tune.smk"
include: "rules/teachers.smk"
include: "rules/students.smk"
include: "rules/search.smk"
include: "rules/asib.smk"
include: "rules/continual.smk"
include: "rules/evaluate.smk"
include: "rules/results.smk"
include: "rules/benchmark.smk"
include: "rules/words.smk"


# What killed processes left half written.
onstart:
    remove_leftovers(FOLDER)
    drop_old_texts()


# What a later job has not dropped already, now that everything is noted as done.
onsuccess:
    drop_finished(FOLDER)
    say([*found_out(), *failed()])


rule all:
    default_target: True
    input:
        [rules.tables.output, rules.figures.output, rules.page.output] if PLAN.runs else [],
        rules.analysis.output if PLAN.designs else [],
        expand(rules.sink.output, sink=EXPERIMENT.report.sinks) if PLAN.runs else [],
        rules.continual_report.output if PLAN.continual.runs else [],


rule trained:
    input:
        [f"{FOLDER}/{run.path}/evaluation.json" for run in PLAN.runs],


rule single:
    input:
        [f"{FOLDER}/{run.path}/single.json" for run in PLAN.runs],


rule synergy:
    input:
        [f"{FOLDER}/{run.path}/synergy.json" for run in PLAN.runs if PLAN.variants[run.method].chain],
