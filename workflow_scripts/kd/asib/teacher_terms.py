"""The teacher update: teachers and fusion learn to classify and to stay close to what the student can express."""

from collections.abc import Mapping

from torch import Tensor, nn

from kd.asib import losses
from kd.asib.view import View, detached
from kd.methods.contract import Batch, of_teachers


def teacher_terms(view: View, batch: Batch, networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return the terms that train teachers and fusion.

    cccp is the proximal term of the concave-convex procedure (Yuille and Rangarajan 2003): KL from the student's
    distribution at the start of the stage. The student is frozen during this half, so its current distribution is that
    reference.
    """
    settings = view.settings
    student = detached(view.outputs.student)
    code, synergy = view.fitted(student)
    certainty = view.certainty(code)
    kd = losses.soft_kl(synergy, student.logits, view.tau)
    terms = {
        "synergy_ce": view.mean(certainty * batch.cross_entropies(synergy)),
        "teacher_kd": view.mean(certainty * kd),
    }
    if settings.synergy_kd_alpha > 0:
        # unweighted: it is to hold above all where the fusion is unsure
        terms["synergy_kd"] = view.mean(losses.soft_kl(synergy, view.average.detach(), view.tau))
    if settings.use_cccp and settings.cccp_alpha > 0:
        terms["cccp"] = view.mean(losses.soft_kl(synergy, student.logits, settings.tau))
    if settings.use_ib:
        assert code.logvar is not None, "the settings were checked for a fusion with a bottleneck"
        terms["ib"] = view.mean(losses.ib_kls(code.mu, code.logvar, settings.ib_reduction))
    return terms | view.feature_terms(code, student, target_gradient=True) | _regularisers(view, networks)


def _regularisers(view: View, networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return the mean squares of what is trained of teachers and of the extra modules, where they have a weight."""
    settings = view.settings
    terms: dict[str, Tensor] = {}
    if settings.reg_lambda > 0:
        of_all = [p for network in of_teachers(networks) for p in network.parameters() if p.requires_grad]
        squares = losses.mean_square(of_all)
        if squares is not None:
            terms["teacher_reg"] = squares
    if settings.mbm_reg_lambda > 0:
        fused = [p for module in view.extra.values() for p in module.parameters() if p.requires_grad]
        squares = losses.mean_square(fused)
        if squares is not None:
            terms["fusion_reg"] = squares
    return terms
