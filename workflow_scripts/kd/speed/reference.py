"""The reference: a plain training loop as in RepDistiller's script, which most published tables come from.

Images are transformed one at a time by PIL and torchvision in DataLoader workers; networks run in float32, NCHW and
eager mode; the teacher runs as it is under no_grad; every step reads the loss and the accuracies back to the host. The
method's loss, networks and initial weights are the project's own, so that the same maths is timed.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from kd.data import groups
from kd.data.randaugment import View
from kd.data.store import ImageStore
from kd.engine.flops import FlopCounter
from kd.engine.jobs.workbench import Workbench
from kd.engine.optim import SplitMomentum, branch_totals, build_optimizer, descend_by_branch, lr_factor
from kd.engine.precision import make_deterministic
from kd.engine.seeds import derived_seed
from kd.engine.timetable import schedules
from kd.methods.contract import (
    STUDENT,
    Batch,
    Method,
    Momenta,
    Output,
    Outputs,
    Prepares,
    Progress,
    Seen,
    Stage,
    Step,
    Update,
)
from kd.methods.crd import CRD
from kd.schema.config import Augmentation
from kd.speed.host_contrast import GatheredCRD, HostNegatives, stacked

READ = 1000  # images copied from a store at once
EVALUATION_BATCH = 2  # a validation batch is this many times smaller than a training batch

Item = tuple[Tensor, int, int, dict[str, Tensor], np.ndarray | None]


class PilImages(Dataset):
    """Single images as PIL decodes and transforms them, with label, position, further views and negatives."""

    def __init__(self, store: ImageStore, transform: T.Compose, views: dict[str, T.Compose]) -> None:
        parts = [images.cpu() for images, _, _ in store.batches(torch.arange(len(store)), READ)]
        self.images = torch.cat(parts).permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = store.labels.cpu().numpy()
        self.transform, self.views = transform, views
        self.negatives: HostNegatives | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> Item:
        image = Image.fromarray(self.images[position])
        views = {name: transform(image) for name, transform in self.views.items()}
        drawn = None if self.negatives is None else self.negatives.draw(position)
        return self.transform(image), int(self.labels[position]), position, views, drawn


def transform_of(
    augmentation: Augmentation, size: int, mean: tuple[float, ...], std: tuple[float, ...], view: View | None = None
) -> T.Compose:
    """Return the per-image transforms of a recipe that crops with padding and flips, or does nothing."""
    steps: list[object] = []
    if augmentation.crop == "padded":
        steps.append(T.RandomCrop(size, padding=augmentation.padding))
    if augmentation.flip:
        steps.append(T.RandomHorizontalFlip())
    if view is not None:
        steps.append(T.RandAugment(view.ops, view.magnitude))
    return T.Compose([*steps, T.ToTensor(), T.Normalize(mean, std)])


def collate(items: list[Item]) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor], Tensor | None]:
    """Return a batch of single images."""
    images, labels, positions, views, drawn = zip(*items, strict=True)
    negatives = None if drawn[0] is None else stacked(drawn)
    further = {name: torch.stack([view[name] for view in views]) for name in views[0]}
    return torch.stack(images), torch.tensor(labels), torch.tensor(positions), further, negatives


def joined(*parts: Seen) -> Seen:
    """Return what several groups of networks made of the same batch."""
    views = {name: Outputs() for part in parts for name in part.views}
    whole = Seen(Outputs(), views)
    for part in parts:
        whole.outputs.update(part.outputs)
        for name, outputs in part.views.items():
            views[name].update(outputs)
    return whole


class Reference:
    """One method's plain loop."""

    warm_up = 1
    """Steps after the first until all are alike."""

    def __init__(
        self, bench: Workbench, stage: Stage, workers: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        self.bench, self.stage, self.workers = bench, stage, workers
        self.recipe = bench.job.recipe.model_copy(update=dict(stage.recipe))
        self.device, self.team = bench.team.device, bench.team
        self.wants = bench.wants
        plain = (bench.data.image_size, mean, std)
        augmentation = self.recipe.augmentation
        views = {view.name: transform_of(augmentation, *plain, view) for view in self.wants.views}
        self.images = PilImages(bench.data.train, transform_of(augmentation, *plain), views)
        nothing = augmentation.model_copy(update={"crop": "none", "flip": False})
        self.held_out = PilImages(bench.data.validation, transform_of(nothing, *plain), {})
        self.method = self._method()
        self.teacher_logits: Tensor | None = None
        """(K,n,C) of the teachers on the fixed view, for methods that learn from it."""
        seed = bench.job.seed
        self.order = torch.Generator().manual_seed(derived_seed(seed, "order"))
        self.draws = torch.Generator().manual_seed(derived_seed(seed, "method images"))
        self.team.enter(stage)
        self.optimizers = {update.name: self._optimizer(update) for update in stage.updates}
        self.epoch = 0
        self.losses: list[float] = []
        self.top1 = self.top5 = 0.0
        self.flops_per_image = 0.0
        self.loader = self._batches()

    def _method(self) -> Method:
        method = self.bench.method
        if type(method) is not CRD:
            return method
        self.images.negatives = HostNegatives(
            self.images.labels, self.bench.data.num_classes, method.settings.negatives
        )
        return GatheredCRD.like(method)

    def _optimizer(self, update: Update) -> torch.optim.Optimizer:
        recipe, method = self.recipe, self.bench.method
        momenta = method.momenta() if isinstance(method, Momenta) else {}
        groups_ = [(self.team.parameters(role), update.lr_scale.get(role, 1.0)) for role in update.trains]
        groups_ = [(parameters, scale) for parameters, scale in groups_ if parameters]
        if momenta:
            return build_optimizer(recipe, groups_, replayable=False, momenta=momenta)
        listed = [{"params": parameters, "lr": recipe.lr * scale} for parameters, scale in groups_]
        return torch.optim.SGD(listed, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)

    # --- images -----------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """Return how many batches an epoch has."""
        images, size = len(self.images), self.recipe.batch_size
        return images // size if images % size == 1 else -(-images // size)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor, dict[str, Tensor], Tensor | None]]:
        for _ in count():
            listed = self._order()
            loader = DataLoader(
                self.images,
                batch_sampler=listed,
                num_workers=self.workers,
                collate_fn=collate,
                pin_memory=self.device.type == "cuda",
            )
            yield from loader

    def _order(self) -> list[list[int]]:
        """Return the positions of each batch of an epoch, those of a group of images side by side."""
        shuffled = torch.randperm(len(self.images), generator=self.order)
        wanted, size = self.wants.groups, self.recipe.batch_size
        if wanted is None:
            return [part.tolist() for part in shuffled[: self.steps * size].split(size)]
        pool = groups.pool(len(self.images), wanted, self.draws) if wanted.kind == "random" else None
        labels = torch.from_numpy(self.images.labels)
        items = groups.epoch(wanted, labels, pool, size, self.steps, self.draws)
        return [part.tolist() for part in items.flatten().split(size * items.shape[1])]

    def close(self) -> None:
        """Stop the workers."""
        self.loader.close()  # type: ignore[attr-defined]

    # --- training ---------------------------------------------------------------------------------

    def run(self, steps: int) -> None:
        """Train on so many batches, with whatever kernels are fastest; convolutions in TF32, as torch has it."""
        make_deterministic(False)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True
        self.team.enter(self.stage)
        for _ in range(steps):
            batch = self.fetch()
            known = self.teach(batch)
            for update in self.stage.updates:
                self.update(update, batch, known)

    def count_flops(self) -> None:
        """Train on one batch and count what it costs for each image."""
        with FlopCounter() as counter:
            self.run(1)
        self.flops_per_image = counter.total / self.recipe.batch_size

    def fetch(self) -> Batch:
        """Return the next batch on the device."""
        images, labels, positions, views, negatives = next(self.loader)
        images, labels, positions = images.to(self.device), labels.to(self.device), positions.to(self.device)
        if isinstance(self.method, GatheredCRD):
            assert negatives is not None, "its images come with negatives"
            self.method.negatives = negatives
        batch = Batch(images, labels, positions, labels, views={k: v.to(self.device) for k, v in views.items()})
        wanted = self.wants.groups
        if wanted is not None and wanted.kind != "balanced":
            batch = replace(batch, group=wanted.size)
        if self.wants.fixed_teacher and self.teacher_logits is not None:
            batch = replace(batch, teacher_logits=self.teacher_logits[:, positions])
        if not isinstance(self.method, Prepares):
            return batch
        return self.method.prepare(batch, self.method.draw(images.shape[-1], self.draws).to(self.device))

    @torch.no_grad()
    def teach(self, batch: Batch) -> Seen:
        """Return what the networks that are not trained make of a batch and its views."""
        idle = [role for role in self.team.models if role not in self.stage.trained()]
        if not self.wants.live_teacher:
            idle = [role for role in idle if self.team.taps[role]]
        return self.forward(batch, idle)

    def forward(self, batch: Batch, roles: list[str]) -> Seen:
        """Run the networks as they are on a batch and its views."""
        return Seen(self._run(batch.images, roles), {k: self._run(view, roles) for k, view in batch.views.items()})

    def _run(self, images: Tensor, roles: list[str]) -> Outputs:
        outputs = Outputs()
        for role in roles:
            model = self.team.models[role]
            logits, taps = model(images, self.team.taps[role])
            outputs[role] = Output(logits, taps, model.classifier)
        return outputs

    def update(self, update: Update, batch: Batch, known: Seen) -> None:
        """Take one optimiser step, then read loss and accuracies back to the host."""
        trained = [role for role in self.team.models if role in update.trains]
        with torch.no_grad():
            waiting = self.forward(batch, [role for role in self.team.models if role in self._waiting(update)])
        seen = joined(known, waiting, self.forward(batch, trained))
        progress = Progress(self.epoch, self.recipe.epochs)
        schedule = {name: column[0] for name, column in schedules(self.method, [progress]).items()}
        terms = self.method.loss(Step(update.name, batch, seen, self.team.extra, schedule))
        weighted = {term: self.method.weight(term, progress) * value for term, value in terms.items()}
        total = torch.stack(list(weighted.values())).sum()
        self.descend(update, total, weighted)
        self.losses.append(total.item())
        if STUDENT in update.trains and len(seen.outputs.student.logits) == len(batch.labels):
            self.top1, self.top5 = accuracy(seen.outputs.student.logits, batch.labels)

    def _waiting(self, update: Update) -> frozenset[str]:
        """Return the networks that only other updates of the stage train."""
        return self.stage.trained() - frozenset(update.trains)

    def descend(self, update: Update, total: Tensor, weighted: dict[str, Tensor]) -> None:
        """Step down the gradient."""
        optimizer = self.optimizers[update.name]
        if isinstance(optimizer, SplitMomentum):
            assert isinstance(self.method, Momenta)
            off = torch.amp.GradScaler(self.device.type, enabled=False)
            descend_by_branch(optimizer, branch_totals(weighted, self.method.momenta()), off)
            return
        optimizer.zero_grad()
        total.backward()
        optimizer.step()

    def train_epoch(self) -> None:
        """Train on every image once, at the learning rate of the epoch."""
        for update in self.stage.updates:
            factor = lr_factor(self.recipe, self.epoch)
            for group, scale in zip(self.optimizers[update.name].param_groups, self._scales(update), strict=True):
                group["lr"] = self.recipe.lr * scale * factor
        self.run(self.steps)
        self.epoch += 1

    def _scales(self, update: Update) -> list[float]:
        return [update.lr_scale.get(role, 1.0) for role in update.trains if self.team.parameters(role)]

    @torch.no_grad()
    def evaluate(self) -> float:
        """Return the student's top-1 accuracy in percent on the validation images, read batch by batch."""
        model, hits = self.team.models[STUDENT].eval(), 0.0
        size = max(1, self.recipe.batch_size // EVALUATION_BATCH)
        loader = DataLoader(self.held_out, batch_size=size, num_workers=self.workers, collate_fn=collate)
        for images, labels, *_ in loader:
            logits, _ = model(images.to(self.device))
            hits += accuracy(logits, labels.to(self.device))[0] * len(labels)
        self.team.enter(self.stage)
        return hits / len(self.held_out)


def accuracy(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return top-1 and top-5 accuracy in percent, each read back to the host."""
    best = logits.detach().topk(min(5, logits.shape[1]), dim=1).indices
    hits = best == labels[:, None]
    return 100 * hits[:, :1].float().sum().item() / len(labels), 100 * hits.float().sum().item() / len(labels)
