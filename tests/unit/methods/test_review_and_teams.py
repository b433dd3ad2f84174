"""ReviewKD, SimKD, self-distillation with exits and several teachers, against plain float64 loops and brute force."""

import itertools
import logging

import numpy as np
import pytest
import torch
from steps import loss_of
from torch import nn

from kd.engine.team import Team, deploy, equip
from kd.methods._teams import divergences
from kd.methods.aekd import AEKD, MinNorm, logit_gradients
from kd.methods.avg_kd import AvgKD, average_loss
from kd.methods.byot import BYOT, exit_distillation, exit_features, soft_cross_entropy
from kd.methods.ca_mkd import CAMKD, camkd_loss, confidence_weights, feature_loss
from kd.methods.contract import STUDENT, Batch, Context, Output, Outputs, Progress, is_teacher, teacher
from kd.methods.ebkd import EBKD, ebkd_loss, entropy_weights
from kd.methods.reviewkd import ReviewKD, hcl_loss, review
from kd.methods.simkd import SimKD, simkd_loss
from kd.models.base import StagedNet, conv_bn
from kd.models.build import build_model
from kd.models.reuse import ReusedHead
from kd.schema.cards import card
from kd.schema.config import ModelSettings
from kd.tools.errors import UserError

CLASSES, SIZE = 4, 8
START = Progress(0.0, 10)
CPU = torch.device("cpu")


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def kl(q, p):
    return (q * np.log(q / p)).sum(axis=-1)


def tensors(*arrays):
    return [torch.tensor(array) for array in arrays]


