"""Rules and files that a user asks Snakemake for by name, and why an experiment has none of that name."""

import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import PurePath

from kd.study.chain import HALVES
from kd.study.continual import ContinualPlan
from kd.tools.errors import did_you_mean, shown

MOST_NAMED = 40
"""Names that a sentence lists."""


class Targets:
    """What can be asked for: rules without wildcards, and the files that rules make in the folders of a plan."""

    def __init__(self, plan: ContinualPlan, rules: Iterable[str], outputs: Iterable[str]) -> None:
        self.plan, self.rules, self.outputs = plan, sorted(rules), list(outputs)
        """`outputs` are those of all rules, with {wildcards}."""

    def not_planned(self, target: str) -> str:
        """Return why a file lies in no folder that the experiment plans; nothing where one may lie there."""
        places = PurePath(os.path.relpath(target)).parts[:-1]
        home, within = self.plan.folder, self._folders
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
            f"files of this experiment lie in {self.plan.folder}"
        )

    @cached_property
    def _folders(self) -> list[str]:
        """All folders of results, each with a '/' behind it."""
        fixed = [str(PurePath(output).parent) for output in self.outputs if "{" not in output]
        folders = [*self._of_runs(), *(folder for folder in fixed if folder.startswith(f"{self.plan.folder}/"))]
        return [f"{folder}/" for folder in dict.fromkeys(folders)]

    def _of_runs(self) -> Iterator[str]:
        plan = self.plan
        for dataset in plan.experiment.datasets:
            yield f"{plan.folder}/{dataset}/data"
            yield from (f"{plan.folder}/{dataset}/tuned/{network}" for network in plan.architectures)
        for dataset, name, seed in plan.teachers:
            yield f"{plan.teacher_folder(dataset, name, seed)}/checkpoints"
        for run in plan.runs:
            folder = f"{plan.folder}/{run.path}"
            yield from (f"{folder}/checkpoints", *plan.pretrain_folders(run), *plan.outputs_folders(run))
            if plan.variants[run.method].chain:
                stages = range(1, plan.stages(run.method) + 1)
                yield from (f"{folder}/stage{stage}/{half}/checkpoints" for stage in stages for half in HALVES)
                yield f"{folder}/synergy_outputs"
        for one in plan.continual_runs:
            yield f"{plan.folder}/{one.path}/checkpoints"
            for name in plan.taught_by(one):
                yield f"{plan.teacher_folder(one.dataset, name, one.seed)}/checkpoints"


def _instead(name: str, planned: list[str]) -> str:
    listed = [*planned[:MOST_NAMED], *(["..."] if planned[MOST_NAMED:] else [])]
    return f"{did_you_mean(name, planned)}planned are {', '.join(listed)}"
