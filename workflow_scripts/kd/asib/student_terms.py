"""The student update: the student learns from labels, from the synergy and from what stands behind it."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from kd.asib import losses
from kd.asib.fusions.base import Fused
from kd.asib.view import View
from kd.methods._features import EMBEDDING
from kd.methods.contract import Batch
from kd.methods.rkd import angle_loss, distance_loss

Compared = tuple[float, Tensor, list[Tensor]]
"""Weight, student's map and teachers' maps of one stage."""


def student_terms(view: View, batch: Batch, maps: Sequence[Compared]) -> dict[str, Tensor]:
    """Return the terms that train the student; the synergy is a constant target unless synergy_gradient is set."""
    settings, student = view.settings, view.outputs.student
    through = settings.synergy_gradient
    with torch.set_grad_enabled(through and torch.is_grad_enabled()):
        code, synergy = view.target()
    weights = _disagreement_weights(view, batch)
    kd = losses.soft_kl(student.logits, synergy, view.tau)
    terms = {"ce": (weights * batch.cross_entropies(student.logits)).mean(), "kd": (weights * kd).mean()}
    if settings.kd_ens_alpha > 0 or settings.hybrid_beta > 0:
        logits = [output.logits.detach() for output in view.outputs.teachers]
        averaged = losses.averaged_soft_kl(student.logits, logits, view.tau).mean()
        wanted = {"kd_ens": settings.kd_ens_alpha, "hybrid": settings.hybrid_beta}
        terms |= {name: averaged for name, weight in wanted.items() if weight > 0}
    if through and settings.use_ib:
        assert code.logvar is not None, "the settings were checked for a fusion with a bottleneck"
        terms["ib"] = losses.ib_kl(code.mu, code.logvar, settings.ib_reduction)
    terms |= _feature_terms(view, code) | _relational_terms(view, code) | _latent_terms(view, code)
    if maps:
        terms["maps"] = _maps_term(maps)
    return terms


def _feature_terms(view: View, code: Fused) -> dict[str, Tensor]:
    """Return the feature term; the fusion's query is asked again, with gradient, where it is what is compared."""
    student = view.outputs.student
    if view.settings.feat_kd_alpha > 0 and view.settings.feat_kd_key == "query":
        code = replace(code, query=view.query(student.taps[EMBEDDING]))
    return view.feature_terms(code, student, target_gradient=False)


def _disagreement_weights(view: View, batch: Batch) -> Tensor | float:
    """Return the weight of every image, (B,): high where the teachers disagree, low elsewhere."""
    settings = view.settings
    if settings.disagree_mode == "none":
        return 1.0
    logits = [output.logits for output in view.outputs.teachers]
    apart = losses.disagreement(logits, batch.labels, batch.other_labels)[settings.disagree_mode]
    return torch.where(apart, settings.disagree_lambda_high, settings.disagree_lambda_low)


def _relational_terms(view: View, code: Fused) -> dict[str, Tensor]:
    """Return the mean over teachers of the student's relational losses, plus rkd_gamma times that to the code."""
    settings = view.settings
    if settings.rkd_loss_weight == 0:
        return {}
    own = view.outputs.student.taps[EMBEDDING]
    apart = [relational(own, embedding) for embedding in view.embeddings()]
    return {"rkd": torch.stack(apart).mean() + settings.rkd_gamma * relational(own, code.mu)}


def relational(student: Tensor, target: Tensor) -> Tensor:
    """Return distance plus angle loss of embeddings (B,d) and (B,D)."""
    return distance_loss(student, target) + angle_loss(student, target)


def _latent_terms(view: View, code: Fused) -> dict[str, Tensor]:
    """Return distance and angle of the student's projection to the code's mean, where they have a weight."""
    settings = view.settings
    if settings.latent_alpha == 0:
        return {}
    assert code.logvar is not None, "the settings were checked for a fusion with a bottleneck"
    projected, mu = view.extra["proj"](view.outputs.student.taps[EMBEDDING]), code.mu.detach()
    precise = losses.precision_distance(projected, mu, code.logvar, settings.cw_mse_eps)
    angles = losses.angle_distance(projected, mu)
    return {"latent_mse": view.unseen_mean(precise), "latent_angle": view.unseen_mean(angles)}


def _maps_term(maps: Sequence[Compared]) -> Tensor:
    """Return the weighted sum over stages of the mean over teachers of the difference of maps."""
    stages = [
        weight * torch.stack([losses.map_distance(own, target) for target in targets]).mean()
        for weight, own, targets in maps
    ]
    return torch.stack(stages).sum()