def block_mean(feature, size):
    """Return maps (B,C,H,W) averaged to size x size, where that divides them."""
    b, c, h, w = feature.shape
    return feature.reshape(b, c, size, h // size, size, w // size).mean(axis=(3, 5))


def net(width: int, sizes=(1, 2, 2)) -> StagedNet:
    """Return stages of widths `width`, 2 `width`, ... whose first blocks have these strides."""
    widths = [width * (k + 1) for k in range(len(sizes))]
    inputs = [width, *widths[:-1]]
    stages = [nn.Sequential(conv_bn(i, o, 3, s)) for i, o, s in zip(inputs, widths, sizes, strict=True)]
    return StagedNet(f"net{width}", CLASSES, conv_bn(3, width, 3), stages, widths[-1])


def ready(kind, name, models, size=SIZE, **settings):
    """Return the method with its team, as the engine makes them ready."""
    method = kind(card(name).resolve(settings, "test"), sum(map(is_teacher, models)))
    team, context = deploy(Team(models, CPU), method, size, torch.arange(8) % CLASSES, CLASSES)
    equip(team, method, context)
    return method, team


def step(method, team, size=SIZE, seed=3):
    """Return the terms of one batch with the outputs that they come from."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(6, 3, size, size, generator=generator)
    labels = torch.arange(6) % CLASSES
    batch = Batch(images, labels, torch.arange(6), labels)
    outputs = Outputs()
    for role, model in team.models.items():
        with torch.set_grad_enabled(role == STUDENT):
            logits, taps = model(images, team.taps[role])
        outputs[role] = Output(logits, taps, model.classifier)
    return loss_of(method, STUDENT, batch, outputs, team.extra, START), outputs


# --- ReviewKD -------------------------------------------------------------------------------------


def test_hierarchical_context_loss_equals_plain_loops():
    rng = np.random.default_rng(0)
    shapes = [(3, 2, 8, 8), (3, 4, 4, 4), (3, 5, 2, 2), (3, 6, 1, 1)]
    student, target = ([rng.normal(size=shape) for shape in shapes] for _ in range(2))
    expected = 0.0
    for s, t in zip(student, target, strict=True):
        total, weights, weight = ((s - t) ** 2).mean(), 1.0, 1.0
        for level in (4, 2, 1):
            if level < s.shape[2]:
                weight /= 2
                weights += weight
                total += weight * ((block_mean(s, level) - block_mean(t, level)) ** 2).mean()
        expected += total / weights
    assert hcl_loss(tensors(*student), tensors(*target)).item() == pytest.approx(expected, rel=1e-12)


def test_levels_of_maps_that_are_not_square_follow_the_shorter_side():
    feature = torch.randn(2, 3, 3, 9, dtype=torch.float64)
    zero = torch.zeros_like(feature)
    levels = [nn.functional.adaptive_avg_pool2d(feature, side).square().mean() for side in (2, 1)]
    expected = (feature.square().mean() + levels[0] / 2 + levels[1] / 4) / 1.75
    torch.testing.assert_close(hcl_loss([feature], [zero]), expected)


def nearest(feature, height, width):
    rows = np.arange(height) * feature.shape[2] // height
    columns = np.arange(width) * feature.shape[3] // width
    return feature[:, :, rows][:, :, :, columns]


def convolved(module, feature, padding=0):
    """Return convolution and BatchNorm in eval mode by plain loops."""
    weight = module[0].weight.detach().double().numpy()
    padded = np.pad(feature, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    side = weight.shape[2]
    found = np.zeros((feature.shape[0], weight.shape[0], *feature.shape[2:]))
    for y, x in itertools.product(range(feature.shape[2]), range(feature.shape[3])):
        patch = padded[:, :, y : y + side, x : x + side]
        found[:, :, y, x] = np.einsum("bcij,ocij->bo", patch, weight)
    norm = module[1]
    mean, variance = (v.double().numpy()[:, None, None] for v in (norm.running_mean, norm.running_var))
    gain, offset = (v.detach().double().numpy()[:, None, None] for v in (norm.weight, norm.bias))
    return (found - mean) / np.sqrt(variance + norm.eps) * gain + offset


def test_fused_maps_equal_plain_loops():
    _, team = ready(ReviewKD, "reviewkd", {STUDENT: net(2), teacher(0): net(3, (1, 1, 2))})
    fusions = team.extra.double().eval()["fusions"]
    generator = torch.Generator().manual_seed(0)
    for value in team.extra.state_dict().values():
        value.add_(0.1 * torch.rand(value.shape, generator=generator)) if value.is_floating_point() else None
    rng = np.random.default_rng(1)
    features = [rng.normal(size=(2, c, s, s)) for c, s in ((2, 8), (4, 4), (6, 2), (6, 1))]
    expected, residual = [], None
    for fusion, feature in zip(reversed(fusions), reversed(features), strict=True):
        mixed = convolved(fusion.reduce, feature)
        if residual is not None:
            residual = nearest(residual, *mixed.shape[2:])
            joint = np.concatenate([mixed, residual], axis=1)
            weight, bias = (v.detach().numpy() for v in (fusion.attention[0].weight, fusion.attention[0].bias))
            gates = 1 / (1 + np.exp(-(np.einsum("bchw,oc->bohw", joint, weight[:, :, 0, 0]) + bias[:, None, None])))
            mixed = gates[:, :1] * mixed + gates[:, 1:] * residual
        residual = nearest(mixed, *fusion.size)
        expected.insert(0, convolved(fusion.expand, residual, padding=1))
    found = review(fusions, tensors(*features))
    assert [tuple(f.shape[1:]) for f in found] == [(3, 8, 8), (6, 8, 8), (9, 4, 4), (9, 1, 1)], "the teacher's shapes"
    for f, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(f.detach().numpy(), e, rtol=1e-9)


def test_targets_are_before_the_activation_where_the_teacher_has_taps_there():
    _, team = ready(ReviewKD, "reviewkd", {STUDENT: net(2), teacher(0): net(3)})
    assert team.taps[teacher(0)] == ("stage1.pre", "stage2.pre", "stage3.pre", "embedding")
    assert team.taps[STUDENT] == ("stage1", "stage2", "stage3", "embedding")
    _, plain = ready(ReviewKD, "reviewkd", {STUDENT: net(2), teacher(0): net(3)}, teacher_pre=False, student_pre=True)
    assert plain.taps[teacher(0)] == ("stage1", "stage2", "stage3", "embedding")
    assert plain.taps[STUDENT] == ("stage1.pre", "stage2.pre", "stage3.pre", "embedding")


def test_a_teacher_without_such_taps_gives_its_features_as_they_are_and_the_log_says_so(caplog):
    torch.manual_seed(0)
    vit = build_model(ModelSettings(arch="timm:test_vit"), CLASSES, 32)
    with caplog.at_level(logging.INFO, logger="kd.methods.reviewkd"):
        models = {STUDENT: net(2, (1, 2)), teacher(0): vit}
        method, team = ready(ReviewKD, "reviewkd", models, 32, teacher_taps=["stage3", "last"])
    assert team.taps[teacher(0)] == ("stage3", "stage6", "embedding")
    assert "teacher0 has no taps before its activations" in caplog.text
    terms, _ = step(method, team, size=32)
    assert torch.isfinite(terms["reviewkd"])


def test_networks_of_unequal_stages_cannot_be_reviewed():
    with pytest.raises(UserError, match="compares taps one to one"):
        ready(ReviewKD, "reviewkd", {STUDENT: net(2), teacher(0): net(3, (1, 2))})


@pytest.mark.parametrize(
    ("settings", "epochs", "expected"),
    [
        ({}, (0.0, 0.9, 1.0, 10.5, 20.0, 99.0), (0, 0, 0.25, 2.5, 5, 5)),
        ({"warmup_start": 1}, (0.0, 0.9, 1.0, 18.0, 19.0), (0.25, 0.25, 0.5, 4.75, 5)),
        ({"warmup_epochs": 0.0, "reviewkd_weight": 8.0}, (0.0,), (8,)),
    ],
)
def test_the_reviews_weight_rises_epoch_by_epoch(settings, epochs, expected):
    method = ReviewKD(card("reviewkd").resolve(settings, "test"))
    assert [method.weight("reviewkd", Progress(e, 240)) for e in epochs] == pytest.approx(expected)
    assert method.weight("ce", START) == 1.0


# --- SimKD ----------------------------------------------------------------------------------------


def test_simkd_is_the_mean_square_at_the_smaller_size():
    rng = np.random.default_rng(2)
    projected, target = rng.normal(size=(2, 3, 2, 2)), rng.normal(size=(2, 3, 4, 4))
    expected = ((projected - block_mean(target, 2)) ** 2).mean()
    assert simkd_loss(*tensors(projected, target)).item() == pytest.approx(expected, rel=1e-12)


def test_simkd_deploys_the_teachers_classifier_behind_the_projected_map():
    target = net(3, (1, 2, 1))
    method, team = ready(SimKD, "simkd", {STUDENT: net(2), teacher(0): target})
    student = team.models[STUDENT]
    assert isinstance(student, ReusedHead)
    assert (student.facts.hidden, student.facts.outputs, student.facts.height) == (4, 9, 2)
    assert not list(team.extra.parameters())
    terms, outputs = step(method, team)
    projected = outputs[STUDENT].taps["projected"]
    assert projected.shape == (6, 9, 2, 2)
    torch.testing.assert_close(outputs[STUDENT].logits, target.fc(projected.mean(dim=(2, 3))))
    pooled = nn.functional.adaptive_avg_pool2d(outputs[teacher(0)].taps["stage3"], 2)
    torch.testing.assert_close(terms["simkd"], (projected - pooled).square().mean())
    assert [method.weight(term, START) for term in ("ce", "simkd")] == [0.0, 1.0]


@pytest.mark.parametrize(("arch", "size", "outputs"), [("wrn_16_1", (8, 8), 64), ("timm:test_vit", (1, 1), 64)])
def test_simkd_learns_what_the_classifier_reads_of_any_teacher(arch, size, outputs):
    torch.manual_seed(0)
    model = build_model(ModelSettings(arch=arch), CLASSES, 32)
    method, team = ready(SimKD, "simkd", {STUDENT: net(2, (1, 2, 2)), teacher(0): model}, 32, factor=4)
    facts = team.models[STUDENT].facts
    assert ((facts.height, facts.width), facts.outputs, facts.hidden) == (size, outputs, outputs // 4)
    assert facts.nonnegative == (arch == "wrn_16_1")
    terms, outs = step(method, team, size=32)
    assert torch.isfinite(terms["simkd"])
    read = method.target.of(outs[teacher(0)].taps).mean(dim=(2, 3))
    torch.testing.assert_close(model.classifier(read), outs[teacher(0)].logits, rtol=1e-4, atol=1e-5)


def test_a_student_that_reproduces_the_map_reproduces_the_teacher():
    """With equal maps the loss is zero and the deployed logits are the teacher's."""
    target = net(3).eval()
    _, team = ready(SimKD, "simkd", {STUDENT: net(2), teacher(0): target})
    student = team.models[STUDENT]
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        logits, taps = target(images, ("stage3",))
        student.projector = nn.Identity()
        student.trunk.forward = lambda x, names=(): (None, {student.facts.tap: taps["stage3"]})
        assert simkd_loss(student(images, ("projected",))[1]["projected"], taps["stage3"]) == 0
        torch.testing.assert_close(student(images)[0], logits)


# --- BYOT -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_cross_entropy_equals_numpy_and_has_the_gradient_of_the_divergence(temperature):
    rng = np.random.default_rng(4)
    z, t = rng.normal(size=(2, 5, 4)) * 3
    q, p = softmax(t / temperature), softmax(z / temperature)
    logits = torch.tensor(z, requires_grad=True)
    loss = soft_cross_entropy(logits, torch.tensor(t), temperature)
    assert loss.item() == pytest.approx(-(q * np.log(p)).sum(axis=1).mean(), rel=1e-12)
    loss.backward()
    np.testing.assert_allclose(logits.grad.numpy(), (p - q) / temperature / len(z), rtol=1e-9)


@pytest.mark.parametrize(("form", "scale"), [("released", 9.0), ("mean", 9.0), ("official", 1.0)])
def test_shallow_exits_add_up(form, scale):
    exits, deepest = torch.randn(3, 5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    expected = scale * sum(soft_cross_entropy(logits, deepest, 3.0) for logits in exits)
    torch.testing.assert_close(exit_distillation(list(exits), deepest, 3.0, form), expected)


@pytest.mark.parametrize("form", ["released", "mean", "official"])
def test_exit_features_equal_plain_loops(form):
    rng = np.random.default_rng(5)
    shallow, deepest = rng.normal(size=(3, 2, 4, 2, 2)), rng.normal(size=(2, 4, 2, 2))
    expected = 0.0
    for index, feature in enumerate(shallow):
        if form == "official":
            expected += np.linalg.norm((feature - deepest).ravel()) if index < 2 else 0.0
            continue
        for f, d in zip(feature.ravel(), deepest.ravel(), strict=True):
            if form == "mean" or f > 0 or d > 0:
                expected += (f - d) ** 2 / (deepest.size if form == "mean" else 1)
    found = exit_features(tensors(*shallow), torch.tensor(deepest), form)
    assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("form", ["released", "mean", "official"])
def test_exit_features_have_a_gradient_where_they_agree_and_none_into_the_deepest(form):
    shallow = [torch.ones(2, 3, requires_grad=True) for _ in range(2)]
    deepest = torch.ones(2, 3, requires_grad=True)
    exit_features(shallow, deepest, form).backward()
    assert deepest.grad is None
    assert torch.equal(shallow[0].grad, torch.zeros(2, 3))


def test_every_exit_has_a_branch_to_the_deepest_shape_and_reports():
    method, team = ready(BYOT, "byot", {STUDENT: net(4, (1, 2, 2, 1))})
    exits = team.extra["exits"]
    assert [branch.bottleneck[3].kernel_size for branch in exits] == [(4, 4), (2, 2), (1, 1)]
    terms, outputs = step(method, team)
    maps, logits = method.exits(outputs[STUDENT], team.extra)
    assert {tuple(feature.shape) for feature in maps} == {(6, 16, 2, 2)}
    assert set(terms) == {"ce", "exit_ce", "exit_kd", "feature"}
    heads = method.heads(outputs, team.extra)
    assert list(heads) == ["exit1", "exit2", "exit3", "ensemble"]
    torch.testing.assert_close(heads["ensemble"], (sum(logits) + outputs[STUDENT].logits) / 4)
    deepest = outputs[STUDENT].taps["stage4"]
    torch.testing.assert_close(terms["feature"], exit_features(maps, deepest, "released"))
    labels = torch.arange(6) % CLASSES
    torch.testing.assert_close(terms["exit_ce"], sum(nn.functional.cross_entropy(z, labels) for z in logits))


def test_branches_meet_the_deepest_shape_at_odd_sizes():
    method, team = ready(BYOT, "byot", {STUDENT: net(4, (1, 2, 2))}, 13)
    terms, outputs = step(method, team, size=13)
    maps, _ = method.exits(outputs[STUDENT], team.extra)
    assert {feature.shape[2:] for feature in maps} == {torch.Size((4, 4))}
    assert torch.isfinite(terms["feature"])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"ce": 0.9, "exit_ce": 0.9, "exit_kd": 0.1, "feature": 1e-6}),
        ({"form": "mean"}, {"ce": 0.9, "exit_ce": 0.9, "exit_kd": 0.1, "feature": 0.03}),
        ({"form": "official", "alpha": 0.3}, {"ce": 1.0, "exit_ce": 0.7, "exit_kd": 0.3, "feature": 0.03}),
        ({"feature_weight": 0.5}, {"ce": 0.9, "exit_ce": 0.9, "exit_kd": 0.1, "feature": 0.5}),
    ],
)
def test_weights_belong_to_the_form(settings, expected):
    method = BYOT(card("byot").resolve(settings, "test"))
    assert {term: method.weight(term, START) for term in expected} == pytest.approx(expected)


