"""Similarity-preserving distillation: images alike for the teacher are alike for the student (Tung and Mori 2019)."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from kd.data.needs import Needs
from kd.methods.contract import STUDENT, Batch, Context, Method, Outputs, Progress, teacher
from kd.methods.features import require_taps, unit


def similarity(feature: Tensor) -> Tensor:
    """Return inner products (B,B) between the images' flattened features (B, ...), rows scaled to length one."""
    vectors = feature.flatten(1)
    return unit(vectors @ vectors.T, dim=1)


def sp_loss(student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor]) -> Tensor:
    """Return the sum over taps of the squared Frobenius distance of similarity matrices over B^2."""
    pairs = zip(student_feats, teacher_feats, strict=True)
    losses = (F.mse_loss(similarity(s), similarity(t.detach())) for s, t in pairs)
    return sum(losses, start=student_feats[0].new_zeros(()))


class SP(Method):
    """Cross-entropy and preserved similarities."""

    def needs(self) -> Needs:
        """Ask for the tapped features, compared one to one."""
        return Needs(tuple(self.settings.student_taps), tuple(self.settings.teacher_taps), same_length=True)

    def build(self, context: Context) -> nn.ModuleDict:
        """Check that there is a tap; similarities need no modules."""
        require_taps("sp", STUDENT, self.student_taps, context.taps[STUDENT])
        return nn.ModuleDict()

    def loss(
        self, update: str, batch: Batch, outputs: Outputs, extra: nn.ModuleDict, progress: Progress
    ) -> dict[str, Tensor]:
        """Return the classification loss and the similarity loss."""
        student = outputs[STUDENT].features(self.student_taps)
        target = outputs[teacher(0)].features(self.teacher_taps)
        return {"ce": batch.cross_entropy(outputs[STUDENT].logits), "sp": sp_loss(student, target)}
