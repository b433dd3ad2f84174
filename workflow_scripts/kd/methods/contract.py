"""The contract between a method and the engine.

A method says what it wants before networks exist, names the features that it reads and builds its modules from measured
shapes, and returns named scalar terms; the engine runs networks, weighs and sums the terms, steps optimisers and logs.
Neither knows the other's insides. Each question is asked once, in the order in which they stand in `Method`; what few
methods are asked stands in protocols of its own, further down. `kd.methods.logit_loss` and `tap_loss` are shorter.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd.data.wants import Wants
from kd.models.base import TappedModel
from kd.models.freezing import Freezing
from kd.schema.cards import MethodSettings
from kd.tools.errors import unknown

# --- roles: who is who in a training. Nobody else parses their names. -----------------------------------

STUDENT, EXTRA = "student", "extra"
_TEACHER, _PEER, _PART = "teacher", "peer", f"{EXTRA}."
GIVEN = "given/"
"""What the accuracies of networks and heads are called that they had before a chain began."""

Entry = TypeVar("Entry")


def teacher(k: int) -> str:
    """Return the role of teacher k (from 0)."""
    return f"{_TEACHER}{k}"


def peer(k: int) -> str:
    """Return the role of peer k (from 1)."""
    return f"{_PEER}{k}"


def part(name: str) -> str:
    """Return the role of one of the extra modules alone."""
    return f"{_PART}{name}"


def is_teacher(role: str) -> bool:
    """Whether a role is that of a teacher."""
    return role.startswith(_TEACHER)


def is_peer(role: str) -> bool:
    """Whether a role is that of a peer."""
    return role.startswith(_PEER)


def is_extra(role: str) -> bool:
    """Whether a role is that of the extra modules, or of one of them."""
    return role == EXTRA or role.startswith(_PART)


def of_teachers(by_role: Mapping[str, Entry]) -> list[Entry]:
    """Return the entries of teacher 0, teacher 1, ... in order."""
    return [by_role[role] for role in map(teacher, range(len(by_role))) if role in by_role]


# --- how training goes ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Update:
    """One optimiser step on a batch: which roles it trains, `part(name)` for one of the extra modules alone."""

    name: str
    trains: tuple[str, ...]
    lr_scale: Mapping[str, float] = field(default_factory=dict)
    """Learning rate of a role, or of a part of the extra modules, as a multiple of the recipe's."""


@dataclass(frozen=True)
class Stage:
    """Epochs in which the same updates alternate within every batch."""

    name: str
    updates: tuple[Update, ...]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Recipe keys that differ in this stage."""
    selects: bool = True
    """Whether the validation accuracy of its epochs may select the weights that are kept."""
    keeps: str = ""
    """Head by whose validation accuracy what the stage trains is kept, as it was before the first epoch or after one of
    them; '' keeps it as it is in the end."""
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
        return any(map(is_extra, self.trained()))


TRAIN = Stage("train", (Update(STUDENT, (STUDENT, EXTRA)),))
"""The one stage of a method that is not `Staged`: one update of the student and of all extra modules."""


@dataclass(frozen=True)
class Progress:
    """Where training is: fractional epochs done and their total, in this stage unless said otherwise."""

    epoch: float
    epochs: float

    @property
    def share(self) -> float:
        """Return the share of the stage that is done, 0 to 1."""
        return min(1.0, self.epoch / self.epochs)


# --- what a loss is a function of -------------------------------------------------------------------------


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
    """(K,B*g,C) what each teacher makes of one fixed view of every image, for methods that want `fixed_teacher`."""
    views: Mapping[str, Tensor] = field(default_factory=dict)
    """Further views of the images by name."""
    other_positions: Tensor | None = None
    """(B,) positions of the images that each is mixed with, where any are."""

    @property
    def dominant_labels(self) -> Tensor:
        """Return (B,) the label of which an image is the larger part, under MixUp and CutMix."""
        return self._dominant(self.labels, self.other_labels)

    @property
    def dominant_positions(self) -> Tensor:
        """Return (B,) the position of the image that is the larger part of each."""
        return self.positions if self.other_positions is None else self._dominant(self.positions, self.other_positions)

    def _dominant(self, own: Tensor, other: Tensor) -> Tensor:
        if isinstance(self.mixing, float):
            return own if self.mixing >= 0.5 else other
        return torch.where(self.mixing >= 0.5, own, other)

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
    """What one network made of images, in float32: logits (B,C), and the taps that the method named, in its order.

    `classifier` is the network's last linear layer itself, for losses that put features through it.
    """

    logits: Tensor
    taps: Mapping[str, Tensor]
    classifier: nn.Module | None = None

    @property
    def features(self) -> list[Tensor]:
        """The taps in order."""
        return list(self.taps.values())


class Outputs(dict[str, Output]):
    """What networks made of the same images, by role."""

    @property
    def student(self) -> Output:
        """The student's."""
        return self[STUDENT]

    @property
    def teacher(self) -> Output:
        """The first teacher's."""
        return self[teacher(0)]

    @property
    def teachers(self) -> list[Output]:
        """All teachers', in order."""
        return of_teachers(self)

    def narrowed(self, named: Mapping[str, Sequence[str]]) -> "Outputs":
        """Return the same with the taps that are named by role, in that order, and no others."""
        return Outputs(
            {
                role: Output(output.logits, {tap: output.taps[tap] for tap in named.get(role, ())}, output.classifier)
                for role, output in self.items()
            }
        )