def test_one_exit_is_too_few():
    with pytest.raises(UserError, match="two or more maps, the deepest last, found stage2"):
        ready(BYOT, "byot", {STUDENT: net(2)}, exits=["stage2"])


# --- several teachers -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def logits():
    """Student logits (B,C), teachers' (K,B,C) and labels (B,), float64."""
    rng = np.random.default_rng(6)
    return rng.normal(size=(5, 4)) * 2, rng.normal(size=(3, 5, 4)) * 3, rng.integers(0, 4, size=5)


def image_divergences(student, targets, temperature):
    return temperature**2 * np.array([kl(softmax(t / temperature), softmax(student / temperature)) for t in targets])


def test_divergences_of_every_teacher_and_image(logits):
    student, targets, _ = logits
    found = divergences(*tensors(student, targets), 4.0)
    np.testing.assert_allclose(found.numpy(), image_divergences(student, targets, 4.0), rtol=1e-10)


def test_divergences_are_finite_where_softmax_underflows():
    student = torch.tensor([[0.0, -3000.0]], requires_grad=True)
    found = divergences(student, torch.tensor([[[-3000.0, 0.0]]]), 1.0)
    found.sum().backward()
    assert found.item() == pytest.approx(3000.0)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("average", ["divergences", "probabilities", "logits"])
