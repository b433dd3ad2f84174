"""Logits seen from the label: the label's own, and those of all other classes."""

import torch
from torch import Tensor
from torch.nn import functional as F

from kd.methods.contract import Context
from kd.tools.errors import UserError


def require_three_classes(method: str, context: Context, what: str = "the classes beside the label") -> None:
    """Raise a UserError where there are fewer: what is compared then is the same whatever a network says."""
    if context.num_classes < 3:
        raise UserError(
            f"method {method} compares {what}, found {context.num_classes} classes in all: allowed are 3 or more"
        )


def other_classes(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the logits (B,C-1) of every class but the label (B,), in order."""
    columns = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, columns + (columns >= labels[:, None]).long())


def target_or_not(logits: Tensor, labels: Tensor) -> Tensor:
    """Return logits (B,2) of "the label" and "any other class"; their softmax holds the two probabilities.

    The logarithm of a sum of exponentials stands for the other classes, so that nothing saturates.
    """
    target = logits.gather(1, labels[:, None])
    return torch.cat([target, other_classes(logits, labels).logsumexp(dim=1, keepdim=True)], dim=1)


def target_term(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """Return the batch mean of the label's -p_t log p_s at temperature 1, for logits (B,C) and labels (B,)."""
    own = F.log_softmax(student_logits, dim=1).gather(1, labels[:, None])
    known = F.softmax(teacher_logits.detach(), dim=1).gather(1, labels[:, None])
    return -(known * own).mean()
