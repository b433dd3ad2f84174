"""Softmax regression representation learning: features that the teacher's classifier reads well (Yang et al. 2021)."""

from torch import Tensor, nn
from torch.nn import functional as F

from kd.methods._features import EMBEDDING, last_layer
from kd.methods.contract import STUDENT, Context, Method, Step, teacher
from kd.methods.kd import kd_loss


def representation_loss(translated: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared difference of translated student and teacher features (B,D)."""
    return F.mse_loss(translated, target.detach())


def regression_loss(translated: Tensor, weight: Tensor, bias: Tensor | None, teacher_logits: Tensor) -> Tensor:
    """Return the mean squared difference of logits: the teacher's, and what its last layer makes of features (B,D).

    The layer has weight (classes,D) and bias (classes,) and is not trained (the paper's squared form).
    """
    read = F.linear(translated, weight.detach(), None if bias is None else bias.detach())
    return F.mse_loss(read, teacher_logits.detach())


class SRRL(Method):
    """Cross-entropy, softened logits, and pooled features that fit the teacher's and its classifier."""

    def taps(self, context: Context) -> dict[str, tuple[str, ...]]:
        """Return the pooled features."""
        return {STUDENT: (EMBEDDING,), teacher(0): (EMBEDDING,)}

    def build(self, context: Context) -> nn.ModuleDict:
        """Return the translator of student features: linear, BatchNorm and ReLU."""
        inputs, outputs = (context.features(role)[0].numel() for role in (STUDENT, teacher(0)))
        translator = nn.Sequential(nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU())
        return nn.ModuleDict({"translator": translator})

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the losses of labels, of softened logits, of features and of their reading by the teacher."""
        student, target = step.student, step.teacher
        translated = step.extra["translator"](student.taps[EMBEDDING])
        weight, bias = last_layer(self.name, teacher(0), target)
        return {
            "ce": step.cross_entropy(),
            "kd": kd_loss(student.logits, target.logits, self.settings.temperature),
            "representation": representation_loss(translated, target.taps[EMBEDDING]),
            "regression": regression_loss(translated, weight, bias, target.logits),
        }
