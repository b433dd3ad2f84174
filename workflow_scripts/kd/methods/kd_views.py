"""Knowledge distillation on several views that student and teacher share (Beyer et al. 2022)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kd.data.randaugment import View
from kd.data.wants import Wants
from kd.methods.contract import Method, Outputs, Step
from kd.methods.kd import kd_loss


class KDViews(Method):
    """Cross-entropy and softened logits, each the mean over the views."""

    @property
    def further(self) -> Sequence[str]:
        """Return the names of the views beside the first."""
        return [f"view{number}" for number in range(2, self.settings.views + 1)]

    def wants(self) -> Wants:
        """Want the further views."""
        strong = (self.settings.strong_ops, self.settings.strong_magnitude, self.settings.strong_cutout)
        return Wants(views=tuple(View(name, *strong) for name in self.further))

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return both losses."""
        views: list[Outputs] = [step.outputs, *(step.seen.views[name] for name in self.further)]
        ce = [step.batch.cross_entropy(view.student.logits) for view in views]
        kd = [kd_loss(view.student.logits, view.teacher.logits, self.settings.temperature) for view in views]
        return {"ce": torch.stack(ce).mean(), "kd": torch.stack(kd).mean()}
