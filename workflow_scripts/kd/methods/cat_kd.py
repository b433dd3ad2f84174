"""Class attention transfer: class activation maps match (Guo et al. 2023)."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

from kd.methods._features import last_layer, unit
from kd.methods._pooled import pooled_maps
from kd.methods.contract import STUDENT, Context, Method, Output, Step, teacher
from kd.models.reuse import Pooled


def activation_maps(feature: Tensor, weight: Tensor) -> Tensor:
    """Return class activation maps (B,classes,H,W) from the last map (B,D,H,W) and the classifier's weight (classes,D).

    The bias is left out: the released networks have none.
    """
    return torch.einsum("kd,bdhw->bkhw", weight, feature)


def cat_loss(
    student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], resolution: int = 2, normalize: bool = True
) -> Tensor:
    """Return the mean squared difference of class activation maps (B,classes,H,W), summed over the lists.

    Maps are averaged to `resolution` pixels a side and with `normalize` scaled to length one, each class by itself.
    """
    total = student_maps[0].new_zeros(())
    for student, target in zip(student_maps, teacher_maps, strict=True):
        s, t = (F.adaptive_avg_pool2d(m, resolution).flatten(2) for m in (student, target.detach()))
        total = total + (F.mse_loss(unit(s, dim=2), unit(t, dim=2)) if normalize else F.mse_loss(s, t))
    return total


class CatKD(Method):
    """Cross-entropy and class activation maps."""

    pooled: Mapping[str, Pooled] = MappingProxyType({})
    """The map whose average a network's classifier reads, by role; known once the networks have been seen."""

    def taps(self, context: Context) -> dict[str, tuple[str, ...]]:
        """Find the maps whose averages the classifiers read; a network without such a tap is a UserError."""
        self.pooled = pooled_maps(self.name, context)
        return {role: (feature.tap,) for role, feature in self.pooled.items()}

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the classification loss and the loss of the activation maps."""
        student, target = ([self.maps(role, step.outputs[role])] for role in (STUDENT, teacher(0)))
        cat = cat_loss(student, target, self.settings.cam_resolution, self.settings.normalize)
        return {"ce": step.cross_entropy(), "cat": cat}

    def maps(self, role: str, output: Output) -> Tensor:
        """Return the class activation maps of a network."""
        weight, _ = last_layer(self.name, role, output)
        return activation_maps(self.pooled[role].of(output.taps), weight)
