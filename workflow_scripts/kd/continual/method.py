"""What a student is trained on in one task: classification, and what its strategy adds against forgetting."""

import torch
from torch import Tensor, nn

from kd.continual.ewc import Anchors
from kd.data.wants import Groups, Wants
from kd.methods.contract import STUDENT, Batch, Context, Method, Outputs, Stage, Step, Update
from kd.methods.kd import kd_loss
from kd.study.continual import TEACHER, Strategy

PREVIOUS = "previous"
"""Role of the student as the task before left it."""
TRAIN, BALANCE = "train", "balance"


class Incremental(Method):
    """One phase of one task; networks have one output for each class seen, in the order of learning."""

    settings: Strategy

    def __init__(
        self,
        settings: Strategy,
        teachers: int,
        old: int,
        seen: int,
        phase: str = TRAIN,
        anchors: Anchors | None = None,
        labels: Tensor | None = None,
    ) -> None:
        """Take the strategy, how many classes were known before and are seen now, and the EWC penalty of earlier tasks.

        `labels` (seen,) is the label of each output: which of a target's logits, in the order of labels, it is.
        """
        super().__init__(settings, teachers)
        self.old, self.seen, self.phase = old, seen, phase
        self.anchors, self.labels = anchors, labels
        self.parameters: dict[str, nn.Parameter] = {}

    def wants(self) -> Wants:
        """Want the targets' logits, live or kept, and class-balanced batches in the phase of that name."""
        live = self.settings.targets == TEACHER
        return Wants(
            live_teacher=live,
            fixed_teacher=self.settings.targets is not None and not live,
            groups=Groups(size=1, kind="balanced") if self.phase == BALANCE else None,
        )

    def plan(self) -> list[Stage]:
        """Return the phase: it selects nothing, since a task's last weights are what the next one starts from."""
        changes = {} if self.phase == TRAIN else self._balance_recipe()
        return [Stage(self.phase, (Update(STUDENT, (STUDENT,)),), recipe=changes, selects=False)]

    def _balance_recipe(self) -> dict[str, object]:
        own = {"epochs": self.settings.balance_epochs, "lr": self.settings.balance_lr, "min_lr": 0.0}
        return {**own, "schedule": "constant", "milestones": [], "warmup_epochs": 0.0}

    def build(self, context: Context) -> nn.ModuleDict:
        """Take hold of the student's parameters, which the EWC penalty is a function of; nothing is added to it."""
        self.parameters = dict(context.models[STUDENT].named_parameters())
        return nn.ModuleDict()

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the classification loss and the terms of the strategy that are on."""
        batch, outputs, logits, settings = step.batch, step.outputs, step.student.logits, self.settings
        terms = {"ce": self._classification(batch, logits)}
        if PREVIOUS in outputs:
            known = logits[:, : self.old]
            terms["prev_kd"] = kd_loss(known, outputs[PREVIOUS].logits, settings.prev_kd_temperature)
        if settings.targets is not None:
            terms["target"] = kd_loss(logits, self._targets(batch, outputs), settings.target_temperature)
        if self.anchors is not None:
            terms["ewc"] = self.anchors.penalty(self.parameters)
        return terms

    def _classification(self, batch: Batch, logits: Tensor) -> Tensor:
        among_all = batch.cross_entropies(logits)
        if self.settings.ce_classes == "seen" or self.phase == BALANCE or self.old == 0:
            return among_all.mean()
        # every image's loss both ways, since picking images by class would wait for the device
        new = batch.labels >= self.old
        among_new = torch.nn.functional.cross_entropy(
            logits[:, self.old :],
            (batch.labels - self.old).clamp_min(0),
            reduction="none",
            label_smoothing=batch.label_smoothing,
        )
        return torch.where(new, among_new, among_all).mean()

    def _targets(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return the target's logits of the seen classes (B,seen)."""
        kept = batch.teacher_logits
        logits = outputs.teacher.logits if kept is None else kept[0]
        assert self.labels is not None, "targets come in the order of labels"
        return logits[:, self.labels]
