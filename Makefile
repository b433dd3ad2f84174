# Short names for envs/task.py, which also runs where there is no make.
.PHONY: setup quickstart test lint format report bench docs slurm-profile

PYTHON ?= python3

setup quickstart test lint format report bench docs slurm-profile:
	$(PYTHON) envs/task.py $@ $(ARGS)
