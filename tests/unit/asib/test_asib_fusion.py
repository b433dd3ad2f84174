"""Every fusion module against its definition written out by hand, in float64."""

import math

import pytest
import torch
from asib_world import settings_of

from kd.asib.fusions.base import Tokens, code_of
from kd.asib.fusions.build import build_fusion
from kd.asib.fusions.gate import GateMBM
from kd.asib.fusions.ib import IBMBM
from kd.asib.fusions.light_attention import LightweightAttnMBM
from kd.asib.fusions.mlp import MLPMBM
from kd.asib.fusions.vib import VIBMBM
from kd.asib.modules import DistillationAdapters, StudentProjection, SynergyHead
from kd.tools.errors import UserError

WIDTHS = (5, 7, 3)
torch.manual_seed(0)
QUERY = torch.randn(4, 6, dtype=torch.float64)
TEACHERS = [torch.randn(4, width, dtype=torch.float64) for width in WIDTHS]
MAPS = [torch.randn(4, 3, 4, 4, dtype=torch.float64), torch.randn(4, 2, 2, 2, dtype=torch.float64)]


def made(kind, *arguments, **more):
    torch.manual_seed(1)
    return kind(*arguments, **more).double().eval()


def linear(layer, x):
    return x @ layer.weight.T + layer.bias


def norm(layer, x):
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias


def attention(layer, query, keys, values):
    """Multi-head attention of one query (B,D) over K tokens (B,K,D), heads one after the other; also mean weights."""
    width, heads = layer.embed_dim, layer.num_heads
    parts = zip(layer.in_proj_weight.split(width), layer.in_proj_bias.split(width), (query, keys, values), strict=True)
    q, k, v = (x @ weight.T + bias for weight, bias, x in parts)
    size, answers, weights = width // heads, [], []
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        share = (torch.einsum("bd,bkd->bk", q[:, own], k[:, :, own]) / math.sqrt(size)).softmax(1)
        answers.append(torch.einsum("bk,bkd->bd", share, v[:, :, own]))
        weights.append(share)
    return linear(layer.out_proj, torch.cat(answers, 1)), torch.stack(weights).mean(0)


def test_ib_mbm_is_attention_with_norms_and_a_residual():
    fusion = made(IBMBM, 6, WIDTHS, 8, 2)
    found = fusion(QUERY, TEACHERS)
    tokens = torch.stack([linear(layer, x) for layer, x in zip(fusion.align, TEACHERS, strict=True)], 1)
    q, kv = norm(fusion.q_norm, linear(fusion.q_proj, QUERY)), norm(fusion.kv_norm, linear(fusion.kv_proj, tokens))
    answer, weights = attention(fusion.attn, q, kv, kv)
    h = norm(fusion.out_norm, answer + q)
    torch.testing.assert_close(found.mu, linear(fusion.mu, h))
    torch.testing.assert_close(found.logvar, linear(fusion.logvar, h).clamp(-10, 10))
    torch.testing.assert_close(found.query, q)
    torch.testing.assert_close(found.attention, weights)


def test_vib_mbm_is_two_linear_maps_of_all_embeddings():
    fusion = made(VIBMBM, WIDTHS, 8)
    found = fusion(QUERY, TEACHERS)
    together = torch.cat(TEACHERS, 1)
    torch.testing.assert_close(found.mu, linear(fusion.code.mu, together))
    torch.testing.assert_close(found.logvar, linear(fusion.code.logvar, together).clamp(-5, 5))


@pytest.mark.parametrize("teachers", [1, 2, 3])
def test_gate_mbm_mixes_channels(teachers):
    fusion = made(GateMBM, WIDTHS[:teachers], 8)
    assert torch.allclose(fusion.gates(), torch.full((teachers, max(WIDTHS[:teachers])), 1 / teachers).double())
    torch.nn.init.normal_(fusion.gamma)
    mapped = [linear(layer, x) for layer, x in zip(fusion.maps, TEACHERS, strict=False)]
    if teachers == 2:
        gate = 1 / (1 + torch.exp(-fusion.gamma[0]))
        mixed = gate * mapped[0] + (1 - gate) * mapped[1]
    else:
        powers = [*torch.exp(fusion.gamma), torch.ones_like(mapped[0][0])]
        mixed = sum(power * x for power, x in zip(powers, mapped, strict=True)) / sum(powers)
    found = fusion(QUERY, TEACHERS[:teachers])
    torch.testing.assert_close(found.mu, linear(fusion.code.mu, mixed))
    torch.testing.assert_close(found.logvar, linear(fusion.code.logvar, mixed))


def test_gate_mbm_bounds_no_variance_and_drops_in_training_only():
    fusion = made(GateMBM, WIDTHS, 8, dropout=0.5)
    with torch.no_grad():
        fusion.code.logvar.bias.fill_(40.0)
    assert fusion(QUERY, TEACHERS).logvar.min() > 30
    assert torch.equal(fusion(QUERY, TEACHERS).mu, fusion(QUERY, TEACHERS).mu)
    fusion.train()
    assert not torch.equal(fusion(QUERY, TEACHERS).mu, fusion(QUERY, TEACHERS).mu)


