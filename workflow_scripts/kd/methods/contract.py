"""The contract between a method and the engine.

A method states what it needs, plans its stages, builds its extra modules from measured shapes and returns named scalar
terms; the engine runs models, weighs and sums the terms, steps optimisers and logs. Neither knows the other's insides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd.data.needs import Needs
from kd.models.base import TappedModel
from kd.models.freezing import Freezing
from kd.schema.cards import MethodSettings
from kd.tools.errors import UserError, unknown

STUDENT, EXTRA = "student", "extra"


def teacher(k: int) -> str:
    """Return the role name of teacher k (from 0)."""
    return f"teacher{k}"


def peer(k: int) -> str:
    """Return the role name of peer k (from 1)."""
    return f"peer{k}"


@dataclass(frozen=True)
class Update:
    """One optimiser step on a batch: which roles it trains, 'extra.name' for one of the extra modules alone."""

    name: str
    trains: tuple[str, ...]
    lr_scale: Mapping[str, float] = field(default_factory=dict)
    """Learning rate of a role, or of a part of the extra modules ('extra.name'), as a multiple of the recipe's."""


@dataclass(frozen=True)
class Stage:
    """Epochs in which the same updates alternate within every batch."""

    name: str
    updates: tuple[Update, ...]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Recipe keys that differ in this stage."""
    selects: bool = True
    """Whether the validation accuracy of its epochs may select the weights that are kept."""
    freeze: Mapping[str, Freezing] = field(default_factory=dict)
    """By role, what of a trained model is frozen in this stage."""
    span: tuple[float, float] | None = None
    """Epochs before this stage and in all, if the learning-rate schedule runs over more than this stage."""

    def trained(self) -> frozenset[str]:
        """Return every role that some update of this stage trains."""
        return frozenset(role for update in self.updates for role in update.trains)

    @property
    def trains_extra(self) -> bool:
        """Whether it trains any of the extra modules."""
        return any(role.split(".")[0] == EXTRA for role in self.trained())


@dataclass(frozen=True)
class Batch:
    """Images (B,3,H,W) as the models saw them, labels (B,) and positions (B,) in the training set.

    Under MixUp or CutMix an image is `mixing` parts of its own and 1 - mixing parts of another with `other_labels`.
    Where an item is a group of g images, labels and positions are (B*g,), the first item's first; so are the images,
    unless the method's `prepare` made one image (B,3,H,W) of each group, of which `shares` (B,g) says how.
    """

    images: Tensor
    labels: Tensor
    positions: Tensor
    other_labels: Tensor
    mixing: Tensor | float = 1.0
    label_smoothing: float = 0.0
    group: int = 1
    """Images an item, g."""
    shares: Tensor | None = None
    teacher_logits: Tensor | None = None
    """(K,B*g,C) what each teacher makes of one fixed view of every image, for methods that need `fixed_teacher`."""
    views: Mapping[str, Tensor] = field(default_factory=dict)
    """Further views of the images by name."""

    def grouped(self, values: Tensor) -> Tensor:
        """Return (B*g, ...) as (B, g, ...)."""
        return values.unflatten(0, (-1, self.group))

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """Return the batch mean of the classification loss for logits (B,C), mixed and smoothed as the recipe says."""
        return self.cross_entropies(logits).mean()

    def cross_entropies(self, logits: Tensor) -> Tensor:
        """Return the classification loss of every image, (B,)."""
        own = F.cross_entropy(logits, self.labels, reduction="none", label_smoothing=self.label_smoothing)
        if isinstance(self.mixing, float) and self.mixing == 1.0:
            return own
        other = F.cross_entropy(logits, self.other_labels, reduction="none", label_smoothing=self.label_smoothing)
        return self.mixing * own + (1 - self.mixing) * other


@dataclass(frozen=True)
class Output:
    """What one model made of a batch, in float32: logits (B,C) and its taps by name.

    `classifier` is the model's last linear layer itself, for losses that put features through it.
    """

    logits: Tensor
    taps: Mapping[str, Tensor]
    classifier: nn.Module | None = None

    def features(self, names: Sequence[str]) -> list[Tensor]:
        """Return the named taps in order."""
        return [self.taps[name] for name in names]


Outputs = Mapping[str, Output]
"""By role; 'role@view' for the further views that a method asks for."""


@dataclass(frozen=True)
class Context:
    """What a method may measure before training: shapes of one dry forward, without the batch dimension."""

    num_classes: int
    labels: Tensor
    """Labels (N,) of the training images by position."""
    shapes: Mapping[str, Mapping[str, torch.Size]]
    """Role -> tap -> shape."""
    taps: Mapping[str, tuple[str, ...]]
    """Role -> every tap the model has."""
    stages: Mapping[str, tuple[str, ...]]
    """Role -> its spatial stages, shallow to deep."""
    norms: Mapping[str, Mapping[str, tuple[Tensor, Tensor]]] = field(default_factory=dict)
    """Role -> tap before an activation -> weight and bias (C,) of the BatchNorm that it comes from, if any."""
    models: Mapping[str, TappedModel] = field(default_factory=dict)
    """Role -> the network itself, for methods that deploy a part of a teacher or ask what its classifier reads."""
    image_size: int = 0
    """Side of the square images that the networks take."""

    def resolve(self, role: str, names: Sequence[str]) -> tuple[str, ...]:
        """Replace 'stages' and 'last' by the taps of the model in that role; a tap it lacks is a UserError."""
        resolved: list[str] = []
        for name in names:
            if name == "stages":
                resolved.extend(self.stages[role])
            else:
                resolved.append(self.stages[role][-1] if name == "last" else name)
        for name in resolved:
            if name not in self.taps[role]:
                raise unknown(f"tap of the {role}", name, [*self.taps[role], "stages", "last"])
        return tuple(dict.fromkeys(resolved))


@dataclass(frozen=True)
class Progress:
    """Where training is: fractional epochs done and their total in this stage."""

    epoch: float
    epochs: int

    @property
    def share(self) -> float:
        """Return the share of the stage that is done, 0 to 1."""
        return min(1.0, self.epoch / self.epochs)


class Method:
    """Base of all methods; settings come checked from the card."""

    teachers: int = 1
    """How many teachers the team has; set by the engine before anything else is asked."""

    def __init__(self, settings: MethodSettings) -> None:
        self.settings = settings
        self.student_taps: tuple[str, ...] = ()
        self.teacher_taps: tuple[str, ...] = ()
        self.role_taps: dict[str, tuple[str, ...]] = {}
        """Resolved taps by role; `student_taps` and `teacher_taps` are the student's and the first teacher's."""

    def needs(self) -> Needs:
        """Return what the engine has to provide."""
        return Needs()

    def plan(self) -> list[Stage]:
        """Return the stages of training, in order."""
        return [Stage("train", (Update(STUDENT, (STUDENT, EXTRA)),))]

    def pretrain_plan(self) -> Stage:
        """Return the pre-stage that depends on the teacher alone (methods whose card says pretrain)."""
        raise AssertionError(f"{type(self).__name__} has no pre-stage")

    def half_stage(self, half: str) -> Stage:
        """Return one half of one stage of a chain, from settings resolved to that stage."""
        raise AssertionError(f"{type(self).__name__} is no chain")

    def bind(self, context: Context) -> None:
        """Resolve taps against the models at hand; lists that must correspond and do not are a UserError."""
        needs = self.needs()
        self.role_taps = {
            role: context.resolve(role, needs.teacher_taps if role.startswith("teacher") else needs.student_taps)
            for role in context.taps
        }
        self.student_taps = self.role_taps.get(STUDENT, ())
        self.teacher_taps = self.role_taps.get(teacher(0), ())
        if needs.same_length and len(self.student_taps) != len(self.teacher_taps):
            raise UserError(
                f"{type(self).__name__.lower()} compares taps one to one, but the student gives "
                f"{len(self.student_taps)} ({', '.join(self.student_taps)}) and the teacher {len(self.teacher_taps)} "
                f"({', '.join(self.teacher_taps)}): list as many in student_taps as in teacher_taps"
            )

    def build(self, context: Context) -> nn.ModuleDict:
        """Return the modules that training adds, from measured shapes."""
        return nn.ModuleDict()

    def student(self, model: TappedModel, context: Context) -> TappedModel:
        """Return the network that is trained and deployed, where it is more than the architecture asked for."""
        return model

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return the batch that the models see; draws come from the CPU generator alone."""
        return batch

    def loss(
        self, update: str, batch: Batch, outputs: Outputs, extra: nn.ModuleDict, progress: Progress
    ) -> dict[str, Tensor]:
        """Return the scalar terms of one update by name, unweighted."""
        raise AssertionError(f"{type(self).__name__} defines no loss")

    def inference_modules(self, extra: nn.ModuleDict) -> list[nn.Module]:
        """Return the extra modules that inference needs beside the student; their parameters are reported."""
        return []

    def heads(self, outputs: Outputs, extra: nn.ModuleDict) -> dict[str, Tensor]:
        """Return logits (B,C) beside the models' own whose validation accuracy is reported while extra is trained."""
        return {}

    def observe(self, outputs: Outputs, labels: Tensor, extra: nn.ModuleDict) -> dict[str, Tensor]:
        """Return values (B,) of images whose means over the validation images are reported after a half-stage."""
        return {}

    def accept(self, stage: Stage, validation: Mapping[str, float], labels: Tensor, num_classes: int) -> None:
        """Raise a UserError if a finished stage is not worth going on from.

        `validation` holds accuracies in percent by role and head, `labels` (N,) are those of the validation images.
        """

    def weight(self, term: str, progress: Progress) -> float:
        """Return the weight of a term; the setting '<term>_weight' unless a method schedules it."""
        return float(getattr(self.settings, f"{term}_weight"))

    def momenta(self) -> Mapping[str, float]:
        """Return terms whose gradient has a momentum buffer of its own, and by how much its momentum is higher."""
        return {}


class Frozen(nn.Module):
    """A module that stays in eval mode and takes no gradient, whatever its parent does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Frozen":
        """Stay in eval mode."""
        return super().train(False)

    def forward(self, *args: Tensor) -> Tensor:
        """Run the module."""
        return self.module(*args)