def test_average_of_teachers(logits, average):
    student, targets, _ = logits
    p = softmax(student / 2)
    if average == "divergences":
        expected = image_divergences(student, targets, 2.0).mean()
    else:
        q = softmax(targets / 2).mean(axis=0) if average == "probabilities" else softmax(targets.mean(axis=0) / 2)
        expected = 4 * kl(q, p).mean()
    assert average_loss(*tensors(student, targets), 2.0, average).item() == pytest.approx(expected, rel=1e-10)


def test_averages_of_divergences_and_of_probabilities_have_one_gradient(logits):
    student, targets, _ = logits
    found = []
    for average in ("divergences", "probabilities", "logits"):
        z = torch.tensor(student, requires_grad=True)
        average_loss(z, torch.tensor(targets), 2.0, average).backward()
        found.append(z.grad)
    torch.testing.assert_close(found[0], found[1])
    assert not torch.allclose(found[0], found[2])


@pytest.mark.parametrize(("form", "scale"), [("plain", 1.0), ("released", 1 / 3), ("normalised", 1 / 2)])
def test_ebkd_equals_plain_loops(logits, form, scale):
    student, targets, _ = logits
    expected, pairs = 0.0, image_divergences(student, targets, 4.0)
    for image in range(5):
        entropy = [-(softmax(t[image]) * np.log(softmax(t[image]))).sum() for t in targets]
        for k in range(3):
            expected += scale * (1 - entropy[k] / sum(entropy)) * pairs[k, image] / 5
    assert ebkd_loss(*tensors(student, targets), 4.0, form).item() == pytest.approx(expected, rel=1e-9)


