"""From a card to the method's code: the one place where a method's name becomes a class."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from kd.data.wants import Wants
from kd.methods.contract import (
    TRAIN,
    Context,
    Deploys,
    Halved,
    Heads,
    Look,
    Method,
    Momenta,
    Output,
    Outputs,
    Prepares,
    Pretrains,
    Progress,
    Scheduled,
    Stage,
    Step,
    Surveys,
    stages_of,
    teacher,
)
from kd.models.base import TappedModel
from kd.schema.cards import MethodSettings, card
from kd.study.job_settings import JobSettings, MethodPart
from kd.tools.errors import UserError
from kd.tools.own_code import is_own, module_at


def method_class(name: str) -> type[Method]:
    """Return the one Method subclass that the card's module defines; a user's own without one is a UserError."""
    source = card(name).module
    module = module_at(source) if is_own(source) else importlib.import_module(source)
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(found) != 1 and is_own(source):
        defined = ", ".join(kind.__name__ for kind in found) or "none"
        raise UserError(f"{source} must define one class of kd.methods.contract.Method, found {defined}")
    assert len(found) == 1, f"{source} must define exactly one Method, found {found}"
    return found[0]


def build_method(parts: Sequence[MethodPart], teachers: int) -> Method:
    """Return the method of a run: one loss, or several that add up."""
    built: dict[str, Method] = {}
    for part in parts:
        settings: dict[str, Any] = part.settings
        built[card(part.card).name] = method_class(part.card)(card(part.card).resolve(settings, part.card), teachers)
    return next(iter(built.values())) if len(built) == 1 else Combined(built, teachers)


def stages_of_job(job: JobSettings, method: Method) -> list[Stage]:
    """Return the stages that a job trains: a pre-stage where there is no student, one half of a chain, or all.

    A pre-stage that measures trains none.
    """
    if job.student is None:
        if isinstance(method, Surveys):
            return []
        assert isinstance(method, Pretrains), f"{method.name} has no pre-stage"
        return [method.pretrain_plan()]
    if job.half is not None:
        assert isinstance(method, Halved), f"{method.name} is no chain"
        return [method.half_stage(job.half)]
    return stages_of(method)


class Combined(Method):
    """Several methods trained together: losses add up, wants are united, extra modules live side by side.

    Of the hooks that few methods have it has those of its methods, so that the engine asks it as it asks any other.
    """

    def __init__(self, methods: Mapping[str, Method], teachers: int) -> None:
        super().__init__(MethodSettings(), teachers)
        self.methods = methods
        several = [name for name, method in methods.items() if stages_of(method) != [TRAIN]]
        if several:
            raise UserError(f"{', '.join(several)} trains in several stages or updates and cannot be combined")
        mixing = [name for name, method in methods.items() if isinstance(method, Prepares)]
        if mixing:
            raise UserError(f"{', '.join(mixing)} changes batches for its own loss and cannot be combined with others")
        trained = [name for name, method in methods.items() if isinstance(method, Pretrains)]
        measured = [name for name, method in methods.items() if isinstance(method, Surveys)]
        if trained and len(trained) + len(measured) > 1:
            raise UserError(f"{', '.join(trained + measured)} have pre-stages of their own and cannot be combined")
        self._named: dict[str, dict[str, tuple[str, ...]]] = {}
        for hook, name, own in (
            (Deploys, "deployed", self._deployed),
            (Heads, "heads", self._heads),
            (Momenta, "momenta", self._momenta),
            (Scheduled, "schedule", self._schedule),
            (Surveys, "survey", self._survey),
        ):
            if any(isinstance(method, hook) for method in methods.values()):
                setattr(self, name, own)

    def wants(self) -> Wants:
        """Unite the wants of all methods."""
        united = Wants(live_teacher=False)
        for method in self.methods.values():
            united = united | method.wants()
        return united

    def taps(self, context: Context) -> dict[str, tuple[str, ...]]:
        """Return the taps of all methods, and note whose they are."""
        self._named = {name: method.taps(context) for name, method in self.methods.items()}
        every = [(role, tap) for named in self._named.values() for role, taps in named.items() for tap in taps]
        return {role: tuple(dict.fromkeys(tap for own, tap in every if own == role)) for role, _ in every}

    def build(self, context: Context) -> nn.ModuleDict:
        """Return each method's modules under its name."""
        return nn.ModuleDict(
            {name: method.build(replace(context, named=self._named[name])) for name, method in self.methods.items()}
        )

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return every method's terms, named 'method.term'; each sees the taps that it named, and its own modules."""
        terms: dict[str, Tensor] = {}
        for name, method in self.methods.items():
            seen, extra = step.seen.narrowed(self._named[name]), _own(step.extra, name)
            schedule = _of(name, step.schedule)
            found = method.loss(replace(step, seen=seen, extra=extra, schedule=schedule))
            terms.update({f"{name}.{term}": value for term, value in found.items()})
        return terms

    def weight(self, term: str, progress: Progress) -> float:
        """Ask the method that the term belongs to."""
        name, own = term.split(".", 1)
        return self.methods[name].weight(own, progress)

    # --- hooks, there if a method has them --------------------------------------------------------

    def _deployed(self, student: TappedModel, context: Context) -> TappedModel:
        """Let the methods change the student in turn."""
        for method in self.methods.values():
            if isinstance(method, Deploys):
                student = method.deployed(student, context)
        return student

    def _heads(self, outputs: Outputs, extra: nn.ModuleDict) -> dict[str, Tensor]:
        """Return the heads of every method."""
        found: dict[str, Tensor] = {}
        for name, method in self.methods.items():
            if isinstance(method, Heads):
                found.update(method.heads(outputs.narrowed(self._named[name]), _own(extra, name)))
        return found

    def _momenta(self) -> dict[str, float]:
        """Unite what the methods ask of their terms' momenta."""
        asked = [method.momenta() for method in self.methods.values() if isinstance(method, Momenta)]
        return {term: offset for momenta in asked for term, offset in momenta.items()}

    def _schedule(self, progress: Progress) -> dict[str, float]:
        """Return every method's schedules, named 'method.schedule'."""
        return {
            f"{name}.{key}": value
            for name, method in self.methods.items()
            if isinstance(method, Scheduled)
            for key, value in method.schedule(progress).items()
        }

    def _survey(self, extra: nn.ModuleDict, labels: Tensor, look: Look) -> None:
        """Let each method that measures do so; it sees the taps that it named, and its own modules."""
        for name, method in self.methods.items():
            if isinstance(method, Surveys):
                named = {teacher(0): self._named[name].get(teacher(0), ())}

                def own(positions: Tensor, augmented: bool = False, named: dict[str, Any] = named) -> Output:
                    return Outputs({teacher(0): look(positions, augmented)}).narrowed(named).teacher

                method.survey(_own(extra, name), labels, own)


def _of(name: str, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries named 'name.key', by key."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in named.items() if key.startswith(prefix)}


def _own(extra: nn.ModuleDict, name: str) -> nn.ModuleDict:
    modules = extra[name]
    assert isinstance(modules, nn.ModuleDict), f"{name} built no ModuleDict"
    return modules
