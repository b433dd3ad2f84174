"""What both updates make of a batch before they compare anything: the code, the synergy, the student's features."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from kd.asib import losses
from kd.asib.fusions.base import Fused, Fusion
from kd.methods._features import EMBEDDING
from kd.methods.contract import Output, Outputs
from kd.schema.cards import MethodSettings
from kd.tools.errors import UserError

SYNERGY = "synergy"


def detached(output: Output) -> Output:
    """Return an output that passes no gradient on."""
    return Output(output.logits.detach(), {name: tap.detach() for name, tap in output.taps.items()})


class View:
    """One batch, seen through the extra modules."""

    def __init__(
        self,
        settings: MethodSettings,
        extra: nn.ModuleDict,
        outputs: Outputs,
        maps: Sequence[Tensor] = (),
        tau: Tensor | float = 1.0,
    ) -> None:
        self.settings, self.extra, self.outputs = settings, extra, outputs
        self.maps, self.tau = maps, tau
        """Teachers' last maps where the fusion reads them, and the temperature of the moment."""

    @property
    def fusion(self) -> Fusion:
        """The fusion module."""
        found = self.extra["mbm"]
        assert isinstance(found, Fusion), "the extra module mbm is the fusion"
        return found

    def synergy(self, sample: bool, student: Output | None = None) -> tuple[Fused, Tensor]:
        """Return the code of the batch and the synergy logits (B,C); without use_ib the code is its mean."""
        asking = (student or self.outputs.student).taps[EMBEDDING]
        code = self.fusion(asking, self.embeddings(), self.maps, sample=sample and self.settings.use_ib)
        return code, self.extra["head"](code.z)

    def embeddings(self) -> list[Tensor]:
        """Return the teachers' embeddings as the fusion gets them."""
        embeddings = [output.taps[EMBEDDING] for output in self.outputs.teachers]
        return self.extra["adapters"](embeddings) if "adapters" in self.extra else embeddings

    def certainty(self, code: Fused) -> Tensor | float:
        """Return one weight an image, (B,), or 1 without the bottleneck."""
        if not self.settings.use_ib or code.logvar is None:
            return 1.0
        return losses.certainty(code.logvar, self.settings.min_cw)

    def feature_terms(self, code: Fused, student: Output, target_gradient: bool) -> dict[str, Tensor]:
        """Return the distance of the student's features to the code's mean, certainty-weighted, if it has a weight.

        Where its attention narrows the space (LA), the query is compared with the answer there.
        """
        settings = self.settings
        if settings.feat_kd_alpha == 0:
            return {}
        features, target = self._features(student.taps[EMBEDDING], code)
        target = target if target_gradient else target.detach()
        distances = losses.feature_distance(features, target, settings.feat_kd_norm)
        return {"feature": (self.certainty(code) * distances).mean()}

    def _features(self, embedding: Tensor, code: Fused) -> tuple[Tensor, Tensor]:
        key = self.settings.feat_kd_key
        if key == "query":
            assert code.query is not None, "the settings were checked for a fusion that asks"
            assert code.answer is not None, "a query has an answer"
            return code.query, code.answer
        return (self.extra["proj"](embedding) if key == "proj" else embedding), code.mu


def check_widths(settings: MethodSettings, query_dim: int, width: int) -> None:
    """Raise a UserError if the student's embedding is to be compared with a code of another width."""
    weights: Any = settings.feat_kd_alpha
    used = max(weights if isinstance(weights, list) else [weights]) > 0
    if used and settings.feat_kd_key == "feat_2d" and width != query_dim:
        raise UserError(
            f"asib: feat_kd_key feat_2d compares the student's embedding of width {query_dim} with a code of width "
            f"{width}: set mbm_out_dim to {query_dim} or null, or feat_kd_key to proj or query"
        )