def test_ebkd_weights_stay_finite_where_every_teacher_is_certain():
    certain = torch.tensor([[[4000.0, 0.0]], [[0.0, 4000.0]]])
    torch.testing.assert_close(entropy_weights(certain, "plain"), torch.full((2, 1), 0.5))
    unsure = torch.tensor([[[4000.0, 0.0]], [[0.0, 0.0]]])
    torch.testing.assert_close(entropy_weights(unsure, "plain"), torch.tensor([[1.0], [0.0]]))


@pytest.mark.parametrize(("form", "scale"), [("paper", 1.0), ("released", 1 / 3)])
def test_ca_mkd_equals_plain_loops(logits, form, scale):
    student, targets, labels = logits
    rng = np.random.default_rng(7)
    own, read = ([rng.normal(size=(5, c, s, s)) for c, s in ((2, 4), (3, 2), (4, 1))] for _ in range(2))
    losses = np.array([[-np.log(softmax(t[b])[labels[b]]) for b in range(5)] for t in targets])
    kd = feature = 0.0
    pairs = image_divergences(student, targets, 4.0)
    for b in range(5):
        shares = np.exp(losses[:, b]) / np.exp(losses[:, b]).sum()
        for k in range(3):
            weight = scale * (1 - shares[k]) / 2
            kd += weight * pairs[k, b] / 5
            feature += weight * ((own[k][b] - read[k][b]) ** 2).mean() / 5
    weights = confidence_weights(torch.tensor(losses), form)
    torch.testing.assert_close(weights.sum(dim=0), torch.full((5,), scale, dtype=torch.float64))
    assert camkd_loss(*tensors(student, targets), weights, 4.0).item() == pytest.approx(kd, rel=1e-10)
    assert feature_loss(tensors(*own), tensors(*read), weights).item() == pytest.approx(feature, rel=1e-10)


