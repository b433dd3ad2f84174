"""SimKD: the student's projected last map matches the teacher's, whose classifier it reuses (Chen et al. 2022)."""

from torch import Tensor
from torch.nn import functional as F

from kd.methods._features import pool_to
from kd.methods.contract import STUDENT, Context, Method, Step, teacher
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
    """What the teacher's classifier reads; known once the networks have been seen."""

    def deployed(self, student: TappedModel, context: Context) -> TappedModel:
        """Return the trunk with a fresh projector and a copy of the teacher's classifier."""
        reused = context.models[teacher(0)]
        target, source = pooled_feature(reused, context.image_size), last_map(student, context.image_size)
        s, t = (_shape(context, role, of) for role, of in ((STUDENT, source), (teacher(0), target)))
        classifier = reused.classifier
        facts = Facts(
            tap=source.tap,
            rectify=source.rectify,
            height=min(s[1], t[1]),
            width=min(s[2], t[2]),
            inputs=s[0],
            hidden=max(1, t[0] // self.settings.factor),
            outputs=t[0],
            nonnegative=target.nonnegative,
            classes=context.num_classes,
            bias=getattr(classifier, "bias", None) is not None,
            teacher=reused.arch,
        )
        return ReusedHead(student, facts).adopt(classifier)

    def taps(self, context: Context) -> dict[str, tuple[str, ...]]:
        """Return the projected map and what the teacher's classifier reads."""
        self.target = pooled_feature(context.models[teacher(0)], context.image_size)
        return {STUDENT: (PROJECTED,), teacher(0): (self.target.tap,)}

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the classification loss of the deployed logits and the map loss."""
        assert self.target is not None, "taps are named before the first step"
        simkd = simkd_loss(step.student.taps[PROJECTED], self.target.of(step.teacher.taps))
        return {"ce": step.cross_entropy(), "simkd": simkd}


def _shape(context: Context, role: str, feature: Pooled) -> tuple[int, int, int]:
    """Return channels, height and width of a feature as maps."""
    channels, *sides = context.shapes[role][feature.tap]
    height, width = sides or (1, 1)
    return channels, height, width
