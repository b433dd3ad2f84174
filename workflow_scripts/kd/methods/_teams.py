"""What losses with several teachers share: everything by teacher and image."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from kd.methods.contract import Output


def all_logits(teachers: Sequence[Output]) -> Tensor:
    """Return the teachers' logits (K,B,C), detached."""
    return torch.stack([output.logits for output in teachers]).detach()


def divergences(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return (K,B): T^2 KL(teacher || student) of every image, for logits (B,C) and (K,B,C) softened by T.

    Log-probabilities on both sides keep it finite where a softmax underflows.
    """
    own = F.log_softmax(student_logits / temperature, dim=-1)
    target = F.log_softmax(teacher_logits.detach() / temperature, dim=-1)
    return temperature**2 * torch.linalg.vecdot(target.exp(), target - own)