@pytest.mark.parametrize("features", ["map", "embedding"])
def test_ca_mkd_weighs_features_by_what_each_classifier_makes_of_the_connected_map(features):
    torch.manual_seed(0)
    wide = build_model(ModelSettings(arch="wrn_16_1"), CLASSES, SIZE)
    models = {STUDENT: net(2), teacher(0): net(3, (1, 2, 1)), teacher(1): wide}
    method, team = ready(CAMKD, "ca_mkd", models, features=features)
    taps = ("stage3", "stage3", "stage3.pre") if features == "map" else ("embedding",) * 3
    assert [team.taps[role] for role in models] == [(tap,) for tap in taps]
    terms, outputs = step(method, team)
    own, losses, distances = outputs[STUDENT].taps[taps[0]], [], []
    for k, connector in enumerate(team.extra["connectors"]):
        target = outputs[teacher(k)].taps[taps[k + 1]]
        target = target.relu() if taps[k + 1].endswith("pre") else target
        if features == "map":
            target = nn.functional.adaptive_avg_pool2d(target, own.shape[2:])
            connected = connector(own)
        else:
            connected, target = connector(own[:, :, None, None]), target[:, :, None, None]
        assert (connected >= 0).all()
        labels = torch.arange(6) % CLASSES
        read = models[teacher(k)].fc(connected.mean(dim=(2, 3)))
        losses.append(nn.functional.cross_entropy(read, labels, reduction="none"))
        distances.append((connected - target).square().mean(dim=(1, 2, 3)))
    shares = torch.stack(losses).softmax(dim=0)
    expected = ((1 - shares) / 2 * torch.stack(distances)).sum(dim=0).mean()
    torch.testing.assert_close(terms["feature"], expected)


