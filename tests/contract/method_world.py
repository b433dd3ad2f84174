"""A small world in which any method can run: tiny networks, a few labels, and the engine's own team."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from kd.data import groups
from kd.engine.precision import Precision
from kd.engine.resolve import method_class
from kd.engine.team import Team, deploy, equip
from kd.engine.timetable import schedules
from kd.methods.contract import (
    EXTRA,
    STUDENT,
    Batch,
    Prepares,
    Pretrains,
    Progress,
    Seen,
    Stage,
    Step,
    Surveys,
    Update,
    peer,
    stages_of,
    teacher,
)
from kd.models.base import Keep, StagedNet, TappedModel, conv_bn
from kd.schema.cards import Card, card, card_names

OWN = sorted((Path(__file__).parents[2] / "config" / "own").glob("*.yaml"))
ASKED = [path for path in os.environ.get("KD_CARDS", "").split(os.pathsep) if path]
"""Paths of the cards that are tested in place of the repository's and those of its worked example."""
REFERENCES = {card(one).name: one for one in (ASKED or [*card_names(), *map(str, OWN)])}
CARDS: dict[str, Card] = {name: card(one) for name, one in REFERENCES.items() if card(one).alone}
"""Every method that stands alone, by name."""

MEASURED = [
    name for name, card in CARDS.items() if card.pretrain and issubclass(method_class(REFERENCES[name]), Surveys)
]
"""Methods whose pre-stage measures the teacher; that of the others trains."""
PHASES = [(name, False) for name in CARDS] + [
    (name, True) for name, card in CARDS.items() if card.pretrain and name not in MEASURED
]
"""Every method, and every pre-stage that trains."""

CLASSES, IMAGES, SIZE, BATCH = 4, 16, 8, 6
CPU = torch.device("cpu")
PLAIN = Precision("fp32", CPU)
HALF_WAY = Progress(0.5, 2)


def tiny_net(width: int, count: int = 3) -> StagedNet:
    """Return three stages at 8, 4 and 2 pixels, or as many as asked for."""
    widths = [width * 2**k for k in range(count + 1)]
    sizes = zip(widths[:-1], widths[1:], [1, *[2] * (count - 1)], strict=True)
    stages = [nn.Sequential(conv_bn(inputs, outputs, 3, stride)) for inputs, outputs, stride in sizes]
    return StagedNet(f"tiny{width}", CLASSES, conv_bn(3, width, 3), stages, widths[-1])


def zoo_net(arch: str) -> nn.Module:
    """Return a network of the zoo."""
    from kd.models.build import build_model
    from kd.schema.config import ModelSettings

    return build_model(ModelSettings(arch=arch), CLASSES, SIZE)


NETS = {
    "tiny": (lambda: tiny_net(2), lambda: tiny_net(3)),
    "zoo": (lambda: zoo_net("resnet8"), lambda: zoo_net("resnet14")),
}


class TwoHeaded(StagedNet):
    """A tiny network with a head for labels and one for a teacher, whose mean it predicts."""

    def __init__(self):
        widths = (2, 4)
        super().__init__("two_headed", CLASSES, conv_bn(3, 2, 3), [nn.Sequential(conv_bn(*widths, 3))], widths[-1])
        self.tap_names = (*self.tap_names, "head", "head_dist")
        self.fc_dist = nn.Linear(widths[-1], CLASSES)

    def compute(self, x, taps, keep):
        inner = Keep((*taps, "embedding"))
        first = super().compute(x, inner.taps, inner)
        for name, value in inner.kept.items():
            keep(name, value)
        return (keep("head", first) + keep("head_dist", self.fc_dist(inner.kept["embedding"]))) / 2


EQUAL_WIDTHS = {"fsp", "kdsvd"}
"""Methods that compare networks of equal widths only."""
TWO_HEADS = [name for name, card in CARDS.items() if card.networks == "two_heads"]
"""Methods whose student has two heads, as no small-image net has."""


