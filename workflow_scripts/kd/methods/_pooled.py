"""The maps that networks average before they classify."""

from kd.methods._features import EMBEDDING
from kd.methods.contract import STUDENT, Context, teacher
from kd.models.reuse import Pooled, pooled_feature
from kd.tools.errors import UserError


def pooled_maps(method: str, context: Context) -> dict[str, Pooled]:
    """Return the map whose average the classifier of student and of first teacher reads; without one, a UserError."""
    found = {role: pooled_feature(context.models[role], context.image_size) for role in (STUDENT, teacher(0))}
    for role, feature in found.items():
        if feature.tap == EMBEDDING:
            raise UserError(
                f"method {method} needs a map whose average the classifier reads, but no tap of the {role} "
                f"({context.models[role].arch}) is one"
            )
    return found
