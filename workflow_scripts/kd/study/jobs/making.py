"""How the jobs of an experiment are made: one function a rule, in the files beside this one, says what a job is."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kd.study.continual import ContinualRun
from kd.study.digests import closure, code_digest, module_digest, text_digest
from kd.study.job_plan import JobPlan, record_in
from kd.study.options import options_of
from kd.study.plan import Plan
from kd.study.runs import NO_TEACHER, Run, Teacher
from kd.study.titles import title_of
from kd.study.user_files import file_digests

COMMAND = "the rule's command"
"""Among the sources of a job's code."""


@dataclass(frozen=True)
class Asked:
    """What a start of the workflow is asked (--config) that is no part of an experiment."""

    allow_missing: bool = False
    """Make tables of what there is, after failures."""
    benchmark: str = ""
    """Options of workflow_scripts/benchmark.py."""
    ckpt_path: str | None = None
    """Weights that evaluate_single reads instead of a run's own."""


class Jobs:
    """The jobs of a plan, each made once."""

    def __init__(self, plan: Plan, command: Callable[[str], str] = lambda rule: "", asked: Asked | None = None) -> None:
        self.plan, self.command, self.asked = plan, command, asked or Asked()
        """`command` tells the text of a rule's command, which decides a result as the code does."""
        self._run: dict[str, tuple[frozenset[str], str]] = {}
        self.known: dict[Hashable, Any] = {}

    def of(self, rule: str, *which: Hashable) -> JobPlan:
        """Return the job of a rule for what its function takes: a run, or data set, network and seed."""
        if (rule, which) not in self.known:
            made = RULES[rule](self, *which)
            self.known[rule, which] = made if made.title else replace(made, title=title_of(self.plan, rule, which))
        found: JobPlan = self.known[rule, which]
        return found

    def named(self, rule: str, wildcards: Mapping[str, str]) -> JobPlan:
        """Return the job that a rule's wildcards name."""
        return self.of(rule, *_arguments(wildcards))

    def trained(self, teacher: Teacher) -> JobPlan:
        """Return the job that leaves a teacher's weights."""
        if teacher.run:
            return self.training(teacher.run)
        return self.of("train_teacher", teacher.dataset, teacher.network, teacher.seed)

    def training(self, run: Run) -> JobPlan:
        """Return the job that leaves a run's weights."""
        variant = self.plan.variants[run.method]
        return self.of("asib_result" if variant.chain else "train_trial" if variant.trial else "train_student", run)

    def evaluated(self, teacher: Teacher) -> JobPlan:
        """Return the job that leaves a teacher's predictions."""
        if teacher.run:
            return self.of("evaluate", teacher.run)
        return self.of("evaluate_teacher", teacher.dataset, teacher.network, teacher.seed)

    def make(
        self, rule: str, folder: str, settings: str, modules: Iterable[str], files: Sequence[str] = (), **more: Any
    ) -> JobPlan:
        """Return a job of a rule that runs the given modules and starts from the given files of the user's."""
        command, run = self.command(rule), frozenset((*modules, *options_of(settings)))
        code = code_digest(run)
        given = file_digests(files, record_in(folder, rule)) if files else ()
        code = text_digest(code + command) if command else code
        self._run[code] = (run, command)
        return JobPlan(rule, folder, settings, code, given=given, **more)

    def sources(self) -> dict[str, dict[str, str]]:
        """Return what each digest of code among the jobs made so far is of: the digest of every module, by name."""
        return {
            code: {**{module: module_digest(module) for module in closure(run)}, COMMAND: text_digest(command)}
            for code, (run, command) in self._run.items()
        }


RULES: dict[str, Callable[..., JobPlan]] = {}
"""What makes a job of each rule."""


def of_rule(make: Callable[..., JobPlan]) -> Callable[..., JobPlan]:
    """Note what makes the jobs of the rule of its name; `Jobs.of` calls it once for each job."""
    RULES[make.__name__] = make
    return make


def _arguments(wildcards: Mapping[str, str]) -> tuple[Hashable, ...]:
    """Return what the function of a rule takes: one value a wildcard, in this order, runs as one."""
    found: dict[str, Hashable] = {**wildcards}
    for number in {"seed", "stage"} & set(found):
        found[number] = int(wildcards[number])
    if "team" in found:
        teachers, _, student = wildcards["team"].rpartition("--")
        names = () if teachers == NO_TEACHER else tuple(teachers.split("+"))
        method = wildcards.get("method", "")
        found["run"] = Run(wildcards["dataset"], names, student, method, int(wildcards["seed"]))
    elif "strategy" in found:
        dataset, student, strategy = (wildcards[name] for name in ("dataset", "student", "strategy"))
        found["run"] = ContinualRun(dataset, student, strategy, int(wildcards["seed"]))
    alone = ("dataset", "teacher", "network", "method", "seed", "stage", "sink")
    return tuple(found[name] for name in (("run", "stage", "half") if "run" in found else alone) if name in found)
