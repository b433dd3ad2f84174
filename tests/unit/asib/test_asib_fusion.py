import pytest
import torch

from kd.asib.fusion import IBMBM, SynergyHead, TeacherAdapters


@pytest.fixture
def mbm():
    torch.manual_seed(0)
    return IBMBM(query_dim=6, token_dim=5, embed_dim=8, n_heads=2)


QUERY, TOKENS = torch.randn(4, 6), torch.randn(4, 3, 5)


def test_code_is_a_sample_only_in_training_mode_when_asked_for(mbm):
    mbm.train()
    first, second = mbm(QUERY, TOKENS), mbm(QUERY, TOKENS)
    assert not torch.equal(first.z, second.z)
    assert torch.equal(first.mu, second.mu)
    mean = mbm(QUERY, TOKENS, sample=False)
    assert torch.equal(mean.z, mean.mu)
    mbm.eval()
    evaluated = mbm(QUERY, TOKENS, sample=True)
    assert torch.equal(evaluated.z, evaluated.mu)


def test_sample_has_the_stated_mean_and_spread(mbm):
    torch.manual_seed(1)
    mbm.train()
    many = mbm(QUERY[:1].expand(20000, -1), TOKENS[:1].expand(20000, -1, -1))
    torch.testing.assert_close(many.z.mean(0), many.mu[0], atol=0.05, rtol=0)
    torch.testing.assert_close(many.z.std(0), torch.exp(many.logvar[0] / 2), atol=0, rtol=0.05)


def test_log_variance_is_clipped(mbm):
    with torch.no_grad():
        mbm.logvar.bias.copy_(torch.tensor([50.0, -50.0] * 4))
    logvar = mbm(QUERY, TOKENS).logvar
    assert logvar.max() == 10
    assert logvar.min() == -10


def test_fusion_does_not_depend_on_the_order_of_teachers(mbm):
    mbm.eval()
    torch.testing.assert_close(mbm(QUERY, TOKENS).mu, mbm(QUERY, TOKENS.flip(1)).mu)


@pytest.mark.parametrize(
    ("widths", "adapter_dim", "width", "linear"),
    [((5, 5), None, 5, 0), ((5, 7, 3), None, 7, 3), ((5, 5), 4, 4, 2), ((5,), None, 5, 0)],
)
def test_adapters_only_where_widths_differ_or_a_width_is_given(widths, adapter_dim, width, linear):
    module = TeacherAdapters(widths, adapter_dim)
    embeddings = [torch.randn(2, w) for w in widths]
    tokens = module(embeddings)
    assert (len(module), module.width, tokens.shape) == (linear, width, (2, len(widths), width))
    if not linear:
        assert torch.equal(tokens, torch.stack(embeddings, 1))


def test_head_normalises_before_it_classifies():
    head = SynergyHead(8, 3).eval()
    z = torch.randn(4, 8)
    torch.testing.assert_close(head(z), head(10 * z + 3), atol=1e-4, rtol=1e-4)
