"""One loop for all: stages of updates that alternate within a batch, with a checkpoint every epoch."""

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch

from kd.engine.capture import replays
from kd.engine.checkpoint import ResumeFile, restore_rng, rng_state
from kd.engine.data import Data
from kd.engine.evaluation import accuracies, evaluated_roles, evaluates_heads
from kd.engine.feed import Feed
from kd.engine.history import Clock, Result, Row
from kd.engine.loop import Loop
from kd.engine.precision import Precision
from kd.engine.seeds import derived_seed
from kd.engine.stage import StageRun
from kd.engine.step import take_step
from kd.engine.teachers import FrozenForward
from kd.engine.team import Team
from kd.methods.contract import EXTRA, STUDENT, Accepts, Batch, Method, Restarts, Seen, Stage
from kd.schema.config import Recipe

log = logging.getLogger(__name__)

OnEpoch = Callable[[Row], None]


class Training:
    """Trains a team through the stages of a method, one epoch after the other.

    `run` does it all. Trainings that share their batches go on side by side through `start`, `begin_epoch`, `step` and
    `end_epoch` (kd.engine.cotraining).
    """

    given: Mapping[str, float] = MappingProxyType({})
    """Of a stage of a chain, accuracies before the whole chain by role and head, each GIVEN and its name."""

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
        self.frozen = frozen or FrozenForward(team, precision, method.wants(), data.train, data.augmenter)
        self.feed = Feed(data, method, self.frozen.wants, seed, self.frozen.fixed_logits)
        self.result = Result()
        self.own_seed = derived_seed(seed, "method")

    def run(self, stages: list[Stage], optimizers: Mapping[str, dict[str, Any]] | None = None) -> Result:
        """Train all stages, going on from the resume file where there is one; it stays until the caller removes it."""
        torch.manual_seed(self.own_seed)
        self.start(stages, optimizers)
        while not self.finished:
            self.begin_epoch()
            for images in self.loop.epoch():
                self.stepped(images, self.frozen.cost(images))
            self.end_epoch()
        return self.result

    # --- stages ---------------------------------------------------------------------------------

    def start(self, stages: list[Stage], optimizers: Mapping[str, dict[str, Any]] | None = None) -> None:
        """Make the first stage ready, or the one in which an interrupted training was."""
        self.stages, self.carried = stages, optimizers or {}
        state = self.resume.load()
        self.clock = Clock(0.0 if state is None else float(state["seconds"]))
        self._enter(0 if state is None else int(state["index"]), state)

    @property
    def finished(self) -> bool:
        """Whether every stage is done."""
        return self.index == len(self.stages)

    def _enter(self, index: int, state: dict[str, Any] | None = None) -> None:
        """Make a stage ready, as it was in a checkpoint if there is one."""
        self.index = index
        if self.finished:
            self.result.seconds = self.clock.seconds()
            return
        stage = self.stages[index]
        replayable = replays(self.team.device)
        self.stage_run = run = StageRun(
            stage, self.team, self.method, self.recipe, self.precision, self.carried, replayable
        )
        self.feed.enter(run.recipe, replayable)
        if state is not None:
            self.load_state_dict(state)
        self.team.enter(stage)
        self.team.captured = replayable and run.recipe.capture != "off"
        self.team.fold(run.frozen)
        self.frozen.enter(run.frozen, run.recipe)
        log.info("stage '%s' on a %s: %s", stage.name, self.team.device.type, run.described())
        if state is None:
            self.result.flops += self.frozen.flops_before
        name = f"stage '{stage.name}' of method {self.method.name}"
        self.loop = Loop(self.feed, self._take, lambda: run.place, run.mend, name, run.recipe.capture)
        if run.stage.keeps and state is None:
            self._judge_start()
        if run.over:
            self._leave()

    def _judge_start(self) -> None:
        """Judge a stage as it begins, and where it can begin anew that too; go on from the better one."""
        run = self.stage_run
        run.judge(_tops(self._validated()))
        if isinstance(self.method, Restarts) and self.method.restart(run.stage, self.team.extra):
            run.judge(_tops(self._validated()), learned=False)
            run.take_kept()

    def _leave(self) -> None:
        """Keep what a finished stage leaves, let the method judge it, and enter the next."""
        result, run = self.result, self.stage_run
        result.optimizers = {name: optimizer.state_dict() for name, optimizer in run.optimizers.items()}
        if STUDENT in self.team.models:
            result.last = run.kept_weights()
            if not result.best:
                result.best, result.best_epoch = result.last, len(result.rows)
        found = _tops(result.rows[-1])
        if run.stage.keeps:
            found = run.take_kept()
            top = found[run.stage.keeps]
            log.info("%s was best after epoch %d of %d, %.2f %%", run.stage.keeps, run.kept["epoch"], run.epoch, top)
        if isinstance(self.method, Accepts):
            self.method.accept(run.stage, {**self.given, **found}, self.data.validation.labels, self.data.num_classes)
        self._enter(self.index + 1)

    # --- an epoch -------------------------------------------------------------------------------

    def begin_epoch(self) -> None:
        """Write the epoch's timetable and set its sums to nothing."""
        self._started = self.clock.seconds()
        self.stage_run.begin_epoch(self.feed.steps)

    def _take(self, batch: Batch) -> None:
        take_step(self.stage_run, batch, self.frozen.outputs(batch))

    def step(self, batch: Batch, known: Seen, cost: float) -> None:
        """Train on a batch, of which `known` is what the roles that are not trained make, at a cost in operations."""
        take_step(self.stage_run, batch, known)
        self.stepped(len(batch.labels), cost)

    def stepped(self, images: int, cost: float) -> None:
        """Count a step on so many images, beside which the roles that are not trained cost so many operations."""
        self.stage_run.steps_done += 1
        self.result.flops += self.stage_run.flops[images] + cost

    def end_epoch(self) -> None:
        """Read the sums, validate, select and save; the last epoch of a stage leads to the next stage."""
        run, result = self.stage_run, self.result
        run.average("epoch")
        run.sums.check(run.epoch + 1, run.steps_done)
        row: Row = {"epoch": len(result.rows) + 1, "stage": run.stage.name, "lr": run.recipe.lr * run.last_factor}
        row["seconds"] = self.clock.seconds() - self._started
        row.update(run.sums.means())
        row.update(self._validated())
        self._select(row)
        result.rows.append(row)
        run.end_epoch(row)
        if run.stage.keeps:
            run.judge(_tops(row))
        self.resume.save(self.state_dict())
        self.on_epoch(row)
        if run.over:
            self._leave()

    def _validated(self) -> Row:
        """Return the accuracies on validation images, and on test images if those are tracked."""
        row: Row = {}
        for split in ("val", "test") if self.recipe.track_test else ("val",):
            found = accuracies(
                self.stage_run.evaluated,
                self.method,
                self.data.validation if split == "val" else self.data.test,
                self.data.augmenter,
                self.precision,
                self.recipe.eval_batch_size,
                evaluated_roles(self.team, self.stage_run.stage.trained()),
                evaluates_heads(self.stage_run.stage),
            )
            row.update(_columns(split, found))
        self.team.enter(self.stage_run.stage)
        return row

    def _select(self, row: Row) -> None:
        """Keep the student's weights if they are the best so far."""
        top1 = row.get("val_top1")
        if self.stage_run.stage.selects and top1 is not None and top1 > self.result.best_top1:
            self.result.best_top1, self.result.best_epoch = top1, row["epoch"]
            self.result.best = self.stage_run.kept_weights()

    # --- resuming -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next epoch depends on, and the records of those before."""
        return {
            "index": self.index,
            "stage": self.stage_run.state_dict(),
            "feed": self.feed.state_dict(),
            "rng": rng_state(self.team.device),
            "result": self.result.state_dict(),
            "seconds": self.clock.seconds(),
            "device": self.team.device.type,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned, in the stage in which it was."""
        self.stage_run.load_state_dict(state["stage"])
        self.feed.load_state_dict(state["feed"])
        restore_rng(state["rng"], self.team.device)
        self.result.load_state_dict(state["result"])
        if state["device"] != self.team.device.type:
            log.warning("goes on on a %s after epochs on a %s", self.team.device.type, state["device"])
        run = self.stage_run
        log.info("resuming stage '%s' after epoch %d of %d", run.stage.name, run.epoch, run.epochs)


def _tops(row: Row) -> dict[str, float]:
    """Return the validation accuracies of roles and heads in a row, but the student's."""
    found = {key.removeprefix("val_top1/"): value for key, value in row.items() if key.startswith("val_top1/")}
    return {name: value for name, value in found.items() if value is not None}


def _columns(split: str, found: Mapping[str, float]) -> Row:
    row: Row = {f"{split}_top1": found.get(STUDENT), f"{split}_loss": found.get("loss")}
    if split == "test":
        del row["test_loss"]
    others = {name: value for name, value in found.items() if name not in {STUDENT, "loss", EXTRA}}
    row.update({f"{split}_top1/{name}": value for name, value in others.items()})
    return row