def mlp_path(fusion):
    layers = [layer for layer in fusion.mlp if isinstance(layer, torch.nn.Linear)]
    x = torch.cat(TEACHERS[:2], 1)
    for layer in layers[:-1]:
        x = linear(layer, x).clamp(min=0)
    return linear(layers[-1], x)


def map_path(fusion):
    pooled = torch.cat([MAPS[0].unflatten(2, (2, 2)).unflatten(4, (2, 2)).mean((3, 5)), MAPS[1]], 1)
    first, _, second, _ = fusion.of_maps.convs
    x = torch.einsum("oc,bchw->bohw", first.weight[:, :, 0, 0], pooled) + first.bias[:, None, None]
    padded = torch.nn.functional.pad(x.clamp(min=0), (1, 1, 1, 1))
    windows = padded.unfold(2, 3, 1).unfold(3, 3, 1)
    x = torch.einsum("ocij,bchwij->bohw", second.weight, windows) + second.bias[:, None, None]
    return linear(fusion.of_maps.out, x.clamp(min=0).mean((2, 3)))


def attention_path(fusion):
    path = fusion.attention
    tokens = torch.stack([linear(layer, x) for layer, x in zip(path.tokens, TEACHERS, strict=False)], 1)
    return torch.stack([attention(path.attn, tokens[:, k], tokens, tokens)[0] for k in range(2)]).mean(0)


@pytest.mark.parametrize("with_maps", [False, True])
@pytest.mark.parametrize("heads", [0, 2])
def test_mlp_mbm_is_the_mean_of_its_active_paths(with_maps, heads):
    more = {"channels": (3, 2), "map_hidden": 5} if with_maps else {}
    fusion = made(MLPMBM, WIDTHS[:2], 8, 9, attention_heads=heads, **more)
    paths = [mlp_path(fusion)]
    paths += [map_path(fusion)] if with_maps else []
    paths += [attention_path(fusion)] if heads else []
    found = fusion(QUERY, TEACHERS[:2], MAPS)
    torch.testing.assert_close(found.z, sum(paths) / len(paths))
    assert found.logvar is None


@pytest.mark.parametrize("learned", [False, True])
def test_light_attention_asks_in_a_narrow_space(learned):
    fusion = made(LightweightAttnMBM, 6, WIDTHS, 8, 2, 2, learned)
    if learned:
        assert not fusion.token.any(), "it starts at zero"
        torch.nn.init.normal_(fusion.token)
        asked = fusion.token[0].expand(4, -1)
    else:
        asked = linear(fusion.q_proj, QUERY)
    assert asked.shape == (4, 4)
    keys = torch.stack([linear(layer, x) for layer, x in zip(fusion.k_proj, TEACHERS, strict=True)], 1)
    values = torch.stack([linear(layer, x) for layer, x in zip(fusion.v_proj, TEACHERS, strict=True)], 1)
    answer, weights = attention(fusion.attn, asked, keys, values)
    found = fusion(QUERY, TEACHERS)
    torch.testing.assert_close(found.z, linear(fusion.out, answer))
    torch.testing.assert_close(found.answer, answer)
    torch.testing.assert_close(found.query, asked)
    torch.testing.assert_close(found.attention, weights)
    assert fusion.asks != learned


FUSIONS = {
    "IB": lambda: made(IBMBM, 6, WIDTHS, 8, 2),
    "VIB": lambda: made(VIBMBM, WIDTHS, 8),
    "GATE": lambda: made(GateMBM, WIDTHS, 8, dropout=0.0),
}


@pytest.mark.parametrize("kind", FUSIONS)
def test_the_code_is_a_sample_only_in_training_mode_when_asked_for(kind):
    fusion = FUSIONS[kind]().train()
    first, second = fusion(QUERY, TEACHERS), fusion(QUERY, TEACHERS)
    assert not torch.equal(first.z, second.z)
    assert torch.equal(first.mu, second.mu)
    mean = fusion(QUERY, TEACHERS, sample=False)
    assert torch.equal(mean.z, mean.mu)
    evaluated = fusion.eval()(QUERY, TEACHERS)
    assert torch.equal(evaluated.z, evaluated.mu)


def test_a_sample_has_the_stated_mean_and_spread_but_never_less_than_the_floor():
    torch.manual_seed(2)
    mu, logvar = torch.tensor([[1.0, -2.0, 0.5]]).double(), torch.tensor([[-1.0, 0.6, -9.0]]).double()
    many = code_of(mu.expand(50000, -1), logvar.expand(50000, -1), 10.0, 0.3, True)[0]
    torch.testing.assert_close(many.mean(0), mu[0], atol=0.03, rtol=0)
    torch.testing.assert_close(
        many.std(0), torch.tensor([math.exp(-0.5), math.exp(0.3), 0.3]).double(), atol=0, rtol=0.03
    )


