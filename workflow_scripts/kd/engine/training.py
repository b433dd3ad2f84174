"""One loop for all: stages of updates that alternate within a batch, with a checkpoint every epoch."""

import copy
import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kd.data.mixing import mix
from kd.engine.checkpoint import ResumeFile, restore_rng, rng_state
from kd.engine.data import Data
from kd.engine.ema import EMA
from kd.engine.evaluation import accuracies, evaluated_roles, evaluates_heads
from kd.engine.history import Clock, Row, Sums
from kd.engine.optim import build_optimizer, lr_factor, set_lr
from kd.engine.precision import Precision
from kd.engine.team import Team
from kd.methods.contract import EXTRA, STUDENT, Batch, Method, Output, Progress, Stage, Update
from kd.spec.config import Recipe
from kd.spec.errors import UserError
from kd.spec.experiment import checked

log = logging.getLogger(__name__)

OnEpoch = Callable[[Row], None]


@dataclass
class Result:
    """What a training leaves."""

    rows: list[Row] = field(default_factory=list)
    last: dict[str, Tensor] = field(default_factory=dict)
    """The student's weights after the last epoch (averaged ones with EMA); empty in a pre-stage."""
    best: dict[str, Tensor] = field(default_factory=dict)
    """The student's weights at the best validation accuracy, the earliest of equals."""
    best_epoch: int = 0
    best_top1: float = -1.0
    seconds: float = 0.0
    flops: float = 0.0
    optimizers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Optimiser state of each update, for the next job of a chain."""


class Training:
    """Trains a team through the stages of a method."""

    def __init__(
        self,
        team: Team,
        method: Method,
        data: Data,
        recipe: Recipe,
        precision: Precision,
        seed: int,
        resume: ResumeFile,
        on_epoch: OnEpoch,
    ) -> None:
        self.team, self.method, self.data = team, method, data
        self.recipe, self.precision = recipe, precision
        self.resume, self.on_epoch = resume, on_epoch
        # Generators of their own: order and augmentation are the same for every method of a seed.
        self.order = torch.Generator().manual_seed(derived_seed(seed, "order"))
        self.draws = torch.Generator().manual_seed(derived_seed(seed, "augmentation"))
        self.result = Result()
        torch.manual_seed(derived_seed(seed, "method"))

    def run(self, stages: list[Stage], optimizers: Mapping[str, dict[str, Any]] | None = None) -> Result:
        """Train all stages, going on from the resume file where there is one; it stays until the caller removes it."""
        self.carried = optimizers or {}
        state = self.resume.load()
        done = 0 if state is None else int(state["stage"])
        self.clock = Clock(0.0 if state is None else float(state["seconds"]))
        for index, stage in enumerate(stages):
            if index >= done:
                self._run_stage(index, stage, state if index == done else None)
        self.result.seconds = self.clock.seconds()
        return self.result

    # --- a stage --------------------------------------------------------------------------------

    def _run_stage(self, index: int, stage: Stage, state: dict[str, Any] | None) -> None:
        recipe = checked(Recipe, {**self.recipe.model_dump(), **stage.recipe}, f"recipe of stage {stage.name}")
        self.stage, self.stage_recipe = stage, recipe
        self.scaler = self.precision.scaler()
        self.optimizers = {update.name: self._optimizer(update, recipe) for update in stage.updates}
        averaged = recipe.ema_decay is not None and STUDENT in stage.trained()
        self.ema = EMA(self.team.models[STUDENT], recipe.ema_decay or 0.0) if averaged else None
        self.flops_per_image: float | None = None
        epoch = 0 if state is None else self._restore(state)
        self.team.enter(stage)
        while epoch < recipe.epochs:
            row = self._run_epoch(epoch)
            epoch += 1
            self._select(row)
            self.result.rows.append(row)
            self._save(index, epoch)
            self.on_epoch(row)
        self._finish_stage(stage)

    def _optimizer(self, update: Update, recipe: Recipe) -> torch.optim.Optimizer:
        groups = [(self.team.parameters(role), update.lr_scale.get(role, 1.0)) for role in update.trains]
        groups = [(parameters, scale) for parameters, scale in groups if parameters]
        if not groups:
            raise UserError(f"update {update.name} has nothing to train: every parameter of it is frozen")
        optimizer = build_optimizer(recipe, groups, self.team.device)
        carried = self.carried.get(update.name)
        if carried is not None:
            hyper = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
            optimizer.load_state_dict(carried)
            for group, own in zip(optimizer.param_groups, hyper, strict=True):
                group.update(own)  # moments are carried over, this stage's hyper-parameters stay its own
        return optimizer

    def _finish_stage(self, stage: Stage) -> None:
        self.result.optimizers = {name: o.state_dict() for name, o in self.optimizers.items()}
        if STUDENT in self.team.models:
            self.result.last = _clone(self._kept_student().state_dict())
            if not self.result.best:
                self.result.best, self.result.best_epoch = self.result.last, len(self.result.rows)
        row = self.result.rows[-1]
        found = {key.removeprefix("val_top1/"): value for key, value in row.items() if key.startswith("val_top1/")}
        self.method.accept(stage, found, self.data.validation.labels, self.data.num_classes)

    def _kept_student(self) -> torch.nn.Module:
        return self.team.models[STUDENT] if self.ema is None else self.ema.model

    def _select(self, row: Row) -> None:
        top1 = row.get("val_top1")
        if self.stage.selects and top1 is not None and top1 > self.result.best_top1:
            self.result.best_top1, self.result.best_epoch = top1, row["epoch"]
            self.result.best = _clone(self._kept_student().state_dict())

    # --- an epoch -------------------------------------------------------------------------------

    def _run_epoch(self, epoch: int) -> Row:
        started = time.perf_counter()
        recipe, store = self.stage_recipe, self.data.train
        sums = Sums(self.team.device)
        order = torch.randperm(len(store), generator=self.order)
        steps = -(-len(store) // recipe.batch_size)
        if len(store) % recipe.batch_size == 1:
            # BatchNorm has no statistics over a single value
            order, steps = order[:-1], steps - 1
        for step, (images, labels, positions) in enumerate(store.batches(order, recipe.batch_size)):
            at = epoch + step / steps
            batch = self._batch(images, labels, positions)
            if self.flops_per_image is None:
                with FlopCounterMode(display=False) as counter:
                    self._step(batch, at, step, sums)
                self.flops_per_image = counter.get_total_flops() / len(labels)
            else:
                self._step(batch, at, step, sums)
            self.result.flops += self.flops_per_image * len(labels)
        sums.check(epoch + 1, steps)
        row: Row = {"epoch": len(self.result.rows) + 1, "stage": self.stage.name}
        row["lr"] = recipe.lr * lr_factor(recipe, epoch + (steps - 1) / steps)
        row["seconds"] = time.perf_counter() - started
        row.update(sums.means())
        row.update(self._validate())
        return row

    def _batch(self, images: Tensor, labels: Tensor, positions: Tensor) -> Batch:
        recipe = self.stage_recipe
        seen = self.data.augmenter.train(images, self.draws)
        if recipe.mixup_alpha == 0 and recipe.cutmix_alpha == 0:
            return Batch(seen, labels, positions, labels, 1.0, recipe.label_smoothing)
        mixed = mix(seen, labels, recipe.mixup_alpha, recipe.cutmix_alpha, self.draws)
        return Batch(mixed.images, labels, positions, mixed.other_labels, mixed.lam, recipe.label_smoothing)

    def _step(self, batch: Batch, at: float, step: int, sums: Sums) -> None:
        trained = self.stage.trained()
        fixed = [role for role in self.team.models if role not in trained]
        known = self.team.forward(batch.images, self.precision, roles=fixed)
        for update in self.stage.updates:
            set_lr(self.optimizers[update.name], lr_factor(self.stage_recipe, at))
            outputs = self._update(update, batch, known, at, step, sums)
            if STUDENT in update.trains:
                hits = (outputs[STUDENT].logits.detach().argmax(1) == batch.labels).double().mean()
                sums.add("train_top1", 100 * hits, len(batch.labels))
        if self.ema is not None:
            self.ema.update(self.team.models[STUDENT])

    def _update(
        self, update: Update, batch: Batch, known: Mapping[str, Output], at: float, step: int, sums: Sums
    ) -> dict[str, Output]:
        progress = Progress(at, self.stage_recipe.epochs)
        outputs = self.team.forward(batch.images, self.precision, frozenset(update.trains), known)
        terms = self.method.loss(update.name, batch, outputs, self.team.extra, progress)
        weighted = [self.method.weight(term, progress) * value for term, value in terms.items()]
        total = torch.stack(weighted).sum()
        self._descend(update, total)
        prefix = "loss/" if len(self.stage.updates) == 1 else f"loss/{update.name}/"
        first = update is self.stage.updates[0]
        sums.add("train_loss" if first else f"train_loss/{update.name}", total, len(batch.labels))
        for term, value in terms.items():
            sums.add(f"{prefix}{term}", value, len(batch.labels))
            sums.watch(f"{prefix}{term}".removeprefix("loss/"), value, step)
        return outputs

    def _descend(self, update: Update, total: Tensor) -> None:
        optimizer = self.optimizers[update.name]
        optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        if self.stage_recipe.grad_clip > 0:
            self.scaler.unscale_(optimizer)
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.stage_recipe.grad_clip)
        self.scaler.step(optimizer)
        self.scaler.update()

    def _validate(self) -> Row:
        trained = self.stage.trained()
        student = self.team.models.get(STUDENT)
        if self.ema is not None:
            self.team.models[STUDENT] = self.ema.model  # type: ignore[assignment]
        row: Row = {}
        for split in ("val", "test") if self.recipe.track_test else ("val",):
            store = self.data.validation if split == "val" else self.data.test
            found = accuracies(
                self.team,
                self.method,
                store,
                self.data.augmenter,
                self.precision,
                self.recipe.eval_batch_size,
                evaluated_roles(self.team, trained),
                evaluates_heads(trained),
            )
            row.update(_columns(split, found))
        if student is not None:
            self.team.models[STUDENT] = student
        self.team.enter(self.stage)
        return row

    # --- resuming -------------------------------------------------------------------------------

    def _save(self, index: int, epoch: int) -> None:
        result = self.result
        self.resume.save(
            {
                "stage": index,
                "epoch": epoch,
                "seconds": self.clock.seconds(),
                "team": self.team.state(),
                "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
                "scaler": self.scaler.state_dict(),
                "ema": None if self.ema is None else self.ema.model.state_dict(),
                "order": self.order.get_state(),
                "draws": self.draws.get_state(),
                "rng": rng_state(self.team.device),
                "rows": result.rows,
                "best": result.best,
                "best_epoch": result.best_epoch,
                "best_top1": result.best_top1,
                "flops": result.flops,
                "flops_per_image": self.flops_per_image,
            }
        )

    def _restore(self, state: dict[str, Any]) -> int:
        result = self.result
        self.team.load_state(state["team"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.model.load_state_dict(state["ema"])
        self.order.set_state(state["order"])
        self.draws.set_state(state["draws"])
        restore_rng(state["rng"], self.team.device)
        result.rows, result.best = list(state["rows"]), state["best"]
        result.best_epoch, result.best_top1 = state["best_epoch"], state["best_top1"]
        result.flops, self.flops_per_image = state["flops"], state["flops_per_image"]
        log.info("resuming stage '%s' after epoch %d of %d", self.stage.name, state["epoch"], self.stage_recipe.epochs)
        return int(state["epoch"])


def derived_seed(seed: int, purpose: str) -> int:
    """Return a seed for one purpose, so that streams of one run never meet."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:7], "big")


def _columns(split: str, found: Mapping[str, float]) -> Row:
    row: Row = {f"{split}_top1": found.get(STUDENT), f"{split}_loss": found.get("loss")}
    if split == "test":
        del row["test_loss"]
    others = {name: value for name, value in found.items() if name not in {STUDENT, "loss", EXTRA}}
    row.update({f"{split}_top1/{name}": value for name, value in others.items()})
    return row


def _clone(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: copy.deepcopy(value.detach().cpu()) for name, value in state.items()}
