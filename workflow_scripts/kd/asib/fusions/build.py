"""From settings to a fusion module: the one place that knows them all."""

from collections.abc import Sequence

from kd.asib.fusions.base import Fusion
from kd.asib.fusions.gate import GateMBM
from kd.asib.fusions.ib import IBMBM
from kd.asib.fusions.light_attention import LightweightAttnMBM
from kd.asib.fusions.mlp import MLPMBM
from kd.asib.fusions.vib import VIBMBM
from kd.schema.cards import MethodSettings
from kd.tools.errors import UserError

LOGVAR_CLIP = {"IB": 10.0, "VIB": 5.0, "GATE": None}
"""Where a log-variance is clipped if the settings say nothing."""


def build_fusion(settings: MethodSettings, query_dim: int, widths: Sequence[int], channels: Sequence[int]) -> Fusion:
    """Return the fusion of teachers with embeddings of these widths and last maps of these channels.

    query_dim is the width of the student's embedding, which the code has too unless mbm_out_dim says otherwise. A
    mbm_query_dim that is not that width and a width that heads do not divide are a UserError.
    """
    if settings.mbm_query_dim not in (None, query_dim):
        raise UserError(
            f"asib: mbm_query_dim {settings.mbm_query_dim} is not the width of the student's embedding, {query_dim}: "
            "give that or null"
        )
    kind, width, heads = settings.mbm_type, settings.mbm_out_dim or query_dim, settings.mbm_n_head
    narrow = max(1, width // settings.mbm_r) if kind == "LA" else width
    _check_heads("mbm_n_head", heads if kind in {"IB", "LA"} else 1, narrow)
    _check_heads("mbm_attn_heads", settings.mbm_attn_heads or 1, width)
    clip = LOGVAR_CLIP.get(kind) if settings.mbm_logvar_clip is None else settings.mbm_logvar_clip
    if kind == "IB":
        return IBMBM(query_dim, widths, width, heads, clip, settings.mbm_min_std, settings.mbm_dropout)
    if kind == "VIB":
        return VIBMBM(widths, width, clip, settings.mbm_min_std)
    if kind == "GATE":
        return GateMBM(widths, width, settings.gate_dropout, clip, settings.mbm_min_std)
    if kind == "LA":
        learned = settings.mbm_learnable_q
        return LightweightAttnMBM(query_dim, widths, width, heads, settings.mbm_r, learned, settings.mbm_dropout)
    assert kind == "MLP", kind
    return MLPMBM(
        widths,
        width,
        settings.mbm_hidden_dim,
        settings.mbm_dropout,
        channels if settings.mbm_use_4d else (),
        settings.mbm_out_ch_4d,
        settings.mbm_attn_heads,
    )


def _check_heads(key: str, heads: int, width: int) -> None:
    if width % heads:
        raise UserError(f"asib: {key} {heads} does not divide the {width} dimensions in which the fusion attends")
