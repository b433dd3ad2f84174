"""A small world for ASIB: linear networks on separable vectors, and a training step as the contract describes it."""

import torch
from steps import fitted, loss_of
from torch import nn

from kd.asib.method import ASIB
from kd.methods.contract import EXTRA, STUDENT, Batch, Context, Output, Outputs, Progress, Stage, part, teacher
from kd.schema.cards import card

CLASSES = 5
INPUTS = 12
IMAGES = 4096
"""Training images that the data set is said to have."""
START = Progress(0.0, 1)


def settings_of(**given):
    return card("asib").resolve({"form": "published", **given}, "test")


def method_of(teachers=2, **given) -> ASIB:
    return ASIB(settings_of(**{"mbm_out_dim": 16, **given}), teachers)


STAGES = ("stage1", "stage2")


def shapes_of(net) -> dict[str, torch.Size]:
    return {"embedding": torch.Size([net.width]), **dict.fromkeys(STAGES, torch.Size([net.width, 3, 3]))}


class Net(nn.Module):
    """Vectors (B,INPUTS) to an embedding, normalised over the batch so that train and eval mode differ, and logits."""

    def __init__(self, width: int, classes: int = CLASSES, inputs: int = INPUTS) -> None:
        super().__init__()
        self.width = width
        self.body = nn.Sequential(nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU())
        self.head = nn.Linear(width, classes)
        self.grids = torch.rand(2, 3, 3)

    def forward(self, x: torch.Tensor) -> Output:
        embedding = self.body(x)
        maps = {f"stage{k}": embedding[:, :, None, None] * self.grids[k - 1] for k in (1, 2)}
        return Output(self.head(embedding), {"embedding": embedding, **maps})


class World:
    """Student, teachers and extra modules, run by role as the engine runs them."""

    def __init__(self, method: ASIB, widths=(10, 10), student_width=8, classes=CLASSES, inputs=INPUTS, seed=0) -> None:
        torch.manual_seed(seed)
        self.method = method
        self.nets = {STUDENT: Net(student_width, classes, inputs)}
        self.nets |= {teacher(k): Net(width, classes, inputs) for k, width in enumerate(widths)}
        shapes = {role: shapes_of(net) for role, net in self.nets.items()}
        taps = dict.fromkeys(self.nets, ("embedding", *STAGES))
        stages = dict.fromkeys(self.nets, STAGES)
        self.context = Context(classes, torch.arange(IMAGES) % classes, shapes, taps, stages, models=self.nets)
        _, self.extra = fitted(method, self.context)

    def modules(self) -> dict[str, nn.Module]:
        return {**self.nets, EXTRA: self.extra}

    def part(self, role: str) -> nn.Module:
        return {**self.nets, **{part(name): module for name, module in self.extra.items()}}[role]

    def enter(self, stage: Stage) -> None:
        trained = stage.trained()
        for role, module in [*self.nets.items(), *((part(name), module) for name, module in self.extra.items())]:
            module.train(role in trained).requires_grad_(role in trained)

    def outputs(self, x: torch.Tensor, trained=frozenset()) -> Outputs:
        found = Outputs()
        for role, net in self.nets.items():
            with torch.set_grad_enabled(role in trained):
                found[role] = net(x)
        return found

    def terms(self, half: str, batch: Batch, progress=START) -> dict[str, torch.Tensor]:
        stage = self.method.half_stage(half)
        return loss_of(self.method, half, batch, self.outputs(batch.images, stage.trained()), self.extra, progress)

    def loss(self, half: str, batch: Batch, progress=START) -> torch.Tensor:
        terms = self.terms(half, batch, progress)
        return sum(self.method.weight(name, progress) * term for name, term in terms.items())

    def train(self, half: str, batches, epochs: int = 1, lr: float | None = None) -> None:
        stage = self.method.half_stage(half)
        (update,) = stage.updates
        self.enter(stage)
        lr = lr or stage.recipe.get("lr", 0.05)
        groups = [
            {"params": list(self.part(role).parameters()), "lr": lr * update.lr_scale.get(role, 1.0)}
            for role in update.trains
        ]
        optimizer = torch.optim.Adam(groups)
        for epoch in range(epochs):
            for step, batch in enumerate(batches):
                optimizer.zero_grad()
                self.loss(half, batch, Progress(epoch + step / len(batches), epochs)).backward()
                optimizer.step()

    @torch.no_grad()
    def synergy_accuracy(self, batch: Batch) -> float:
        for module in self.modules().values():
            module.eval()
        logits = self.method.heads(self.outputs(batch.images), self.extra)["synergy"]
        return 100 * (logits.argmax(1) == batch.labels).float().mean().item()


def separable(count: int, classes=CLASSES, inputs=INPUTS, noise=0.5, seed=0) -> Batch:
    """Return `count` noisy copies of fixed class centres."""
    centres = torch.randn(classes, inputs, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    x = centres[labels] + noise * torch.randn(count, inputs, generator=generator)
    return batch_of(x, labels)


def batch_of(x: torch.Tensor, labels: torch.Tensor, positions: torch.Tensor | None = None) -> Batch:
    return Batch(x, labels, torch.arange(len(labels)) if positions is None else positions, labels)


def split(batch: Batch, size: int) -> list[Batch]:
    parts = zip(batch.images.split(size), batch.labels.split(size), batch.positions.split(size), strict=True)
    return [batch_of(*part) for part in parts]
