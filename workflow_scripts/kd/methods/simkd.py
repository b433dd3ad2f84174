"""SimKD: the student's projected last map matches the teacher's, whose classifier it reuses (Chen et al. 2022)."""

from torch import Tensor, nn
from torch.nn import functional as F

from kd.data.needs import Needs
from kd.methods.contract import STUDENT, Batch, Context, Method, Outputs, Progress, teacher
from kd.methods.features import pool_to
from kd.models.base import TappedModel
from kd.models.reuse import PROJECTED, Facts, Pooled, ReusedHead, last_map, pooled_feature


def simkd_loss(projected: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared difference of projected student maps (B,C,h,w) and teacher maps (B,C,H,W).

    The teacher's are averaged to the student's size, which is never the larger (equation 3 of the paper).
    """
    return F.mse_loss(projected, pool_to(target.detach(), (projected.shape[2], projected.shape[3])))


class SimKD(Method):
    """A student that is deployed with a projector and the teacher's classifier, and learns the teacher's map alone."""

    target: Pooled | None = None
    """What the teacher's classifier reads; known once `student` has been called."""

    def student(self, model: TappedModel, context: Context) -> TappedModel:
        """Return the trunk with a fresh projector and a copy of the teacher's classifier."""
        reused = context.models[teacher(0)]
        self.target = pooled_feature(reused, context.image_size)
        source = last_map(model, context.image_size)
        s, t = (_shape(context, role, of) for role, of in ((STUDENT, source), (teacher(0), self.target)))
        classifier = reused.classifier
        facts = Facts(
            tap=source.tap,
            rectify=source.rectify,
            height=min(s[1], t[1]),
            width=min(s[2], t[2]),
            inputs=s[0],
            hidden=max(1, t[0] // self.settings.factor),
            outputs=t[0],
            nonnegative=self.target.nonnegative,
            classes=context.num_classes,
            bias=getattr(classifier, "bias", None) is not None,
            teacher=reused.arch,
        )
        return ReusedHead(model, facts).adopt(classifier)

    def needs(self) -> Needs:
        """Ask for the projected map and for what the teacher's classifier reads."""
        return Needs((PROJECTED,), ("last" if self.target is None else self.target.tap,))

    def loss(
        self, update: str, batch: Batch, outputs: Outputs, extra: nn.ModuleDict, progress: Progress
    ) -> dict[str, Tensor]:
        """Return the classification loss of the deployed logits and the map loss."""
        assert self.target is not None, "the student was not made ready for deployment"
        projected = outputs[STUDENT].taps[PROJECTED]
        return {
            "ce": batch.cross_entropy(outputs[STUDENT].logits),
            "simkd": simkd_loss(projected, self.target.of(outputs[teacher(0)].taps)),
        }


def _shape(context: Context, role: str, feature: Pooled) -> tuple[int, int, int]:
    """Return channels, height and width of a feature as maps."""
    channels, *sides = context.shapes[role][feature.tap]
    height, width = sides or (1, 1)
    return channels, height, width
