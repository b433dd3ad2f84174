"""The relational methods of few-sample distillation in the form of the parity cases."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from kd.methods.ckd import ckd_loss, difference


def ckd(inputs: Mapping[str, Tensor], params: Mapping[str, Any]) -> Tensor:
    """The relational term of groups with one image a side: the logits and their `_pair`."""
    student, target = (
        torch.stack([inputs[f"{role}_logits"], inputs[f"{role}_logits_pair"]], dim=1) for role in ("student", "teacher")
    )
    return ckd_loss(difference(student, 1), difference(target, 1), **params)


ADAPTERS: dict[str, Callable[[Mapping[str, Tensor], Mapping[str, Any]], Tensor]] = {"ckd": ckd}
