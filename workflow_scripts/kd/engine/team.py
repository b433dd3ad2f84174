"""The networks of a run by role, with modes and gradients set by role."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from kd.engine.precision import Precision
from kd.methods.contract import EXTRA, STUDENT, Context, Method, Output, Stage
from kd.models.base import TappedModel
from kd.models.folding import folded
from kd.models.freezing import apply_freezing, keep_frozen_in_eval

SHAPE_BATCH = 2


class Team:
    """Student, teachers and peers by role, and the extra modules of the method.

    A role that no update of a stage trains is in eval mode without gradients, so its parameters and BatchNorm
    statistics stay bit-identical.
    """

    def __init__(self, models: Mapping[str, TappedModel], device: torch.device, channels_last: bool = False) -> None:
        self.models = dict(models)
        self.extra = nn.ModuleDict()
        self.device = device
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        for model in self.models.values():
            model.to(device=device, memory_format=self.memory_format)  # type: ignore[call-overload]
        self._trainable = {id(p): p.requires_grad for model in self.models.values() for p in model.parameters()}
        self.taps: dict[str, tuple[str, ...]] = dict.fromkeys(self.models, ())
        self._folded: dict[str, TappedModel | None] = {}

    def add_extra(self, extra: nn.ModuleDict) -> None:
        """Take the modules that a method adds."""
        self.extra = extra.to(self.device)
        self._trainable.update({id(p): p.requires_grad for p in extra.parameters()})

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield every role with its module, the extra modules last."""
        yield from self.models.items()
        yield EXTRA, self.extra

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield what may be trained or not by itself: every network by role, every extra module as 'extra.name'."""
        yield from self.models.items()
        for name, module in self.extra.items():
            yield f"{EXTRA}.{name}", module

    def parameters(self, role: str) -> list[nn.Parameter]:
        """Return the parameters of a role, or of one extra module, that may be trained."""
        module = dict([*self.modules(), *self.parts()])[role]
        return [p for p in module.parameters() if self._trainable[id(p)]]

    def enter(self, stage: Stage) -> None:
        """Set train and eval mode, and gradients, for the roles of a stage."""
        trained = stage.trained()
        self.extra.train(stage.trains_extra)
        for role, module in self.parts():
            on = role in trained or role.split(".")[0] in trained
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
        self._folded = dict.fromkeys(roles)

    def _runner(self, role: str, images: Tensor) -> TappedModel:
        """Return what runs for a role; its folded copy is made when it is first asked for."""
        if role not in self._folded:
            return self.models[role]
        copy = self._folded[role]
        if copy is None:
            seen = torch.randn((SHAPE_BATCH, *images.shape[1:]), generator=torch.Generator().manual_seed(0))
            copy = folded(self.models[role], seen.to(images.device).contiguous(memory_format=self.memory_format))
            self._folded[role] = copy
        return copy

    def forward(
        self,
        images: Tensor,
        precision: Precision,
        with_grad: frozenset[str] = frozenset(),
        known: Mapping[str, Output] | None = None,
        roles: Sequence[str] | None = None,
        view: str = "",
    ) -> dict[str, Output]:
        """Run the models on images (B,3,H,W); `known` outputs are taken as they are.

        The images may be a further view of the batch, which the outputs' names then say: 'role@view'.
        """
        outputs = dict(known or {})
        images = images.contiguous(memory_format=self.memory_format)
        for role in self.models if roles is None else roles:
            name = f"{role}@{view}" if view else role
            if name not in outputs:
                # no_grad, not inference_mode: its tensors may enter projectors that need them at backward
                model = self._runner(role, images)
                with torch.set_grad_enabled(role in with_grad), precision.autocast():
                    logits, taps = model(images, self.taps[role])
                classifier = self.models[role].classifier
                outputs[name] = Output(logits.float(), {tap: value.float() for tap, value in taps.items()}, classifier)
        return outputs

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


def deploy(
    team: Team, method: Method, image_size: int, labels: Tensor, num_classes: int, channels_last: bool = False
) -> tuple[Team, Context]:
    """Measure a team, let the method change its student, and return the team that is trained with its measures."""
    context = measure(team, image_size, labels, num_classes)
    if STUDENT not in team.models:
        return team, context
    student = method.student(team.models[STUDENT], context)
    if student is team.models[STUDENT]:
        return team, context
    team = Team({**team.models, STUDENT: student}, team.device, channels_last)
    return team, measure(team, image_size, labels, num_classes)


def _norms(model: TappedModel) -> dict[str, tuple[Tensor, Tensor]]:
    """Return weight and bias of the BatchNorm before each activation that has a tap before it."""
    found = {tap: model.norm_before(tap) for tap in model.tap_names if tap.endswith(".pre")}
    return {tap: (norm.weight.detach(), norm.bias.detach()) for tap, norm in found.items() if norm is not None}


def student_of(team: Team) -> TappedModel:
    """Return the network that is trained and kept."""
    return team.models[STUDENT]