def test_ca_mkd_takes_networks_of_any_kind():
    torch.manual_seed(0)
    vit = build_model(ModelSettings(arch="timm:test_vit"), CLASSES, 32)
    models = {STUDENT: net(2), teacher(0): vit, teacher(1): net(3)}
    method, team = ready(CAMKD, "ca_mkd", models, 32)
    terms, _ = step(method, team, size=32)
    assert all(torch.isfinite(value) for value in terms.values())
    assert isinstance(team.extra["connectors"][0].activation, nn.Identity), "a norm's output may be negative"


def test_ca_mkd_leaves_features_out_of_the_first_epoch():
    method = CAMKD(card("ca_mkd").resolve({}, "test"))
    assert [method.weight("feature", Progress(e, 9)) for e in (0.0, 0.99, 1.0)] == [0.0, 0.0, 50.0]
    assert method.weight("kd", START) == 1.0
    assert CAMKD(card("ca_mkd").resolve({"first_epoch": True}, "test")).weight("feature", START) == 50.0


# --- AEKD -----------------------------------------------------------------------------------------


def gram_of(vectors):
    vectors = torch.as_tensor(vectors, dtype=torch.float64)
    return vectors @ vectors.T


def brute_force(gram, cap, steps):
    """Return the smallest squared length over a grid of weights within bounds."""
    gram, best = gram.numpy(), np.inf
    for counts in itertools.product(range(steps + 1), repeat=len(gram) - 1):
        weights = np.array([*counts, steps - sum(counts)]) / steps
        if weights[-1] >= 0 and weights.max() <= cap + 1e-12:
            best = min(best, weights @ gram @ weights)
    return best


@pytest.mark.parametrize(("vectors", "cap", "steps"), [(2, 0.6, 2000), (3, 0.6, 150), (3, 1.0, 150), (4, 0.3, 40)])
@pytest.mark.parametrize("seed", range(4))
def test_min_norm_is_within_bounds_and_no_grid_point_is_shorter(vectors, cap, steps, seed):
    gram = gram_of(np.random.default_rng(seed).normal(size=(vectors, 3)) + seed)
    found = MinNorm(vectors, cap)(gram)
    assert found.sum().item() == pytest.approx(1.0, abs=1e-6)
    assert found.min() >= 0
    assert found.max() <= cap
    length, shortest = (found @ gram @ found).item(), brute_force(gram, cap, steps)
    scale = gram.diagonal().max().item()
    assert length <= shortest + 1e-6 * scale
    assert length >= shortest - 0.05 * scale, "the grid is fine enough to mean something"


@pytest.mark.parametrize("vectors", [5, 8])
def test_min_norm_of_many_vectors_satisfies_the_optimality_conditions(vectors):
    """The gradient G a is the multiplier where a is free, no smaller at 0 and no larger at the cap."""
    cap = 0.4
    gram = gram_of(np.random.default_rng(vectors).normal(size=(vectors, 20)) + 0.5)
    found = MinNorm(vectors, cap)(gram)
    slope = gram @ found
    free = (found > 1e-6) & (found < cap - 1e-6)
    level = slope[free].mean()
    tolerance = 1e-5 * gram.diagonal().max()
    assert (slope[free] - level).abs().max() < tolerance
    assert (slope[found <= 1e-6] >= level - tolerance).all()
    assert (slope[found >= cap - 1e-6] <= level + tolerance).all()


@pytest.mark.parametrize(
    ("first", "second", "cap", "expected"),
    [
        ((2.0, 0.0), (0.0, 1.0), 1.0, 0.2),  # at right angles: inversely to the squared lengths
        ((2.0, 0.0), (0.0, 1.0), 0.6, 0.4),  # the second one at the cap
        ((1.0, 0.0), (-1.0, 0.0), 0.6, 0.5),  # opposite: they cancel
        ((3.0, 0.0), (1.0, 0.0), 1.0, 0.0),  # the longer of two in one direction adds nothing
        ((1.0, 2.0), (1.0, 2.0), 0.6, 0.5),  # equal: the most even weights
        ((0.0, 0.0), (0.0, 0.0), 0.9, 0.5),  # the student agrees with both
        ((5.0, 1.0), (0.0, 1.0), 0.5, 0.5),  # a cap of one half averages
    ],
)
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_min_norm_of_two_vectors(first, second, cap, expected, scale):
    found = MinNorm(2, cap)(gram_of([first, second]) * scale**2)
    np.testing.assert_allclose(found.numpy(), [expected, 1 - expected], atol=1e-5)


