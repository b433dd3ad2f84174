"""The networks of a run by role, with modes and gradients set by role."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from kd.engine.precision import Precision
from kd.methods.contract import EXTRA, STUDENT, Context, Output, Stage
from kd.models.base import TappedModel
from kd.models.freezing import freeze, keep_frozen_in_eval

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

    def add_extra(self, extra: nn.ModuleDict) -> None:
        """Take the modules that a method adds."""
        self.extra = extra.to(self.device)
        self._trainable.update({id(p): p.requires_grad for p in extra.parameters()})

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield every role with its module, the extra modules last."""
        yield from self.models.items()
        yield EXTRA, self.extra

    def parameters(self, role: str) -> list[nn.Parameter]:
        """Return the parameters of a role that may be trained."""
        module = dict(self.modules())[role]
        return [p for p in module.parameters() if self._trainable[id(p)]]

    def enter(self, stage: Stage) -> None:
        """Set train and eval mode, and gradients, for the roles of a stage."""
        trained = stage.trained()
        for role, module in self.modules():
            level = stage.freeze.get(role)
            if level is not None and isinstance(module, TappedModel):
                freeze(module, level)
            trainable = {id(p): p.requires_grad or level is None for p in module.parameters()}
            module.train(role in trained)
            if role in trained and isinstance(module, TappedModel):
                keep_frozen_in_eval(module)
            for p in module.parameters():
                p.requires_grad_(trainable[id(p)] and self._trainable[id(p)] and role in trained)

    def forward(
        self,
        images: Tensor,
        precision: Precision,
        with_grad: frozenset[str] = frozenset(),
        known: Mapping[str, Output] | None = None,
        roles: Sequence[str] | None = None,
    ) -> dict[str, Output]:
        """Run the models on images (B,3,H,W); `known` outputs are taken as they are."""
        outputs = dict(known or {})
        images = images.contiguous(memory_format=self.memory_format)
        for role in self.models if roles is None else roles:
            if role not in outputs:
                # no_grad, not inference_mode: its tensors may enter projectors that need them at backward
                with torch.set_grad_enabled(role in with_grad), precision.autocast():
                    logits, taps = self.models[role](images, self.taps[role])
                outputs[role] = Output(logits.float(), {name: tap.float() for name, tap in taps.items()})
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
    )


def student_of(team: Team) -> TappedModel:
    """Return the network that is trained and kept."""
    return team.models[STUDENT]