@dataclass
class World:
    """A method with the team it trains, after it named its taps and built its modules."""

    name: str
    settings: dict = field(default_factory=dict)
    nets: str | tuple[Callable[[], TappedModel], Callable[[], TappedModel]] = "tiny"
    """A name in NETS, or what makes a student and what makes a teacher."""
    pretrain: bool = False
    size: int = SIZE
    items: int = BATCH
    precision: Precision = PLAIN

    def __post_init__(self):
        torch.manual_seed(0)
        torch.set_num_threads(1)  # networks this small only lose by more
        reference = REFERENCES.get(self.name, self.name)
        self.card = card(reference)
        teachers = {"none": 0, "one": 1, "many": 2}[self.card.teachers]
        self.method = method_class(reference)(self.card.resolve(self.settings, "test"), teachers)
        self.wants = self.method.wants()
        stages_of(self.method)  # as the engine does before it builds anything
        student, target = NETS[self.nets] if isinstance(self.nets, str) else self.nets
        if self.name in EQUAL_WIDTHS and self.nets == "tiny":
            target = student
        if self.name in TWO_HEADS and isinstance(self.nets, str):
            student = TwoHeaded
        models = {teacher(k): target() for k in range(teachers)}
        if not self.pretrain:
            peers = {peer(k): student() for k in range(1, self.wants.peers + 1)}
            models = {STUDENT: student(), **models, **peers}
        self.labels = torch.arange(IMAGES) % CLASSES
        self.team, context = deploy(Team(models, CPU), self.method, self.size, self.labels, CLASSES)
        self.context = replace(context, batch_size=self.items)
        equip(self.team, self.method, self.context)
        self.taps = dict(self.team.taps)
        self.fixed_logits = torch.randn(teachers, IMAGES, CLASSES)
        if self.name in MEASURED and not self.pretrain:
            made = World(self.name, self.settings, self.nets, True, self.size).survey()
            self.team.extra.load_state_dict(made, strict=False)  # modules that a student needs besides are not of it

    def updates(self) -> list[tuple[Stage, Update]]:
        """Return every different update with a stage that holds it."""
        return list({update.name: (stage, update) for stage in self.stages() for update in stage.updates}.values())

    def stages(self) -> list[Stage]:
        if not self.pretrain:
            return stages_of(self.method)
        assert isinstance(self.method, Pretrains)
        return [self.method.pretrain_plan()]

    def survey(self) -> dict[str, torch.Tensor]:
        """Return what a pre-stage that measures leaves for trainings."""
        assert isinstance(self.method, Surveys)
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(IMAGES, 3, self.size, self.size, generator=generator)
        self.team.enter(Stage("survey", ()))

        def look(positions, augmented=False):
            seen = images[positions].flip(-1) if augmented else images[positions]
            return self.team.forward(seen, self.precision, roles=[teacher(0)])[teacher(0)]

        self.method.survey(self.team.extra, self.labels, look)
        return self.state()[EXTRA]

    def batch(self, seed: int = 0, mixing: float = 1.0) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        items = self.drawn(generator)
        positions = items.flatten()
        labels = self.labels[positions]
        images = torch.randn(len(positions), 3, self.size, self.size, generator=generator)
        batch = Batch(
            images,
            labels,
            positions,
            labels.flip(0),
            mixing,
            group=items.shape[1],
            teacher_logits=self.fixed_logits[:, positions] if self.wants.fixed_teacher else None,
            views={view.name: images + torch.randn(images.shape, generator=generator) for view in self.wants.views},
            other_positions=positions.flip(0),
        )
        if not isinstance(self.method, Prepares):
            return batch
        return self.method.prepare(batch, self.method.draw(self.size, generator))

    def drawn(self, generator):
        """Return positions (items, images an item) of one batch."""
        wanted = self.wants.groups
        if wanted is None:
            return torch.randperm(IMAGES, generator=generator)[: self.items, None]
        pool = groups.pool(IMAGES, wanted, generator) if wanted.kind == "random" else None
        return groups.epoch(wanted, self.labels, pool, self.items, 1, generator)

    def outputs(self, update, images):
        fixed = [role for role in self.team.models if role not in update.trains]
        known = self.team.forward(images, self.precision, roles=fixed)
        return self.team.forward(images, self.precision, frozenset(update.trains), known)

    def seen(self, update, batch):
        outputs = self.outputs(update, batch.images)
        views = {name: self.outputs(update, view) for name, view in batch.views.items()}
        return Seen(outputs, views).narrowed(self.taps)

    def terms(self, update, batch, progress=HALF_WAY):
        """Return {term: (value, weight)} of one update."""
        schedule = {name: column[0] for name, column in schedules(self.method, [progress]).items()}
        terms = self.method.loss(Step(update.name, batch, self.seen(update, batch), self.team.extra, schedule))
        return {name: (value, self.method.weight(name, progress)) for name, value in terms.items()}

    def backward(self, update, batch):
        """Return the terms after a backward pass of their weighted sum."""
        self.clear()
        terms = self.terms(update, batch)
        torch.stack([weight * value for value, weight in terms.values()]).sum().backward()
        return terms

    def clear(self):
        for _, module in self.team.modules():
            module.zero_grad(set_to_none=True)

    def gradients(self, role: str) -> dict[str, torch.Tensor | None]:
        module = dict([*self.team.modules(), *self.team.parts()])[role]
        return {name: p.grad for name, p in module.named_parameters()}

    def gradient(self, role: str) -> torch.Tensor:
        """Return the gradients of a role as one float64 vector, zero where there is none."""
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.team.parameters(role)]
        return torch.cat([torch.zeros(0), *(g.flatten() for g in found)]).double()

    def state(self):
        return {role: {k: v.clone() for k, v in state.items()} for role, state in self.team.state().items()}

    def roles(self) -> set[str]:
        return {*self.team.models, EXTRA}