@dataclass(frozen=True)
class Seen:
    """What networks made of a batch: of its images, and of its further views by name."""

    outputs: Outputs
    views: Mapping[str, Outputs] = field(default_factory=dict)

    def narrowed(self, named: Mapping[str, Sequence[str]]) -> "Seen":
        """Return the same with the taps that are named by role, in that order, and no others."""
        views = {name: outputs.narrowed(named) for name, outputs in self.views.items()}
        return Seen(self.outputs.narrowed(named), views)


@dataclass(frozen=True)
class Step:
    """One update on one batch: all that a loss is a function of.

    It holds no number of the host that changes from step to step, so that a device can replay a step: what moves is
    in `schedule`, and weights are the engine's.
    """

    update: str
    """Name of the update, of which a stage may have several."""
    batch: Batch
    seen: Seen
    extra: nn.ModuleDict
    """What `build` returned."""
    schedule: Mapping[str, Tensor] = field(default_factory=dict)
    """Scalars in float64 by name, as the method's own schedules have them for this step (`Scheduled`)."""

    @property
    def outputs(self) -> Outputs:
        """What the networks made of the batch, by role."""
        return self.seen.outputs

    @property
    def student(self) -> Output:
        """What the student made of the batch."""
        return self.outputs.student

    @property
    def teacher(self) -> Output:
        """What the first teacher made of the batch."""
        return self.outputs.teacher

    @property
    def teachers(self) -> list[Output]:
        """What each teacher made of the batch, in order."""
        return self.outputs.teachers

    def cross_entropy(self) -> Tensor:
        """Return the classification loss of the student, mixed and smoothed as the recipe says, a scalar."""
        return self.batch.cross_entropy(self.student.logits)


# --- what is measured before training ---------------------------------------------------------------------


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
    batch_size: int = 0
    """Items of a batch; the last one of an epoch may have fewer."""
    named: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Role -> the taps that the method named, once it was asked."""

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

    def features(self, role: str) -> list[torch.Size]:
        """Return the shapes of the taps that the method named of a role, in order."""
        return [self.shapes[role][tap] for tap in self.named[role]]


# --- a method ---------------------------------------------------------------------------------------------


class Method:
    """Base of all methods. `settings` come checked from the card, `teachers` is how many the team has.

    The engine asks, in this order: what the method wants; which stages it has, if it is `Staged`; to deploy the
    student, if it `Deploys`; which taps it reads; for its modules; and then for the loss of every step.
    """

    def __init__(self, settings: MethodSettings, teachers: int = 1) -> None:
        self.settings, self.teachers = settings, teachers

    @property
    def name(self) -> str:
        """What messages call it: the name of its file."""
        return type(self).__module__.rpartition(".")[2]

    def wants(self) -> Wants:
        """Return what the engine has to provide, before networks exist."""
        return Wants()

    def taps(self, context: Context) -> dict[str, tuple[str, ...]]:
        """Return by role the taps that the loss reads; networks in which there are no such taps are a UserError."""
        return {}

    def build(self, context: Context) -> nn.ModuleDict:
        """Return the modules that training adds, from measured shapes (`context.features` of the taps named)."""
        return nn.ModuleDict()

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the scalar terms of an update by name, unweighted."""
        raise AssertionError(f"{type(self).__name__} defines no loss")

    def weight(self, term: str, progress: Progress) -> float:
        """Return the weight of a term; the setting '<term>_weight' unless a method schedules it."""
        return float(getattr(self.settings, f"{term}_weight"))


# --- what few methods are asked: each of them may be one or several of these ---------------------------------


@runtime_checkable
class Staged(Protocol):
    """Has other stages or updates than `TRAIN`."""

    def plan(self) -> list[Stage]:
        """Return the stages of training, in order."""


@runtime_checkable
class Pretrains(Protocol):
    """Has a pre-stage that depends on the teacher alone (methods whose card says pretrain)."""

    def pretrain_plan(self) -> Stage:
        """Return that stage."""


