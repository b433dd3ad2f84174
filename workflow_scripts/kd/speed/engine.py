"""The engine's own training, driven for a number of steps instead of epochs."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from kd.engine.capture import WARM_UP
from kd.engine.checkpoint import ResumeFile
from kd.engine.evaluation import accuracies, evaluated_roles, evaluates_heads
from kd.engine.history import Row
from kd.engine.jobs.workbench import Workbench
from kd.engine.precision import set_kernels
from kd.engine.teachers import FrozenForward
from kd.engine.training import Training
from kd.methods.contract import STUDENT, Batch, Stage


class Engine:
    """One method's training as a job runs it, without what happens between epochs."""

    def __init__(self, bench: Workbench, stage: Stage, folder: Path, teacher_logits: Tensor | None = None) -> None:
        self.bench, self.stage = bench, stage
        data, team, job = bench.data, bench.team, bench.job
        images = (data.train, data.augmenter)
        self.frozen = FrozenForward(team, bench.precision, bench.wants, *images, teacher_logits)
        self.rows: list[Row] = []
        resume = ResumeFile(folder / f"resume{id(self)}.pt", "benchmark")
        self.training = Training(
            team, bench.method, data, job.recipe, bench.precision, job.seed, resume, self.rows.append, self.frozen
        )
        torch.manual_seed(self.training.own_seed)
        self.training.start([stage])
        self.training.begin_epoch()
        self.replays = self.training.feed.tray is not None and self.training.stage_run.recipe.capture != "off"
        """Whether its steps are replayed, as those of a job on a GPU are."""
        self.warm_up = WARM_UP + 1 if self.replays else 1
        """Steps after the first until all are alike."""
        self.batches = self._batches()
        self._sizes = self._laid_out()

    def _batches(self) -> Iterator[Batch]:
        tray = self.training.feed.tray
        if tray is not None:
            yield from map(tray.serve, self._sizes)
        while True:
            yield from self.training.feed.epoch()

    def _laid_out(self) -> Iterator[int]:
        """Yield of the batches of epoch after epoch, each laid out on the device, how many images they have."""
        tray = self.training.feed.tray
        assert tray is not None, "batches are laid out"
        while True:
            yield from tray.epoch()

    def run(self, steps: int) -> None:
        """Train on so many batches, as a job does."""
        if not self.replays:
            self.run_by_step(steps)
            return
        set_kernels(self.bench.job.recipe)
        for _ in range(steps):
            self._go_on()
            images = next(self._sizes)
            self.training.loop.take(images)
            self.training.stepped(images, self.frozen.cost(images))

    def run_by_step(self, steps: int) -> None:
        """Train on so many batches in steps that are launched kernel by kernel, with their parts to be seen."""
        set_kernels(self.bench.job.recipe)
        for _ in range(steps):
            self._go_on()
            batch = self.fetch()
            self.training.step(batch, self.frozen.outputs(batch), self.frozen.cost(len(batch.labels)))

    def _go_on(self) -> None:
        if self.training.stage_run.steps_done == self.training.feed.steps:
            self.training.begin_epoch()

    @property
    def flops_per_image(self) -> float:
        """Return what a step needs for an image of a full batch, 0 before the first."""
        flops = self.training.stage_run.flops
        size = max(flops, default=0)
        return (flops[size] + self.frozen.cost(size)) / size if size else 0.0

    def fetch(self) -> Batch:
        """Return the next batch, from one epoch into the next."""
        return next(self.batches)

    def loss(self) -> float:
        """Return the mean loss of the epoch's steps so far."""
        return self.training.stage_run.sums.means()["train_loss"]

    def evaluate(self) -> float:
        """Return the student's top-1 accuracy in percent on the validation images."""
        bench, trained = self.bench, self.stage.trained()
        found = accuracies(
            bench.team,
            bench.method,
            bench.data.validation,
            bench.data.augmenter,
            bench.precision,
            bench.job.recipe.eval_batch_size,
            evaluated_roles(bench.team, trained),
            evaluates_heads(self.stage),
        )
        bench.team.enter(self.stage)
        return found[STUDENT]
