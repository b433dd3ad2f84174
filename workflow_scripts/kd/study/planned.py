"""Rules and files that a user asks Snakemake for by name, and why an experiment has none of that name."""

import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import PurePath

from kd.study.job_plan import all_before
from kd.study.jobs import Jobs
from kd.tools.errors import did_you_mean, shown

MOST_NAMED = 40
"""Names that a sentence lists."""


class Targets:
    """What can be asked for: rules without wildcards, and the files that rules make in the folders of an experiment."""

    def __init__(self, jobs: Jobs, rules: Iterable[str], outputs: Iterable[str]) -> None:
        self.jobs, self.rules, self.outputs = jobs, sorted(rules), list(outputs)
        """`outputs` are those of all rules, with {wildcards}."""

    def not_planned(self, target: str) -> str:
        """Return why a file lies in no folder that the experiment plans; nothing where one may lie there."""
        places = PurePath(os.path.relpath(target)).parts[:-1]
        home, within = self.jobs.plan.folder, self._folders
        outside = PurePath(home).parts
        if places[: len(outside)] != outside:
            return ""
        for name in places[len(outside) :]:
            there = [folder for folder in within if folder.startswith(f"{home}/{name}/")]
            if not there:
                planned = list(dict.fromkeys(folder[len(home) + 1 :].split("/")[0] for folder in within))
                return f"Target {target}: the experiment has no {shown(name)} in {home}: {_instead(name, planned)}"
            home, within = f"{home}/{name}", there
        return ""

    def no_such(self, target: str) -> str:
        """Return why no rule makes a target."""
        name = PurePath(target).name
        names = {PurePath(output).name for output in self.outputs}
        hint = did_you_mean(target, self.rules) or ("" if name in names else did_you_mean(name, names))
        return self.not_planned(target) or (
            f"Target {target}: no rule has this name or makes such a file: {hint}rules are {', '.join(self.rules)}; "
            f"files of this experiment lie in {self.jobs.plan.folder}"
        )

    @cached_property
    def _folders(self) -> list[str]:
        """All folders of results, each with a '/' behind it."""
        fixed = [str(PurePath(output).parent) for output in self.outputs if "{" not in output]
        folders = [*self._of_jobs(), *(folder for folder in fixed if folder.startswith(f"{self.jobs.plan.folder}/"))]
        return [f"{folder}/" for folder in dict.fromkeys(folders)]

    def _of_jobs(self) -> Iterator[str]:
        jobs, plan = self.jobs, self.jobs.plan
        for dataset in plan.experiment.datasets:
            yield jobs.of("prepare_data", dataset).folder
            yield from (jobs.of("tune", dataset, network).folder for network in plan.built_as)
        ends = [*(jobs.of("evaluate", run) for run in plan.runs), *map(jobs.evaluated, plan.teachers)]
        chains = [run for run in plan.runs if plan.variants[run.method].chain]
        ends += [jobs.of("synergy_outputs", run) for run in chains if plan.continual.runs]
        ends += [jobs.of("continual_matrix", run) for run in plan.continual.runs]
        for job in dict.fromkeys(one for end in ends for one in (*all_before(end), end)):
            yield f"{job.folder}/checkpoints"


def _instead(name: str, planned: list[str]) -> str:
    listed = [*planned[:MOST_NAMED], *(["..."] if planned[MOST_NAMED:] else [])]
    return f"{did_you_mean(name, planned)}planned are {', '.join(listed)}"