class Look(Protocol):
    """What the first teacher makes of training images, asked by position."""

    def __call__(self, positions: Tensor, augmented: bool = False) -> Output:
        """Return its logits and the taps that the method named, without gradients, in the order of the positions.

        `positions` (n,) lie on the CPU. The images are as they are, or as the recipe augments them, drawn anew.
        """


@runtime_checkable
class Surveys(Protocol):
    """Has a pre-stage that measures the teacher on the training images and trains nothing (card: pretrain).

    The job keeps the extra modules' state, which `build` of a student's job finds in modules of the same names.
    """

    def survey(self, extra: nn.ModuleDict, labels: Tensor, look: Look) -> None:
        """Write into buffers of the extra modules what was found; labels (N,) are those of the images by position."""


@runtime_checkable
class Halved(Protocol):
    """Is trained as a chain of jobs, two halves a stage (methods whose card says chain)."""

    def half_stage(self, half: str) -> Stage:
        """Return one half of one stage of the chain, from settings resolved to that stage."""


@runtime_checkable
class Scheduled(Protocol):
    """Reads numbers in its loss that move as training goes on."""

    def schedule(self, progress: Progress) -> dict[str, float]:
        """Return them by name; the loss reads them as `step.schedule`. The host asks ahead of the steps."""


@runtime_checkable
class Deploys(Protocol):
    """Trains and deploys more of a network than the student that was asked for."""

    def deployed(self, student: TappedModel, context: Context) -> TappedModel:
        """Return the network that is trained and deployed."""


@runtime_checkable
class Prepares(Protocol):
    """Changes what the networks see, by one draw for each batch."""

    def draw(self, side: int, generator: torch.Generator) -> Tensor:
        """Return what is drawn for a batch of images of that side, from the CPU generator alone.

        An epoch's batches are all drawn for before the first of them is served.
        """

    def prepare(self, batch: Batch, drawn: Tensor) -> Batch:
        """Return the batch that the models see, given what was drawn for it, on the device of its images."""


@runtime_checkable
class Momenta(Protocol):
    """Descends some terms with another momentum."""

    def momenta(self) -> Mapping[str, float]:
        """Return terms whose gradient has a momentum buffer of its own, and by how much its momentum is higher."""


@runtime_checkable
class Heads(Protocol):
    """Classifies with more than its networks."""

    def heads(self, outputs: Outputs, extra: nn.ModuleDict) -> dict[str, Tensor]:
        """Return logits (B,C) beside the models' own whose validation accuracy is reported while extra is trained."""


@runtime_checkable
class Teaches(Protocol):
    """Makes the student's target itself, in a way that depends on which training image it is of."""

    teaching: str
    """Name of the head that makes it of other images."""

    def taught(self, outputs: Outputs, extra: nn.ModuleDict, positions: Tensor) -> Tensor:
        """Return the logits (B,C) that the student is taught on the training images at positions (B,)."""


@runtime_checkable
class Calibrates(Protocol):
    """Fits a few numbers on the validation images once a stage is over."""

    def calibrate(self, stage: Stage, seen: Iterable[tuple[Outputs, Tensor]], extra: nn.ModuleDict) -> None:
        """Write into buffers of the extra modules what was found after a half-stage.

        `seen` gives, batch by batch and only if asked, what the networks make of the validation images, and the labels.
        """


@runtime_checkable
class Restarts(Protocol):
    """Can leave out, at the start of a stage that keeps a head's best, what that head learned before."""

    def restart(self, stage: Stage, extra: nn.ModuleDict) -> bool:
        """Undo in the extra modules what the head has learned; False, and nothing done, where there is nothing.

        The stage goes on from the better of both on the validation images, and keeps neither if an epoch is better.
        """


@runtime_checkable
class Observes(Protocol):
    """Reports more of the validation images than accuracies."""

    def observe(self, outputs: Outputs, labels: Tensor, extra: nn.ModuleDict) -> dict[str, Tensor]:
        """Return values (B,) of images whose means over the validation images are reported after a half-stage."""


@runtime_checkable
class Accepts(Protocol):
    """Judges a finished stage."""

    def accept(self, stage: Stage, validation: Mapping[str, float], labels: Tensor, num_classes: int) -> None:
        """Raise a UserError if the stage is not worth going on from.

        `validation` holds accuracies in percent by role and head, and of a chain also those of all but the student
        before its first half-stage, as GIVEN and their name; `labels` (N,) are those of the validation images.
        """


def stages_of(method: Method) -> list[Stage]:
    """Return the stages of a method's training, in order."""
    return method.plan() if isinstance(method, Staged) else [TRAIN]
