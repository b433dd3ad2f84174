"""The networks of a run by role, with modes and gradients set by role."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from kd.engine.modes import COMPILED, TORCH, Mode, Modes, make_trainable
from kd.engine.precision import Precision
from kd.engine.runner import Runner, as_run
from kd.methods.contract import EXTRA, STUDENT, Context, Deploys, Method, Output, Outputs, Stage, part
from kd.models.base import TappedModel
from kd.models.freezing import apply_freezing, keep_frozen_in_eval

SHAPE_BATCH = 2

Taps = Mapping[str, Sequence[str]]
"""By role, what is read of its network beside its logits."""


class Team:
    """Student, teachers and peers by role, and the extra modules of the method.

    A role that no update of a stage trains is in eval mode without gradients, so its parameters and BatchNorm
    statistics stay bit-identical.
    """

    def __init__(
        self, models: Mapping[str, TappedModel], device: torch.device, modes: Mapping[str, Modes] | None = None
    ) -> None:
        self.models = dict(models)
        self.extra = nn.ModuleDict()
        self.device = device
        self.modes = dict(modes or {})
        for role, model in self.models.items():
            make_trainable(model, self._modes(role).trained, device)
        self._trainable = {id(p): p.requires_grad for model in self.models.values() for p in model.parameters()}
        self.taps: dict[str, tuple[str, ...]] = dict.fromkeys(self.models, ())
        self._frozen: dict[str, Runner | None] = {}
        self._compiled: dict[str, Runner] = {}
        self._partial = False
        self.captured = False
        """Whether its forward passes are part of a larger CUDA graph."""

    def add_extra(self, extra: nn.ModuleDict) -> None:
        """Take the modules that a method adds."""
        self.extra = extra.to(self.device)
        self._trainable.update({id(p): p.requires_grad for p in extra.parameters()})

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield every role with its module, the extra modules last."""
        yield from self.models.items()
        yield EXTRA, self.extra

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield what may be trained or not by itself: every network by role, every extra module as `part(name)`."""
        yield from self.models.items()
        for name, module in self.extra.items():
            yield part(name), module

    def parameters(self, role: str) -> list[nn.Parameter]:
        """Return the parameters of a role, or of one extra module, that may be trained."""
        module = dict([*self.modules(), *self.parts()])[role]
        return [p for p in module.parameters() if self._trainable[id(p)]]

    def enter(self, stage: Stage) -> None:
        """Set train and eval mode, and gradients, for the roles of a stage."""
        trained = stage.trained()
        # such a stage may train on features alone, and a compiled network gives what stands behind them zero gradients
        # in place of none, so that weight decay and momentum would move it
        self._partial = not stage.selects
        self.extra.train(stage.trains_extra)
        for role, module in self.parts():
            on = role in trained or (EXTRA in trained and role not in self.models)
            freezing = stage.freeze.get(role)
            if freezing is not None and isinstance(module, TappedModel):
                apply_freezing(module, freezing)
            trainable = {id(p): p.requires_grad or freezing is None for p in module.parameters()}
            module.train(on)
            if on and isinstance(module, TappedModel):
                keep_frozen_in_eval(module)
            for p in module.parameters():
                p.requires_grad_(trainable[id(p)] and self._trainable[id(p)] and on)

    def fold(self, roles: Iterable[str]) -> None:
        """Let the roles, which nothing trains until the next call, run with BatchNorm folded; all others run as is."""
        self._frozen = dict.fromkeys(roles)
        self._compiled = {}

    def make_ready(self, roles: Iterable[str], images: Tensor, precision: Precision) -> None:
        """Make what the roles run such images (B,3,H,W) with, so that making it is not counted as a pass."""
        for role in roles:
            self._runner(role, images, precision.name)

    @property
    def compiles(self) -> bool:
        """Whether a role runs compiled code, in which nobody can count operations."""
        return any(mode.kernels == COMPILED for modes in self.modes.values() for mode in (modes.trained, modes.frozen))

    def ran(self) -> dict[str, Modes]:
        """Return by role how networks run here: what was chosen, or torch's kernels where those are not to be had."""
        found = {}
        for role, model in self.models.items():
            modes = self._modes(role)
            trained = as_run(model, modes.trained, self.device)
            found[role] = Modes(trained, as_run(model, modes.frozen, self.device, frozen=True))
        return found

    def _modes(self, role: str, precision: str = "fp32") -> Modes:
        plain = Mode(precision, channels_last=False)
        return self.modes.get(role, Modes(plain, plain))

    def with_student(self, model: TappedModel) -> "Team":
        """Return the same team with another network of the student's kind in its place (averaged weights, say)."""
        other = copy.copy(self)
        other.models = {**self.models, STUDENT: model}
        return other

    def _runner(self, role: str, images: Tensor, precision: str) -> Runner:
        """Return what runs for a role; the folded copy of a frozen one is made when it is first asked for."""
        model, modes = self.models[role], self._modes(role, precision)
        if role in self._frozen:
            runner = self._frozen[role]
            if runner is None:
                seen = torch.randn((SHAPE_BATCH, *images.shape[1:]), generator=torch.Generator().manual_seed(0))
                seen = seen.to(images.device)
                runner = self._frozen[role] = Runner.frozen(model, modes.frozen, seen, self.captured)
            return runner
        if not model.training or self._partial or modes.trained.kernels != COMPILED:
            # validation runs as is: its batches are of other sizes
            return Runner(model, replace(modes.trained, kernels=TORCH))
        if role not in self._compiled:
            self._compiled[role] = Runner(model, modes.trained)
        return self._compiled[role]

    def forward(
        self,
        images: Tensor,
        precision: Precision,
        with_grad: frozenset[str] = frozenset(),
        known: Mapping[str, Output] | None = None,
        roles: Sequence[str] | None = None,
        taps: Taps | None = None,
    ) -> Outputs:
        """Run the models on images (B,3,H,W); `known` outputs are taken as they are.

        The precision is that of roles without a mode of their own. Roles that `taps` does not name give those of the
        team.
        """
        outputs, wanted = Outputs(known or {}), {**self.taps, **(taps or {})}
        for role in self.models if roles is None else roles:
            if role not in outputs:
                outputs[role] = self._answer(role, images, precision, role in with_grad, wanted[role])
        return outputs

    def _answer(self, role: str, images: Tensor, precision: Precision, with_grad: bool, taps: Sequence[str]) -> Output:
        # no_grad, not inference_mode: its tensors may enter projectors that need them at backward
        run = self._runner(role, images, precision.name)
        with torch.set_grad_enabled(with_grad):
            logits, found = run(images, taps)
        return Output(logits, found, self.models[role].classifier)

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return the state dict of every role."""
        return {role: module.state_dict() for role, module in self.modules()}

    def load_state(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Load what `state` returned."""
        for role, module in self.modules():
            module.load_state_dict(state[role])