def test_log_variance_is_clipped():
    fusion = made(IBMBM, 6, WIDTHS, 8, 2, 1.5)
    with torch.no_grad():
        fusion.logvar.bias.copy_(torch.tensor([50.0, -50.0] * 4))
    logvar = fusion(QUERY, TEACHERS).logvar
    assert (logvar.min(), logvar.max()) == (-1.5, 1.5)


@pytest.mark.parametrize("widths", [(5, 5), (5,)])
def test_tokens_of_one_width_stay_as_they_are(widths):
    tokens = Tokens(widths)
    embeddings = [torch.randn(2, width) for width in widths]
    assert not len(tokens)
    assert torch.equal(tokens(embeddings), torch.stack(embeddings, 1))


@pytest.mark.parametrize("kind", ["IB", "VIB", "GATE", "MLP", "LA"])
@pytest.mark.parametrize("width", [None, 12])
def test_widths_are_found_and_every_parameter_learns(kind, width):
    settings = settings_of(mbm_type=kind, use_ib=kind not in {"MLP", "LA"}, mbm_out_dim=width, mbm_n_head=2, mbm_r=2)
    fusion = build_fusion(settings, 8, WIDTHS, ())
    found = fusion(torch.randn(4, 8), [x.float() for x in TEACHERS])
    assert found.z.shape == (4, width or 8)
    assert fusion.bottleneck == (found.logvar is not None)
    (found.z.square().sum() + (0 if found.logvar is None else found.logvar.square().sum())).backward()
    assert all(p.grad is not None for p in fusion.parameters())


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"mbm_query_dim": 9}, "mbm_query_dim 9 is not the width of the student's embedding, 8"),
        ({"mbm_n_head": 3}, "mbm_n_head 3 does not divide the 8 dimensions"),
        ({"mbm_type": "LA", "use_ib": False, "mbm_n_head": 4}, "mbm_n_head 4 does not divide the 2 dimensions"),
        ({"mbm_type": "MLP", "use_ib": False, "mbm_attn_heads": 3}, "mbm_attn_heads 3 does not divide the 8"),
    ],
)
def test_what_does_not_fit_is_told(given, sentence):
    with pytest.raises(UserError, match=sentence):
        build_fusion(settings_of(**given), 8, WIDTHS, ())


# --- what stands around ---------------------------------------------------------------------------------


def test_the_head_normalises_before_it_classifies():
    head = made(SynergyHead, 8, 3)
    z = torch.randn(4, 8).double()
    x = norm(head.net[0], z)
    expected = linear(head.net[3], 0.5 * x * (1 + torch.erf(x / math.sqrt(2))))
    torch.testing.assert_close(head(z), expected)
    assert head.log_temperature is None


def test_a_learned_temperature_starts_at_one_and_divides():
    plain, learned = made(SynergyHead, 8, 3), made(SynergyHead, 8, 3, learnable_temperature=True)
    z = torch.randn(4, 8).double()
    assert torch.equal(plain(z), learned(z))
    with torch.no_grad():
        learned.log_temperature.fill_(math.log(2.5))
    torch.testing.assert_close(learned(z), plain(z) / 2.5)
    learned(z).sum().backward()
    assert learned.log_temperature.grad.abs() > 0


@pytest.mark.parametrize(("hidden", "out", "widths"), [(None, None, [2, 1, 4]), (9, 6, [6, 6, 6])])
def test_distillation_adapters_halve_and_quarter(hidden, out, widths):
    adapters = made(DistillationAdapters, (8, 5, 16), hidden, out)
    embeddings = [torch.randn(4, width).double() for width in (8, 5, 16)]
    found = adapters(embeddings)
    assert adapters.widths == widths == [x.shape[1] for x in found]
    assert [adapter[0].out_features for adapter in adapters] == ([hidden] * 3 if hidden else [4, 2, 8])
    expected = linear(adapters[1][2], linear(adapters[1][0], embeddings[1]).clamp(min=0))
    torch.testing.assert_close(found[1], expected)


def test_projection_with_batch_norm_and_unit_length():
    x = torch.randn(6, 5).double()
    plain = made(StudentProjection, 5, 4)
    torch.testing.assert_close(plain(x), linear(plain.net[0], x))
    of_unit = made(StudentProjection, 5, 4, normalize="input")
    torch.testing.assert_close(of_unit(x), of_unit(7 * x))
    whole = made(StudentProjection, 5, 4, 7, True, "output").train()
    first, second = whole.net[0], whole.net[3]
    hidden = standardised(linear(first, x)).clamp(min=0)
    expected = standardised(linear(second, hidden))
    torch.testing.assert_close(whole(x), expected / expected.norm(dim=1, keepdim=True))


def standardised(x):
    return (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()
