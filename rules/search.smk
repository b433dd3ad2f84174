# Searches of hyper-parameters: the trials of each method, and which of them its runs are trained like.
TRIALS = [name for name, variant in PLAN.variants.items() if variant.trial]

if PLAN.searches.runs:

    localrules:
        choose,
        trials,

    rule train_trial:
        input:
            reads("train_trial"),
        output:
            metrics=f"{RUN_FOLDER}/metrics.csv",
            run=f"{RUN_FOLDER}/run.json",
        log:
            f"{LOGS}/train_trial/{RUN_LOG}.log",
        wildcard_constraints:
            method=any_of(TRIALS),
        conda:
            ENVIRONMENT
        threads: THREADS
        resources:
            **work("train_trial"),
            gpu=GPUS,
        params:
            **told("train_trial"),
        shell:
            command("train_trial", "settings data teachers outputs pretrained out tuned code gpus threads")

    rule choose:
        input:
            reads("choose"),
        output:
            f"{RUN_FOLDER}/choice.json",
        log:
            f"{LOGS}/choose/{RUN_LOG}.log",
        conda:
            ENVIRONMENT
        params:
            **told("choose"),
        shell:
            command("choose", "settings runs out", out="output:q")

    rule trials:
        input:
            # with allow_missing the reasons of those that are not there may have changed
            reads("trials", fresh=not ASKED.allow_missing),
        output:
            report(reports.trials_file(PLAN), category="Tables"),
        log:
            f"{LOGS}/trials.log",
        conda:
            ENVIRONMENT
        params:
            **told("trials"),
        shell:
            command("collect_trials", "rows out", rows="params.settings:q", out="output:q")
