"""One loop for all: stages of updates that alternate within a batch, with a checkpoint every epoch."""

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kd.engine.checkpoint import ResumeFile, restore_rng, rng_state
from kd.engine.data import Data
from kd.engine.ema import EMA, ema_decay
from kd.engine.evaluation import accuracies, evaluated_roles, evaluates_heads
from kd.engine.feed import Feed
from kd.engine.flops import FlopCounter
from kd.engine.history import Clock, Row, Sums
from kd.engine.optim import SplitMomentum, branch_totals, build_optimizer, clip_norm, descend, lr_factor, set_lr
from kd.engine.plateau import Plateau
from kd.engine.precision import Precision
from kd.engine.runner import uncompiled
from kd.engine.seeds import derived_seed
from kd.engine.teachers import FrozenForward
from kd.engine.team import Team
from kd.methods.contract import EXTRA, STUDENT, Batch, Method, Output, Progress, Stage, Update
from kd.schema.config import Recipe
from kd.study.experiment import checked
from kd.tools.errors import UserError

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
    """Trains a team through the stages of a method, one epoch after the other.

    `run` does it all. Trainings that share their batches go on side by side through `start`, `begin_epoch`, `step` and
    `end_epoch` (kd.engine.cotraining).
    """

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
        frozen: FrozenForward | None = None,
    ) -> None:
        self.team, self.method, self.data = team, method, data
        self.recipe, self.precision = recipe, precision
        self.resume, self.on_epoch = resume, on_epoch
        self.frozen = frozen or FrozenForward(team, precision, method.needs(), data.train, data.augmenter)
        self.feed = Feed(data, method, seed, self.frozen.fixed_logits)
        self.result = Result()
        self.own_seed = derived_seed(seed, "method")

    def run(self, stages: list[Stage], optimizers: Mapping[str, dict[str, Any]] | None = None) -> Result:
        """Train all stages, going on from the resume file where there is one; it stays until the caller removes it."""
        torch.manual_seed(self.own_seed)
        self.start(stages, optimizers)
        while not self.finished:
            self.begin_epoch()
            for batch in self.feed.epoch():
                self.step(batch, self.frozen.outputs(batch))
            self.end_epoch()
        return self.result

    # --- stages ---------------------------------------------------------------------------------

    def start(self, stages: list[Stage], optimizers: Mapping[str, dict[str, Any]] | None = None) -> None:
        """Make the first stage ready, or the one in which an interrupted training was."""
        self.stages, self.carried = stages, optimizers or {}
        state = self.resume.load()
        self.clock = Clock(0.0 if state is None else float(state["seconds"]))
        self._enter(0 if state is None else int(state["stage"]), state)

    @property
    def finished(self) -> bool:
        """Whether every stage is done."""
        return self.index == len(self.stages)

    def _enter(self, index: int, state: dict[str, Any] | None = None) -> None:
        self.index = index
        if self.finished:
            self.result.seconds = self.clock.seconds()
            return
        self.stage = stage = self.stages[index]
        self.epochs = int(stage.recipe.get("epochs", self.recipe.epochs))
        self.before, total = stage.span or (0.0, self.epochs)
        # schedules see all the epochs that they run over, of which this stage may be a part
        changes = {**stage.recipe, "epochs": int(total)}
        recipe = checked(Recipe, {**self.recipe.model_dump(), **changes}, f"recipe of stage {stage.name}")
        self.stage_recipe = recipe
        self.scaler = self.precision.scaler()
        self.optimizers = {update.name: self._optimizer(update, recipe) for update in stage.updates}
        averaged = recipe.ema_decay is not None and STUDENT in stage.trained()
        self.ema = EMA(self.team.models[STUDENT]) if averaged else None
        self.plateau = Plateau(recipe) if recipe.schedule == "plateau" else None
        self.step_flops: dict[int, float] = {}
        self.feed.enter(recipe)
        self.epoch = 0 if state is None else self._restore(state)
        self.team.enter(stage)
        self.trained = [role for role in self.team.models if role in stage.trained()]
        frozen = [role for role in self.team.models if role not in self.trained]
        self.team.fold(frozen)
        self.frozen.enter(frozen, recipe)
        log.info("stage '%s' on a %s: %s", stage.name, self.team.device.type, self._described())
        if state is None:
            self.result.flops += self.frozen.flops_before
        if self._stage_is_over():
            self._leave()

    def _described(self) -> str:
        """Return how each network of the stage runs."""
        ran = self.team.ran()
        modes = {role: ran[role].trained if role in self.trained else ran[role].frozen for role in ran}
        return "; ".join(f"{role} {self.team.models[role].arch} in {mode}" for role, mode in modes.items())

    def _stage_is_over(self) -> bool:
        return self.epoch >= self.epochs or (self.plateau is not None and self.plateau.over)

    def _leave(self) -> None:
        self._finish_stage(self.stage)
        self._enter(self.index + 1)

    def _optimizer(self, update: Update, recipe: Recipe) -> torch.optim.Optimizer:
        groups = [(self.team.parameters(role), update.lr_scale.get(role, 1.0)) for role in update.trains]
        groups = [(parameters, scale) for parameters, scale in groups if parameters]
        if not groups:
            raise UserError(f"update {update.name} has nothing to train: every parameter of it is frozen")
        optimizer = build_optimizer(recipe, groups, self.team.device, self.method.momenta())
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

    def begin_epoch(self) -> None:
        """Set the sums of an epoch to nothing."""
        self.sums, self.steps_done, self._started = Sums(self.team.device), 0, self.clock.seconds()

    def step(self, batch: Batch, known: Mapping[str, Output]) -> None:
        """Train on a batch, of which `known` is what the roles that are not trained make."""
        size = len(batch.labels)
        if size in self.step_flops:
            self._step(batch, known)
        else:  # a last, smaller batch is counted for itself: what compares images grows with their square
            with uncompiled(), FlopCounter() as counter:
                self._step(batch, known)
            self.step_flops[size] = float(counter.total)
        self.result.flops += self.step_flops[size] + self.frozen.pass_flops[size]
        self.steps_done += 1

    def end_epoch(self) -> None:
        """Read the sums, validate, select and save; the last epoch of a stage leads to the next stage."""
        recipe, steps = self.stage_recipe, self.steps_done
        if self.ema is not None and recipe.ema_every == "epoch":
            self.ema.update(self.team.models[STUDENT], ema_decay(recipe, float(self.epoch)))
        self.sums.check(self.epoch + 1, steps)
        row: Row = {"epoch": len(self.result.rows) + 1, "stage": self.stage.name}
        row["lr"] = recipe.lr * self._lr_factor(self.epoch + (steps - 1) / steps)
        row["seconds"] = self.clock.seconds() - self._started
        row.update(self.sums.means())
        row.update(self._validate())
        self.epoch += 1
        self._select(row)
        self.result.rows.append(row)
        if self.plateau is not None:
            self._wait(self.plateau, row)
        self._save()
        self.on_epoch(row)
        if self._stage_is_over():
            self._leave()

    def _wait(self, plateau: Plateau, row: Row) -> None:
        """Keep the best state, or go back to it with a lower learning rate when patience ends."""
        if plateau.improved(row["val_top1"]):
            plateau.state = copy.deepcopy(self._trained_state())
        elif plateau.due and not plateau.over:
            self._load_trained(plateau.state)
            plateau.drop()

    def _lr_factor(self, at: float) -> float:
        if self.plateau is None:
            return lr_factor(self.stage_recipe, self.before + at)
        return max(self.stage_recipe.gamma**self.plateau.drops, self.stage_recipe.min_lr / self.stage_recipe.lr)

    def _step(self, batch: Batch, known: Mapping[str, Output]) -> None:
        at = self.epoch + self.steps_done / self.feed.steps
        items = len(batch.labels) // batch.group
        for update in self.stage.updates:
            set_lr(self.optimizers[update.name], self._lr_factor(at))
            outputs = self._update(update, batch, known, at, items)
            if STUDENT in update.trains and len(outputs[STUDENT].logits) == len(batch.labels):
                hits = (outputs[STUDENT].logits.detach().argmax(1) == batch.labels).double().mean()
                self.sums.add("train_top1", 100 * hits, items)
        if self.ema is not None and self.stage_recipe.ema_every == "step":
            self.ema.update(self.team.models[STUDENT], ema_decay(self.stage_recipe, at))

    def _update(
        self, update: Update, batch: Batch, known: Mapping[str, Output], at: float, items: int
    ) -> dict[str, Output]:
        progress = Progress(at, self.epochs)
        trained = frozenset(update.trains)
        # what is not trained is either known or not wanted
        outputs = self.team.forward(batch.images, self.precision, trained, known, self.trained)
        for name, view in batch.views.items():
            outputs = self.team.forward(view, self.precision, trained, outputs, self.trained, view=name)
        terms = self.method.loss(update.name, batch, outputs, self.team.extra, progress)
        weighted = {term: self.method.weight(term, progress) * value for term, value in terms.items()}
        total = torch.stack(list(weighted.values())).sum()
        self._descend(
            update, total, weighted, clip_norm(self.stage_recipe, (self.before + at) / self.stage_recipe.epochs)
        )
        sums = self.sums
        prefix = "loss/" if len(self.stage.updates) == 1 else f"loss/{update.name}/"
        first = update is self.stage.updates[0]
        sums.add("train_loss" if first else f"train_loss/{update.name}", total, items)
        for term, value in terms.items():
            sums.add(f"{prefix}{term}", value, items)
            sums.watch(f"{prefix}{term}".removeprefix("loss/"), value, self.steps_done)
        return outputs

    def _descend(self, update: Update, total: Tensor, weighted: Mapping[str, Tensor], max_norm: float) -> None:
        optimizer = self.optimizers[update.name]
        if isinstance(optimizer, SplitMomentum):
            totals = branch_totals(weighted, self.method.momenta())
            descend(optimizer, totals, self.scaler, max_norm)
            return
        optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        if max_norm > 0:
            self.scaler.unscale_(optimizer)
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        self.scaler.step(optimizer)
        self.scaler.update()

    def _validate(self) -> Row:
        trained = self.stage.trained()
        team = self.team if self.ema is None else self.team.with_student(self.ema.model)
        row: Row = {}
        for split in ("val", "test") if self.recipe.track_test else ("val",):
            store = self.data.validation if split == "val" else self.data.test
            found = accuracies(
                team,
                self.method,
                store,
                self.data.augmenter,
                self.precision,
                self.recipe.eval_batch_size,
                evaluated_roles(team, trained),
                evaluates_heads(self.stage),
            )
            row.update(_columns(split, found))
        self.team.enter(self.stage)
        return row

    # --- resuming -------------------------------------------------------------------------------

    def _trained_state(self) -> dict[str, Any]:
        """Return everything that training changes, but for random generators and records."""
        return {
            "team": self.team.state(),
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
            "ema": None if self.ema is None else self.ema.model.state_dict(),
        }

    def _load_trained(self, state: Mapping[str, Any]) -> None:
        self.team.load_state(state["team"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(copy.deepcopy(state["optimizers"][name]))
        if self.ema is not None:
            self.ema.model.load_state_dict(state["ema"])

    def _save(self) -> None:
        result = self.result
        self.resume.save(
            {
                **self._trained_state(),
                "stage": self.index,
                "epoch": self.epoch,
                "seconds": self.clock.seconds(),
                "scaler": self.scaler.state_dict(),
                "plateau": None if self.plateau is None else self.plateau.state_dict(),
                "feed": self.feed.state(),
                "rng": rng_state(self.team.device),
                "rows": result.rows,
                "best": result.best,
                "best_epoch": result.best_epoch,
                "best_top1": result.best_top1,
                "flops": result.flops,
                "step_flops": self.step_flops,
                "device": self.team.device.type,
            }
        )

    def _restore(self, state: dict[str, Any]) -> int:
        result = self.result
        self._load_trained(state)
        if state["scaler"]:  # empty where the interrupted attempt ran in a format that needs none
            self.scaler.load_state_dict(state["scaler"])
        if self.plateau is not None:
            self.plateau.load_state_dict(state["plateau"])
        self.feed.load_state(state["feed"])
        restore_rng(state["rng"], self.team.device)
        result.rows, result.best = list(state["rows"]), state["best"]
        result.best_epoch, result.best_top1 = state["best_epoch"], state["best_top1"]
        result.flops, self.step_flops = state["flops"], dict(state["step_flops"])
        if state["device"] != self.team.device.type:
            log.warning("goes on on a %s after epochs on a %s", self.team.device.type, state["device"])
        log.info("resuming stage '%s' after epoch %d of %d", self.stage.name, state["epoch"], self.epochs)
        return int(state["epoch"])


def _columns(split: str, found: Mapping[str, float]) -> Row:
    row: Row = {f"{split}_top1": found.get(STUDENT), f"{split}_loss": found.get("loss")}
    if split == "test":
        del row["test_loss"]
    others = {name: value for name, value in found.items() if name not in {STUDENT, "loss", EXTRA}}
    row.update({f"{split}_top1/{name}": value for name, value in others.items()})
    return row


def _clone(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: copy.deepcopy(value.detach().cpu()) for name, value in state.items()}
