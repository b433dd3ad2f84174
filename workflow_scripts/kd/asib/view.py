"""What both updates make of a batch before they compare anything: the code, the synergy, the student's features."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd.asib import losses
from kd.asib.fusions.base import Fused, Fusion
from kd.asib.modules import Parts, SynergyHead
from kd.methods._features import EMBEDDING
from kd.methods.contract import Output, Outputs
from kd.schema.cards import MethodSettings
from kd.tools.errors import UserError

SYNERGY, AVERAGE = "synergy", "average"

SECOND = "_second"
"""What the names of the second fusion's modules end in, where there are two."""


def fusions(settings: MethodSettings) -> tuple[str, ...]:
    """Return what the names of each fusion's modules end in: of one, or of two that are fitted on a part each."""
    return ("", SECOND) if settings.cross_fit else ("",)


def head_of(extra: nn.ModuleDict, which: str) -> SynergyHead:
    """Return the head of one of the fusions."""
    found = extra[f"head{which}"]
    assert isinstance(found, SynergyHead), "the extra module head is the synergy's"
    return found


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
        positions: Tensor | None = None,
    ) -> None:
        self.settings, self.extra, self.outputs = settings, extra, outputs
        self.maps, self.tau = maps, tau
        """Teachers' last maps where the fusion reads them, and the temperature of the moment."""
        self.positions = positions
        """Positions (B,) of training images; None of others, which no fusion has been fitted on."""

    # --- logits -------------------------------------------------------------------------------------

    @property
    def average(self) -> Tensor:
        """The plain average of the teachers' logits, (B,C)."""
        return losses.averaged([output.logits for output in self.outputs.teachers])

    def fitted(self, student: Output) -> tuple[Fused, Tensor]:
        """Return the code and the synergy logits (B,C) that the teacher update fits, of two fusions each image's own.

        The code is a sample, or without use_ib its mean.
        """
        made = [self._fused(which, student, sample=self.settings.use_ib) for which in fusions(self.settings)]
        return self._merged(made, of_its_own=True)

    def target(self) -> tuple[Fused, Tensor]:
        """Return the code, its mean, and the logits (B,C) that the student is taught.

        No training image's come from a fusion that was fitted on it, where there is another: of two fusions it is the
        other one's, of one that has a part of the images for itself the average of the teachers'; the code of those
        images is that fusion's and no target (`unseen_mean`). Of an image that is not among the training images they
        are the mean of both fusions'.
        """
        made = []
        for which in fusions(self.settings):
            code, logits = self._fused(which, self.outputs.student, sample=False)
            made.append((code, head_of(self.extra, which).scaled(logits)))
        code, logits = self._merged(made, of_its_own=False)
        if self.settings.synergy_scale == "entropy":
            logits = logits / losses.matching_scale(logits / self.tau, self.average / self.tau, self.unseen_mean)
        if self.settings.fusion_share < 1 and self.positions is not None:
            logits = torch.where(self._in_first()[:, None], self.average, logits)
        return code, logits

    def own_logits(self, which: str) -> Tensor:
        """Return the synergy logits (B,C) of one of the fusions as it is, from the mean of its code."""
        return self._fused(which, self.outputs.student, sample=False)[1]

    def _fused(self, which: str, student: Output, sample: bool) -> tuple[Fused, Tensor]:
        code = self._fusion(which)(student.taps[EMBEDDING], self.embeddings(which), self.maps, sample=sample)
        return code, head_of(self.extra, which)(code.z, self._base())

    def _base(self) -> Tensor | None:
        """Return what the head's output is added to, (B,C), if anything."""
        logits = [output.logits for output in self.outputs.teachers]
        average = {"average": losses.averaged, "certainty": losses.certain_average}.get(self.settings.synergy_base)
        return None if average is None else average(logits)

    def _merged(self, made: Sequence[tuple[Fused, Tensor]], of_its_own: bool) -> tuple[Fused, Tensor]:
        """Return of every image what its own or the other of two fusions made; the mean if it has none."""
        if len(made) == 1:
            return made[0]
        (code, logits), (other_code, other_logits) = made
        merge = self._merging(of_its_own)
        return code.merged(other_code, merge), merge(logits, other_logits)

    def _merging(self, of_its_own: bool) -> Callable[[Tensor, Tensor], Tensor]:
        if self.positions is None:
            return lambda first, second: (first + second) / 2
        of_first = self._in_first() if of_its_own else ~self._in_first()
        return lambda first, second: torch.where(of_first.view(-1, *[1] * (first.ndim - 1)), first, second)

    def _in_first(self) -> Tensor:
        assert self.positions is not None, "only training images are in a part"
        parts = self.extra["parts"]
        assert isinstance(parts, Parts), "two parts of the training images"
        return parts.first[self.positions]

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of images' values (B,), of those alone that the fusion is fitted on; 0 without any."""
        return values.mean() if self.settings.fusion_share == 1 else self._mean_of(self._in_first(), values)

    def unseen_mean(self, values: Tensor) -> Tensor:
        """Return the mean of images' values (B,), without those that the only fusion is fitted on; 0 without others."""
        if self.settings.fusion_share == 1 or self.positions is None:
            return values.mean()
        return self._mean_of(~self._in_first(), values)

    @staticmethod
    def _mean_of(counted: Tensor, values: Tensor) -> Tensor:
        weights = counted.to(values.dtype)
        return (weights * values).sum() / weights.sum().clamp(min=1)

    # --- features -----------------------------------------------------------------------------------

    def query(self, embedding: Tensor) -> Tensor:
        """Return the student's embedding (B,q) as the fusion that its target comes from asks with it, (B,...)."""
        asked = [self._fusion(which).project_query(embedding) for which in fusions(self.settings)]
        return asked[0] if len(asked) == 1 else self._merging(of_its_own=False)(*asked)

    def _fusion(self, which: str) -> Fusion:
        found = self.extra[f"mbm{which}"]
        assert isinstance(found, Fusion), "the extra module mbm is the fusion"
        return found

    def embeddings(self, which: str = "") -> list[Tensor]:
        """Return the teachers' embeddings as a fusion gets them."""
        embeddings = [output.taps[EMBEDDING] for output in self.outputs.teachers]
        adapters = f"adapters{which}"
        return self.extra[adapters](embeddings) if adapters in self.extra else embeddings

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
        distances = self.certainty(code) * losses.feature_distance(features, target, settings.feat_kd_norm)
        return {"feature": self.mean(distances) if target_gradient else self.unseen_mean(distances)}

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
