"""One stage of a training under way: everything that begins and ends with it."""

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kd.engine.history import Row, Sums
from kd.engine.optim import build_optimizer, lr_factor
from kd.engine.precision import Precision
from kd.engine.team import Team
from kd.engine.timetable import EMA_STEP, LR, Timetable, ema_decay
from kd.methods.contract import EXTRA, STUDENT, Method, Momenta, Progress, Stage, Update
from kd.schema.config import Recipe
from kd.study.experiment import checked
from kd.study.options import AVERAGE, PLATEAU, option
from kd.tools.errors import UserError

if TYPE_CHECKING:
    from kd.engine.ema import EMA
    from kd.engine.plateau import Plateau
    from kd.models.base import TappedModel


class StageRun:
    """A stage's recipe, optimisers, scaler, averaged weights and plateau; the epochs and steps done and their cost."""

    def __init__(
        self,
        stage: Stage,
        team: Team,
        method: Method,
        recipe: Recipe,
        precision: Precision,
        carried: Mapping[str, dict[str, Any]],
        replayable: bool,
    ) -> None:
        """Make a stage ready, with optimisers that go on from the states `carried` by the names of updates.

        Steps of one that is `replayable` read no number from the host.
        """
        self.replayable = replayable
        self.stage, self.team, self.method, self.precision = stage, team, method, precision
        self.epochs = int(stage.recipe.get("epochs", recipe.epochs))
        self.before, total = stage.span or (0.0, self.epochs)
        # schedules see all the epochs that they run over, of which this stage may be a part
        changes = {**stage.recipe, "epochs": int(total)}
        self.recipe = recipe = checked(Recipe, {**recipe.model_dump(), **changes}, f"recipe of stage {stage.name}")
        self.trained = [role for role in team.models if role in stage.trained()]
        self.frozen = [role for role in team.models if role not in self.trained]
        self.scaler = precision.scaler()
        self.optimizers = {update.name: self._optimizer(update, carried.get(update.name)) for update in stage.updates}
        averaged = recipe.ema_decay is not None and STUDENT in self.trained
        self.ema: EMA[TappedModel] | None = option(AVERAGE).EMA(team.models[STUDENT]) if averaged else None
        waits = recipe.schedule == "plateau"
        self.plateau: Plateau | None = option(PLATEAU).Plateau(recipe) if waits else None
        self.timetable, self.sums = Timetable(recipe, method, team.device), Sums(team.device)
        self._loads = 0
        self.epoch = 0
        self.kept: dict[str, Any] = {}
        """Where a head decides what is kept: its state when it was best, the accuracies found then and the epoch."""
        self.flops: dict[int, float] = {}
        """What a step costs, by the number of images of its batch; known once there was one."""

    def _optimizer(self, update: Update, carried: dict[str, Any] | None) -> torch.optim.Optimizer:
        groups = [(self.team.parameters(role), update.lr_scale.get(role, 1.0)) for role in update.trains]
        groups = [(parameters, scale) for parameters, scale in groups if parameters]
        if not groups:
            raise UserError(f"update {update.name} has nothing to train: every parameter of it is frozen")
        momenta = self.method.momenta() if isinstance(self.method, Momenta) else {}
        optimizer = build_optimizer(self.recipe, groups, self.replayable, momenta)
        if carried is not None:
            hyper = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
            optimizer.load_state_dict(carried)
            for group, own in zip(optimizer.param_groups, hyper, strict=True):
                group.update(own)  # moments are carried over, this stage's hyper-parameters stay its own
        return optimizer

    @property
    def over(self) -> bool:
        """Whether all of its epochs are done, or validation says that no more are worth it."""
        return self.epoch >= self.epochs or (self.plateau is not None and self.plateau.over)

    @property
    def evaluated(self) -> Team:
        """Return the team with the student that is evaluated and kept: averaged, where weights are."""
        return self.team if self.ema is None else self.team.with_student(self.ema.model)

    def kept_weights(self) -> dict[str, Tensor]:
        """Return the weights of the student that is kept, in memory of their own on the CPU."""
        weights = self.evaluated.models[STUDENT].state_dict()
        return {name: copy.deepcopy(value.detach().cpu()) for name, value in weights.items()}

    @property
    def last_factor(self) -> float:
        """Return the learning rate of the epoch's last step, as a share of the recipe's."""
        return self.timetable.host[LR][-1]

    @property
    def place(self) -> tuple[int, int]:
        """Another value once what a step reads or moves lies elsewhere than a graph of it would look."""
        return self.timetable.place, self._loads

    def mend(self) -> None:
        """Forget what a step that was not taken to its end left on the host; the tensors are as they were."""
        scaler, self.scaler = self.scaler, self.precision.scaler()
        if scaler.is_enabled():
            self.scaler.load_state_dict(scaler.state_dict())
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    def described(self) -> str:
        """Return how each network of the stage runs."""
        ran = self.team.ran()
        modes = {role: ran[role].trained if role in self.trained else ran[role].frozen for role in ran}
        return "; ".join(f"{role} {self.team.models[role].arch} in {mode}" for role, mode in modes.items())

    def begin_epoch(self, steps: int) -> None:
        """Write the timetable of an epoch of so many steps, and set its sums to nothing."""
        done = [Progress(self.epoch + step / steps, self.epochs) for step in range(steps)]
        self.timetable.fill(done, self.before, self._lr_factor)
        self.sums.begin()
        self.steps_done = 0

    def _lr_factor(self, epoch: float) -> float:
        if self.plateau is None:
            return lr_factor(self.recipe, self.before + epoch)
        return max(self.recipe.gamma**self.plateau.drops, self.recipe.min_lr / self.recipe.lr)

    def average(self, after: str) -> None:
        """Take the trained weights into the averaged ones, if that is to happen after each "step" or "epoch"."""
        if self.ema is None or self.recipe.ema_every != after:
            return
        step = self.timetable[EMA_STEP] if after == "step" else 1 - ema_decay(self.recipe, self.epoch)
        self.ema.update(self.team.models[STUDENT], step)

    def end_epoch(self, row: Row) -> None:
        """Count an epoch; under a plateau keep the best state, or go back to it with a lower learning rate."""
        self.epoch += 1
        if self.plateau is None:
            return
        if self.plateau.improved(row["val_top1"]):
            self.plateau.state = copy.deepcopy(self._weights())
        elif self.plateau.due and not self.plateau.over:
            self._load_weights(self.plateau.state)
            self.plateau.drop()

    def judge(self, found: Mapping[str, float], learned: bool = True) -> None:
        """Keep what is trained if the head that decides has never been better; of equals the one that learned more.

        That is the later one, unless it has `learned` less.
        """
        top, best = found[self.stage.keeps], self.kept["found"][self.stage.keeps] if self.kept else -1.0
        if top > best or (top == best and learned):
            state = {role: own for role, own in self.team.state().items() if role in {*self.trained, EXTRA}}
            self.kept = {"found": dict(found), "epoch": self.epoch, "state": copy.deepcopy(state)}

    def take_kept(self) -> dict[str, float]:
        """Go back to what was kept; return its accuracies."""
        for role, module in self.team.modules():
            if role in self.kept["state"]:
                module.load_state_dict(self.kept["state"][role])
        return dict(self.kept["found"])

    def _weights(self) -> dict[str, Any]:
        """Return everything that training moves."""
        return {
            "team": self.team.state(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "ema": None if self.ema is None else self.ema.model.state_dict(),
        }

    def _load_weights(self, state: Mapping[str, Any]) -> None:
        self._loads += 1  # optimisers take loaded moments into new memory
        self.team.load_state(state["team"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(copy.deepcopy(state["optimizers"][name]))
        if self.ema is not None:
            self.ema.model.load_state_dict(state["ema"])

    def state_dict(self) -> dict[str, Any]:
        """Return everything for a checkpoint between two epochs, the networks included."""
        return {
            "weights": self._weights(),
            "scaler": self.scaler.state_dict(),
            "plateau": None if self.plateau is None else self.plateau.state_dict(),
            "epoch": self.epoch,
            "flops": self.flops,
            "kept": self.kept,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned."""
        self._load_weights(state["weights"])
        if state["scaler"]:  # empty where the interrupted attempt ran in a format that needs none
            self.scaler.load_state_dict(state["scaler"])
        if self.plateau is not None:
            self.plateau.load_state_dict(state["plateau"])
        self.epoch, self.flops, self.kept = int(state["epoch"]), dict(state["flops"]), dict(state["kept"])
