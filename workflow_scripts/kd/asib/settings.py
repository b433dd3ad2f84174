"""Which settings of ASIB cannot be meant together, known without importing torch."""

from collections.abc import Mapping
from typing import Any

WITH_BOTTLENECK = frozenset({"IB", "VIB", "GATE"})


def contradictions(settings: Mapping[str, Any]) -> list[str]:
    """Return what in the settings cannot be meant together, each as the rest of a sentence."""
    kind, width, heads = settings["mbm_type"], settings["mbm_out_dim"], settings["mbm_n_head"]
    schedule, layers, weights = (settings[key] for key in ("beta_schedule", "feat_layers", "feat_weights"))
    needs_projection = settings["feat_kd_key"] == "proj" or _ever(settings["latent_alpha"])
    checks = {
        "epochs_span is filled in by the workflow and cannot be given": settings["epochs_span"] is not None,
        f"mbm_out_dim must be a multiple of mbm_n_head, found {width} and {heads}": (
            kind == "IB" and width is not None and width % heads != 0
        ),
        f"mbm_type {kind} has no bottleneck: set use_ib false": settings["use_ib"] and kind not in WITH_BOTTLENECK,
        "beta_schedule takes [start, end, epochs] with epochs above 0": (
            schedule is not None and (len(schedule) != 3 or schedule[2] <= 0)
        ),
        "feat_kd_key proj and latent_alpha need use_student_proj true": (
            needs_projection and not settings["use_student_proj"]
        ),
        "feat_kd_key query needs a fusion that the student asks: mbm_type IB, or LA without mbm_learnable_q": (
            settings["feat_kd_key"] == "query" and (kind not in {"IB", "LA"} or settings["mbm_learnable_q"])
        ),
        "latent_alpha needs a bottleneck: use_ib true": _ever(settings["latent_alpha"]) and not settings["use_ib"],
        f"feat_weights must be one for each of feat_layers, found {weights} for {layers}": len(weights) != len(layers),
        "feat_loss_weight needs feat_layers": any(settings["feat_loss_weight"]) and not layers,
        "train_distill_adapter_only needs use_distillation_adapter true": (
            settings["train_distill_adapter_only"] and not settings["use_distillation_adapter"]
        ),
        "give fusion_share or cross_fit, which shares the images out itself": (
            settings["cross_fit"] and settings["fusion_share"] < 1
        ),
        "fusion_share below 1 needs rkd_gamma 0, for the code's relations are of images that it is fitted on too": (
            settings["fusion_share"] < 1 and settings["rkd_gamma"] > 0 and _ever(settings["rkd_loss_weight"])
        ),
        "synergy_scale learned and synergy_temp_learnable are both a temperature: give one": (
            settings["synergy_scale"] == "learned" and settings["synergy_temp_learnable"]
        ),
        "renorm_ce_kd needs ce_alpha or kd_alpha above 0": (
            settings["renorm_ce_kd"] and not (_ever(settings["ce_alpha"]) or _ever(settings["kd_alpha"]))
        ),
    }
    return [sentence for sentence, found in checks.items() if found]


def _ever(value: float | list[float]) -> bool:
    """Whether a setting is above 0 in some stage."""
    return max(value) > 0 if isinstance(value, list) else value > 0
