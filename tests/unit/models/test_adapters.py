"""A residual adapter starts as the identity, changes the function once trained, and comes back from a checkpoint."""

import pytest
import torch

from kd.models.adapters import KEY, adapter_of, adapter_parameters, add_adapter
from kd.models.build import build_model
from kd.models.folding import folded
from kd.models.reuse import added_parameters, deployment, redeploy
from kd.schema.config import ModelSettings
from kd.tools.errors import UserError

WHERE = {
    "resnet8": "stages.1.1",
    "ShuffleV2": "stages.1.",
    "timm:test_resnet": "net.layer3.1",
    "timm:test_efficientnet": "net.bn2.1",
    "wrn_16_1": "adapter",
    "timm:test_vit": "adapter",
    "timm:test_convnext": "adapter",
    "timm:swin_tiny_patch4_window7_224": "adapter",
}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def plain(arch):
    torch.manual_seed(0)
    return build_model(ModelSettings(arch=arch), 10, 32).eval()


def shapes(model):
    with torch.no_grad():
        _, taps = model(IMAGES, model.tap_names)
    return {name: tap.shape[1:] for name, tap in taps.items()}


@pytest.fixture(scope="module", params=WHERE)
def pair(request):
    model = plain(request.param)
    return model, add_adapter(model, shapes(model)).eval()


def test_it_stands_where_the_family_has_it(pair):
    model, adapted = pair
    (path,) = adapted.added
    assert path.startswith(WHERE[model.arch])
    assert model.added == (), "the network itself stays as it is"
    assert adapter_parameters(model) == 0


@torch.no_grad()
def test_it_starts_as_the_identity_and_then_changes_logits_and_embedding(pair):
    model, adapted = pair
    before, taps = model(IMAGES, ("embedding",))
    torch.testing.assert_close(adapted(IMAGES)[0], before)
    for p in adapter_of(adapted).parameters():
        p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    after, moved = adapted(IMAGES, ("embedding",))
    assert not torch.allclose(after, before)
    assert not torch.allclose(moved["embedding"], taps["embedding"])


def test_a_checkpoint_says_how_to_rebuild_it(pair):
    model, adapted = pair
    count = sum(p.numel() for p in adapted.parameters()) - sum(p.numel() for p in model.parameters())
    assert added_parameters(adapted) == adapter_parameters(adapted) == count > 0
    rebuilt = redeploy(plain(model.arch), deployment(adapted)).eval()
    rebuilt.load_state_dict(adapted.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(IMAGES)[0], adapted(IMAGES)[0])


@torch.no_grad()
def test_it_runs_folded(pair):
    _, adapted = pair
    torch.testing.assert_close(folded(adapted, IMAGES)(IMAGES)[0], adapted(IMAGES)[0], rtol=1e-3, atol=1e-4)


def test_on_an_embedding_64_wide_unless_told_and_on_maps_as_wide_as_they_are():
    model = plain("timm:test_vit")
    first, _, last = add_adapter(model, shapes(model)).adapter
    width = shapes(model)["embedding"][0]
    assert (first.in_features, first.out_features, last.in_features, last.out_features) == (width, 64, 64, width)
    assert add_adapter(model, shapes(model), 5).adapter[0].out_features == 5
    model = plain("resnet8")
    adapted = add_adapter(model, shapes(model))
    first = adapter_of(adapted).branch[0]
    assert first.out_channels == first.in_channels == 32


def test_hidden_width_and_broken_metadata():
    model = plain("resnet8")
    narrow = add_adapter(model, shapes(model), 4)
    assert adapter_of(narrow).branch[0].out_channels == 4
    assert adapter_of(redeploy(plain("resnet8"), deployment(narrow))).hidden == 4
    with pytest.raises(UserError, match="describes no adapter"):
        redeploy(model, {KEY: "nonsense"})
