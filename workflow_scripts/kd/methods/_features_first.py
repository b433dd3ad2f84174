"""Methods that compare features in a stage of their own, before the stage that trains on labels."""

from torch import Tensor

from kd.methods.contract import EXTRA, STUDENT, Stage, Step, Update
from kd.methods.kd import kd_loss
from kd.methods.tap_loss import TapLoss

CONSTANT = {"schedule": "constant", "milestones": [], "warmup_epochs": 0.0}


def initial_stage(name: str, epochs: int) -> Stage:
    """Return a stage of one update of the student and of all extra modules, at the recipe's learning rate throughout.

    Its epochs select no weights. What its loss does not reach, such as a classifier behind the last tap, takes no
    gradient and so no step, nor weight decay.
    """
    recipe = {**CONSTANT, "epochs": epochs}
    return Stage(name, (Update(name, (STUDENT, EXTRA)),), recipe=recipe, selects=False)


class FeaturesFirst(TapLoss):
    """The term alone for `init_epochs`; then labels, and softened logits if `kd_weight` gives them any weight."""

    def plan(self) -> list[Stage]:
        """Return the stage of the features and that of the labels."""
        return [initial_stage(self.term, self.settings.init_epochs), Stage("train", (Update(STUDENT, (STUDENT,)),))]

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the terms of the stage that the update is of."""
        if step.update == self.term:
            return {self.term: self.compared(step)}
        terms = {"ce": step.cross_entropy()}
        if self.settings.kd_weight > 0:
            terms["kd"] = kd_loss(step.student.logits, step.teacher.logits, self.settings.temperature)
        return terms