@pytest.mark.parametrize("gradient", ["mean", "full"])
def test_logit_gradients_are_those_of_the_losses(logits, gradient):
    student, targets, _ = logits
    found = logit_gradients(*tensors(student, targets), 4.0, gradient)
    for k, target in enumerate(targets):
        z = torch.tensor(student, requires_grad=True)
        divergences(z, torch.tensor(target)[None], 4.0).mean().backward()
        expected = z.grad.sum(dim=0) if gradient == "mean" else len(student) * z.grad.flatten()
        torch.testing.assert_close(found[k], expected)


def aekd(teachers, **settings):
    method = AEKD(card("aekd").resolve(settings, "test"), teachers)
    labels = torch.zeros(1, dtype=torch.int64)
    return method, method.build(Context(CLASSES, labels, {}, {}, {}))


@pytest.mark.parametrize("gradient", ["mean", "full"])
def test_aekd_combines_the_losses_with_the_min_norm_weights(logits, gradient):
    student, targets, labels = logits
    method, extra = aekd(3, gradient=gradient)
    z = torch.tensor(student, requires_grad=True)
    outputs = {STUDENT: Output(z, {})} | {teacher(k): Output(torch.tensor(t), {}) for k, t in enumerate(targets)}
    y = torch.tensor(labels)
    loss = loss_of(method, STUDENT, Batch(z, y, y, y), outputs, extra, START)["kd"]
    slopes = 4 * np.array([softmax(student / 4) - softmax(t / 4) for t in targets])
    vectors = slopes.mean(axis=1) if gradient == "mean" else slopes.reshape(3, -1)
    weights = MinNorm(3, 0.6)(gram_of(vectors)).numpy()
    losses = image_divergences(student, targets, 4.0).mean(axis=1)
    assert loss.item() == pytest.approx(weights @ losses, rel=1e-8)
    loss.backward()  # the weights are constants to it
    np.testing.assert_allclose(z.grad.numpy(), np.einsum("k,kbc->bc", weights, slopes) / 5, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("teachers", "settings", "message"),
    [
        (3, {"tolerance": 0.3}, "with tolerance 0.3 the weights of 3 teachers cannot add up to 1, allowed are .* 1/3"),
        (9, {}, "takes 2 to 8 teachers, found 9"),
    ],
)
def test_what_aekd_cannot_solve_is_a_user_error(teachers, settings, message):
    with pytest.raises(UserError, match=message):
        aekd(teachers, **settings)


def test_the_least_tolerance_averages():
    _, extra = aekd(4, tolerance=0.25)
    gram = gram_of(np.random.default_rng(0).normal(size=(4, 6)))
    np.testing.assert_allclose(extra["solver"](gram).numpy(), 0.25, atol=1e-6)


@pytest.mark.parametrize(("kind", "name"), [(AvgKD, "avg_kd"), (EBKD, "ebkd"), (AEKD, "aekd"), (CAMKD, "ca_mkd")])
def test_three_teachers_of_different_shapes(kind, name):
    models = {STUDENT: net(2), teacher(0): net(3), teacher(1): net(4, (1, 1, 2)), teacher(2): net(3, (1, 2, 1))}
    method, team = ready(kind, name, models)
    terms, _ = step(method, team)
    assert terms["kd"].shape == ()
    assert all(torch.isfinite(value) for value in terms.values())
    (terms["kd"] + terms["ce"]).backward()
    assert team.models[STUDENT].stem[0].weight.grad.abs().sum() > 0
    assert all(p.grad is None for k in range(3) for p in team.models[teacher(k)].parameters())
