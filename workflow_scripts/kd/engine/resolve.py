"""From a card to the method's code: the one place where a method's name becomes a class."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Generator, Tensor, nn

from kd.data.needs import Needs
from kd.methods.contract import Batch, Context, Method, Outputs, Progress, Stage
from kd.models.base import TappedModel
from kd.schema.cards import card
from kd.study.job_settings import MethodPart
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
        method = method_class(part.card)(card(part.card).resolve(settings, part.card))
        method.teachers = teachers
        built[card(part.card).name] = method
    return next(iter(built.values())) if len(built) == 1 else Combined(built)


class Combined(Method):
    """Several methods trained together: losses add up, needs are united, extra modules live side by side."""

    def __init__(self, methods: dict[str, Method]) -> None:
        self.methods = methods
        plans = {name: method.plan() for name, method in methods.items()}
        longest = max(plans.values(), key=len)
        several = [name for name, plan in plans.items() if len(plan) > 1 or len(plan[0].updates) > 1]
        if several:
            raise UserError(f"{', '.join(several)} trains in several stages or updates and cannot be combined")
        mixing = [name for name, method in methods.items() if type(method).prepare is not Method.prepare]
        if mixing:
            raise UserError(f"{', '.join(mixing)} changes batches for its own loss and cannot be combined with others")
        self._plan = longest

    def inference_modules(self, extra: nn.ModuleDict) -> list[nn.Module]:
        """Return what inference needs of every method."""
        return [
            module for name, method in self.methods.items() for module in method.inference_modules(_own(extra, name))
        ]

    def needs(self) -> Needs:
        """Unite the needs of all methods."""
        united = Needs(live_teacher=False)
        for method in self.methods.values():
            united = united | method.needs()
        return united

    def plan(self) -> list[Stage]:
        """Return the one stage that all methods share."""
        return self._plan

    def pretrain_plan(self) -> Stage:
        """Return the pre-stage of the method that has one."""
        staged = (one for one in self.methods.values() if type(one).pretrain_plan is not Method.pretrain_plan)
        return next(staged).pretrain_plan()

    def bind(self, context: Context) -> None:
        """Resolve the taps of each method; every network gives those of all."""
        for method in self.methods.values():
            method.bind(context)
        self.role_taps = {
            role: tuple(dict.fromkeys(tap for method in self.methods.values() for tap in method.role_taps[role]))
            for role in context.taps
        }

    def student(self, model: TappedModel, context: Context) -> TappedModel:
        """Let the methods change the student in turn."""
        for method in self.methods.values():
            model = method.student(model, context)
        return model

    def prepare(self, batch: Batch, generator: Generator) -> Batch:
        """Let the methods change the batch in turn."""
        for method in self.methods.values():
            batch = method.prepare(batch, generator)
        return batch

    def momenta(self) -> Mapping[str, float]:
        """Unite what the methods ask of their terms' momenta."""
        return {term: offset for method in self.methods.values() for term, offset in method.momenta().items()}

    def build(self, context: Context) -> nn.ModuleDict:
        """Return each method's modules under its name."""
        return nn.ModuleDict({name: method.build(context) for name, method in self.methods.items()})

    def loss(
        self, update: str, batch: Batch, outputs: Outputs, extra: nn.ModuleDict, progress: Progress
    ) -> dict[str, Tensor]:
        """Return every method's terms, named 'method.term'."""
        terms: dict[str, Tensor] = {}
        for name, method in self.methods.items():
            own = method.loss(update, batch, outputs, _own(extra, name), progress)
            terms.update({f"{name}.{term}": value for term, value in own.items()})
        return terms

    def heads(self, outputs: Outputs, extra: nn.ModuleDict) -> dict[str, Tensor]:
        """Return the heads of every method."""
        found: dict[str, Tensor] = {}
        for name, method in self.methods.items():
            found.update(method.heads(outputs, _own(extra, name)))
        return found

    def weight(self, term: str, progress: Progress) -> float:
        """Ask the method that the term belongs to."""
        name, own = term.split(".", 1)
        return self.methods[name].weight(own, progress)


def has_heads(method: Method) -> bool:
    """Whether a method scores heads of its own, for which every network has to see the validation images."""
    parts = method.methods.values() if isinstance(method, Combined) else [method]
    return any(type(part).heads is not Method.heads for part in parts)


def _own(extra: nn.ModuleDict, name: str) -> nn.ModuleDict:
    modules = extra[name]
    assert isinstance(modules, nn.ModuleDict), f"{name} built no ModuleDict"
    return modules
