"""A small world in which any method can run: tiny networks, a few labels, and the engine's own team."""

from dataclasses import dataclass, field

import torch
from torch import nn

from kd.data import groups
from kd.engine.precision import Precision
from kd.engine.resolve import method_class
from kd.engine.team import Team, deploy
from kd.methods.contract import EXTRA, STUDENT, Batch, Progress, Stage, peer, teacher
from kd.models.base import StagedNet, conv_bn
from kd.spec.cards import card

CLASSES, IMAGES, SIZE, BATCH = 4, 16, 8, 6
CPU = torch.device("cpu")
PLAIN = Precision("fp32", CPU)
HALF_WAY = Progress(0.5, 2)


def tiny_net(width: int) -> StagedNet:
    """Return three stages at 8, 4 and 2 pixels."""
    stages = [
        nn.Sequential(conv_bn(width * k // 2 or 1, width * k, 3, stride)) for k, stride in ((2, 1), (4, 2), (8, 2))
    ]
    return StagedNet(f"tiny{width}", CLASSES, conv_bn(3, width, 3), stages, width * 8)


def zoo_net(arch: str) -> nn.Module:
    """Return a network of the zoo."""
    from kd.models.build import build_model
    from kd.spec.config import ModelSettings

    return build_model(ModelSettings(arch=arch), CLASSES, SIZE)


NETS = {
    "tiny": (lambda: tiny_net(2), lambda: tiny_net(3)),
    "zoo": (lambda: zoo_net("resnet8"), lambda: zoo_net("resnet14")),
}


EQUAL_WIDTHS = {"fsp", "kdsvd"}
"""Methods that compare networks of equal widths only."""


@dataclass
class World:
    """A method with the team it trains, after `bind` and `build`."""

    name: str
    settings: dict = field(default_factory=dict)
    nets: str = "tiny"
    pretrain: bool = False

    def __post_init__(self):
        torch.manual_seed(0)
        torch.set_num_threads(1)  # networks this small only lose by more
        self.card = card(self.name)
        self.method = method_class(self.name)(self.card.resolve(self.settings, "test"))
        self.method.teachers = {"none": 0, "one": 1, "many": 2}[self.card.teachers]
        self.method.plan()  # as the engine does before it builds anything
        student, target = NETS[self.nets]
        if self.name in EQUAL_WIDTHS and self.nets == "tiny":
            target = student
        models = {teacher(k): target() for k in range(self.method.teachers)}
        if not self.pretrain:
            peers = {peer(k): student() for k in range(1, self.method.needs().peers + 1)}
            models = {STUDENT: student(), **models, **peers}
        self.labels = torch.arange(IMAGES) % CLASSES
        self.team, self.context = deploy(Team(models, CPU), self.method, SIZE, self.labels, CLASSES)
        self.method.bind(self.context)
        self.team.add_extra(self.method.build(self.context))
        self.team.taps.update(self.method.role_taps)
        self.needs = self.method.needs()
        self.fixed_logits = torch.randn(self.method.teachers, IMAGES, CLASSES)

    def stages(self) -> list[Stage]:
        return [self.method.pretrain_plan()] if self.pretrain else self.method.plan()

    def batch(self, seed: int = 0, mixing: float = 1.0) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        items = self.items(generator)
        positions = items.flatten()
        labels = self.labels[positions]
        images = torch.randn(len(positions), 3, SIZE, SIZE, generator=generator)
        batch = Batch(
            images,
            labels,
            positions,
            labels.flip(0),
            mixing,
            group=items.shape[1],
            teacher_logits=self.fixed_logits[:, positions] if self.needs.fixed_teacher else None,
            views={view.name: images + torch.randn(images.shape, generator=generator) for view in self.needs.views},
        )
        return self.method.prepare(batch, generator)

    def items(self, generator):
        """Return positions (items, images an item) of one batch."""
        wanted = self.needs.groups
        if wanted is None:
            return torch.randperm(IMAGES, generator=generator)[:BATCH, None]
        pool = groups.pool(IMAGES, wanted, generator) if wanted.kind == "random" else None
        return groups.epoch(wanted, self.labels, pool, BATCH, 1, generator)

    def outputs(self, update, batch):
        fixed = [role for role in self.team.models if role not in update.trains]
        outputs = self.team.forward(batch.images, PLAIN, roles=fixed)
        outputs = self.team.forward(batch.images, PLAIN, frozenset(update.trains), outputs)
        for name, view in batch.views.items():
            outputs = self.team.forward(view, PLAIN, roles=fixed, known=outputs, view=name)
            outputs = self.team.forward(view, PLAIN, frozenset(update.trains), outputs, view=name)
        return outputs

    def terms(self, update, batch, progress=HALF_WAY):
        """Return {term: (value, weight)} of one update."""
        terms = self.method.loss(update.name, batch, self.outputs(update, batch), self.team.extra, progress)
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

    def state(self):
        return {role: {k: v.clone() for k, v in state.items()} for role, state in self.team.state().items()}

    def roles(self) -> set[str]:
        return {*self.team.models, EXTRA}