def measure(team: Team, image_size: int, labels: Tensor, num_classes: int) -> Context:
    """Run one dry forward of every model in eval mode and return the shapes of all taps."""
    images = torch.zeros(SHAPE_BATCH, 3, image_size, image_size, device=team.device)
    shapes: dict[str, dict[str, torch.Size]] = {}
    for role, model in team.models.items():
        training = model.training
        model.eval()
        with torch.no_grad():
            _, taps = model(images, model.tap_names)
        model.train(training)
        shapes[role] = {name: tap.shape[1:] for name, tap in taps.items()}
    return Context(
        num_classes=num_classes,
        labels=labels,
        shapes=shapes,
        taps={role: tuple(model.tap_names) for role, model in team.models.items()},
        stages={role: tuple(model.stage_taps) for role, model in team.models.items()},
        norms={role: _norms(model) for role, model in team.models.items()},
        models=dict(team.models),
        image_size=image_size,
    )


def deploy(team: Team, method: Method, image_size: int, labels: Tensor, num_classes: int) -> tuple[Team, Context]:
    """Measure a team, let the method change its student, and return the team that is trained with its measures."""
    context = measure(team, image_size, labels, num_classes)
    if STUDENT not in team.models or not isinstance(method, Deploys):
        return team, context
    student = method.deployed(team.models[STUDENT], context)
    if student is team.models[STUDENT]:
        return team, context
    team = Team({**team.models, STUDENT: student}, team.device, team.modes)
    return team, measure(team, image_size, labels, num_classes)


def equip(team: Team, method: Method, context: Context) -> None:
    """Let the method name the taps that it reads, and give the team the modules that it adds."""
    named = method.taps(context)
    team.taps.update(named)
    team.add_extra(method.build(replace(context, named=named)))


def _norms(model: TappedModel) -> dict[str, tuple[Tensor, Tensor]]:
    """Return weight and bias of the BatchNorm before each activation that has a tap before it."""
    found = {tap: model.norm_before(tap) for tap in model.tap_names if tap.endswith(".pre")}
    return {tap: (norm.weight.detach(), norm.bias.detach()) for tap, norm in found.items() if norm is not None}


def student_of(team: Team) -> TappedModel:
    """Return the network that is trained and kept."""
    return team.models[STUDENT]
