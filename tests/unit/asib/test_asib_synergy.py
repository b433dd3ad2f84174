"""What the synergy starts from, which images it is fitted on and taught on, and what its logits are divided by."""

import copy
import logging
from dataclasses import replace

import pytest
import torch
from asib_world import CLASSES, World, batch_of, method_of, separable, split
from scipy.optimize import minimize_scalar
from torch import nn
from torch.distributions import Categorical

from kd.asib import losses
from kd.asib.modules import Parts
from kd.methods.avg_kd import average_loss
from kd.methods.contract import STUDENT
from kd.schema.cards import card
from kd.study.chain import STUDENT_UPDATE, TEACHER_UPDATE
from kd.tools.errors import UserError


@pytest.fixture
def batch():
    return separable(24)


def still(world):
    """Put everything in eval mode, in which a batch always gives the same, and return the world."""
    for module in world.modules().values():
        module.eval()
    return world


def synergy_of(world, batch):
    return world.method.heads(world.outputs(batch.images), world.extra)["synergy"]


def mean_entropy(logits):
    return losses.entropies(logits).mean()


def taught_of(world, batch):
    return world.method.taught(world.outputs(batch.images), world.extra, batch.positions)


# --- what it starts from --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["IB", "VIB", "GATE", "MLP", "LA"])
@pytest.mark.parametrize("more", [{}, {"cross_fit": True}, {"fusion_share": 0.5}, {"synergy_temp_learnable": True}])
def test_the_first_target_is_the_average_bit_for_bit(kind, more, batch):
    bottleneck = kind not in {"MLP", "LA"}
    world = still(World(method_of(3, mbm_type=kind, use_ib=bottleneck, synergy_base="average", **more), (10, 6, 7)))
    logits = [output.logits for output in world.outputs(batch.images).teachers]
    expected = torch.stack(logits).mean(dim=0)
    assert torch.equal(synergy_of(world, batch), expected)
    assert torch.equal(taught_of(world, batch), expected)
    assert torch.equal(world.method.heads(world.outputs(batch.images), world.extra)["average"], expected)


def test_the_student_is_first_taught_what_averaged_logits_teach(batch):
    world = still(World(method_of(2, synergy_base="average", tau_start=3.0)))
    outputs = world.outputs(batch.images)
    target = torch.stack([output.logits for output in outputs.teachers])
    expected = average_loss(outputs[STUDENT].logits, target, 3.0, "logits")
    torch.testing.assert_close(world.terms(STUDENT_UPDATE, batch)["kd"], expected, rtol=1e-6, atol=1e-7)


def test_the_surer_teacher_weighs_more_in_a_base_of_certainty(batch):
    world = still(World(method_of(3, synergy_base="certainty"), (10, 6, 7)))
    logits = torch.stack([output.logits for output in world.outputs(batch.images).teachers])
    entropy = Categorical(logits=logits).entropy()
    weights = (1 - entropy / entropy.sum(0)) / 2
    torch.testing.assert_close(weights.sum(0), torch.ones(24))
    expected = (weights[..., None] * logits).sum(0)
    torch.testing.assert_close(synergy_of(world, batch), expected)
    assert not torch.allclose(expected, logits.mean(0))


def test_one_teacher_is_its_own_average(batch):
    for base in ("average", "certainty"):
        world = still(World(method_of(1, synergy_base=base), (10,)))
        assert torch.equal(synergy_of(world, batch), world.outputs(batch.images).teacher.logits)


def test_the_head_learns_from_its_zeros(batch):
    """Every part of the fusion moves once the last layer has."""
    world = World(method_of(2, synergy_base="average", adapt_teachers=False, teacher_adapt_alpha_kd=0.0))
    before = copy.deepcopy(world.extra.state_dict())
    world.train(TEACHER_UPDATE, split(separable(320), 32), epochs=2, lr=1e-3)
    assert all(not torch.equal(value, before[name]) for name, value in world.extra.state_dict().items())
    assert world.synergy_accuracy(separable(500, seed=7)) > 50, "untrained teachers are at chance, 20 %"


def test_teachers_that_do_not_adapt_stay_as_they_are(batch):
    world = World(method_of(2, synergy_base="average", adapt_teachers=False))
    before = copy.deepcopy(world.nets["teacher0"].state_dict())
    world.train(TEACHER_UPDATE, split(batch, 12))
    assert all(torch.equal(value, before[name]) for name, value in world.nets["teacher0"].state_dict().items())


def test_adapting_teachers_are_trained_through_the_base(batch):
    world = World(method_of(2, synergy_base="average"))
    world.enter(world.method.half_stage(TEACHER_UPDATE))
    world.terms(TEACHER_UPDATE, batch)["synergy_ce"].backward()
    assert world.nets["teacher1"].head.weight.grad.abs().sum() > 0, "published forms read its embedding alone"


def test_the_term_that_holds_the_synergy_to_the_average(batch):
    world = still(World(method_of(2, synergy_kd_alpha=0.5)))
    outputs = world.outputs(batch.images)
    target = torch.stack([output.logits for output in outputs.teachers])
    expected = average_loss(synergy_of(world, batch), target, 4.0, "logits")
    torch.testing.assert_close(world.terms(TEACHER_UPDATE, batch)["synergy_kd"], expected)
    world.enter(world.method.half_stage(TEACHER_UPDATE))
    world.terms(TEACHER_UPDATE, batch)["synergy_kd"].backward()
    assert world.nets["teacher0"].head.weight.grad is None, "the average is a constant"


# --- which images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.5, 0.3, 0.01])
def test_parts_have_their_share_of_every_class(share):
    labels = torch.randint(7, (1001,), generator=torch.Generator().manual_seed(3))
    torch.manual_seed(1)
    first = Parts(labels, share).first
    for of_class in (labels == k for k in range(7)):
        assert abs(first[of_class].sum().item() - share * of_class.sum().item()) < 1 + share
    assert first.sum().item() == int(1001 * share)
    torch.manual_seed(1)
    assert torch.equal(first, Parts(labels, share).first), "drawn from the generator that was seeded"
    assert not torch.equal(first, Parts(labels, share).first), "and not by position"


def fitted_by(world, batch):
    """Return which fusions get a gradient from a batch in the teacher update."""
    world.enter(world.method.half_stage(TEACHER_UPDATE))
    world.extra.zero_grad()
    world.loss(TEACHER_UPDATE, batch).backward()
    moved = {name for name, p in world.extra.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    return {name.split(".")[0] for name in moved}


def of_part(world, batch, first):
    chosen = world.extra["parts"].first[batch.positions] == first
    assert 0 < chosen.sum() < len(chosen)
    return batch_of(batch.images[chosen], batch.labels[chosen], batch.positions[chosen])


ADAPTED = {"use_distillation_adapter": True, "feat_kd_alpha": 0.5, "feat_kd_key": "query", "cccp_alpha": 0.3}


def test_each_fusion_is_fitted_on_its_half_alone(batch):
    world = World(method_of(2, cross_fit=True, **ADAPTED))
    assert fitted_by(world, of_part(world, batch, True)) == {"adapters", "mbm", "head"}
    assert fitted_by(world, of_part(world, batch, False)) == {"adapters_second", "mbm_second", "head_second"}
    assert fitted_by(world, batch) == {name for name in world.extra if name != "parts"}


def test_an_images_target_is_of_the_fusion_that_was_not_fitted_on_it(batch):
    world = still(World(method_of(2, cross_fit=True)))
    before = {split: made(world, batch) for split, made in (("train", taught_of), ("validation", synergy_of))}
    with torch.no_grad():
        world.extra["head_second"].net[-1].bias.add_(1.0)
    first = world.extra["parts"].first[batch.positions]
    moved = taught_of(world, batch) - before["train"]
    torch.testing.assert_close(moved, first[:, None].float().expand(-1, CLASSES))
    moved = synergy_of(world, batch) - before["validation"]
    torch.testing.assert_close(moved, torch.full_like(moved, 0.5))


@pytest.mark.parametrize("given", [{"cross_fit": True}, {"fusion_share": 0.5}])
@pytest.mark.parametrize("share", [0.2, 0.8, torch.tensor(0.2, dtype=torch.float64)])
def test_a_mixed_image_is_taught_as_the_image_is_that_it_is_mostly_of(given, share, batch):
    world = still(World(method_of(2, **given)))
    others = batch.positions.flip(0)
    mixed = replace(batch, other_positions=others, other_labels=batch.labels.flip(0), mixing=share)
    mostly = others if share < 0.5 else batch.positions
    outputs = world.outputs(batch.images)
    target = world.method.taught(outputs, world.extra, mostly)
    assert not torch.allclose(target, world.method.taught(outputs, world.extra, batch.positions + others - mostly))
    expected = losses.soft_kl(outputs[STUDENT].logits, target, 4.0).mean()
    torch.testing.assert_close(world.terms(STUDENT_UPDATE, mixed)["kd"], expected)


def test_the_student_learns_from_those_targets(batch):
    given = {"cross_fit": True, "rkd_loss_weight": 1.0, "feat_kd_alpha": 0.5, "feat_kd_key": "query"}
    world = still(World(method_of(2, **given)))
    outputs = world.outputs(batch.images)
    terms = world.terms(STUDENT_UPDATE, batch)
    torch.testing.assert_close(
        terms["kd"], losses.soft_kl(outputs[STUDENT].logits, taught_of(world, batch), 4.0).mean()
    )
    first = world.extra["parts"].first[batch.positions][:, None]
    taps = [outputs[role].taps["embedding"] for role in (STUDENT, "teacher0", "teacher1")]
    one, other = (world.extra[name](taps[0], taps[1:]) for name in ("mbm", "mbm_second"))
    query, answer, logvar = (
        torch.where(first, getattr(other, key), getattr(one, key)) for key in ("query", "answer", "logvar")
    )
    expected = (losses.certainty(logvar) * (query - answer).square().mean(1)).mean()
    torch.testing.assert_close(terms["feature"], expected)


def test_a_fusion_with_a_part_of_its_own_is_fitted_on_that_alone(batch):
    world = World(method_of(2, fusion_share=0.5, ib_beta=0.1, **ADAPTED))
    assert fitted_by(world, of_part(world, batch, True)) == {"adapters", "mbm", "head"}
    assert fitted_by(world, of_part(world, batch, False)) == set()
    for module in world.modules().values():
        module.eval()
    whole, own = (world.terms(TEACHER_UPDATE, one) for one in (batch, of_part(world, batch, True)))
    for name, value in own.items():
        torch.testing.assert_close(whole[name], value, msg=name)


def test_the_images_of_that_part_are_taught_by_the_average(batch):
    world = still(World(method_of(2, fusion_share=0.5)))
    first = world.extra["parts"].first[batch.positions]
    average = world.method.heads(world.outputs(batch.images), world.extra)["average"]
    taught, synergy = taught_of(world, batch), synergy_of(world, batch)
    assert torch.equal(taught[first], average[first])
    assert torch.equal(taught[~first], synergy[~first])
    assert not torch.allclose(synergy, average)


def test_no_code_of_those_images_is_a_target(batch):
    proj = {"use_student_proj": True, "latent_alpha": 0.3, "feat_kd_alpha": 0.5, "feat_kd_key": "proj"}
    world = still(World(method_of(2, fusion_share=0.5, **proj)))
    whole = world.terms(STUDENT_UPDATE, batch)
    others = world.terms(STUDENT_UPDATE, of_part(world, batch, False))
    for name in ("feature", "latent_angle"):
        torch.testing.assert_close(whole[name], others[name], msg=name)
    alone = world.terms(STUDENT_UPDATE, of_part(world, batch, True))
    assert all(alone[name] == 0 for name in ("feature", "latent_mse", "latent_angle"))


def test_the_entropy_is_matched_over_the_images_that_the_synergy_teaches(batch):
    world = still(World(method_of(2, fusion_share=0.5, synergy_scale="entropy", tau_start=2.0)))
    first = world.extra["parts"].first[batch.positions]
    images = batch.images.clone()
    images[first] *= 30  # a fusion is surer of what it was fitted on
    taught = taught_of(world, replace(batch, images=images))
    average = world.method.heads(world.outputs(images), world.extra)["average"]
    made, wanted = (mean_entropy(logits[~first] / 2.0) for logits in (taught, average))
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=0)
    assert torch.equal(taught[first], average[first])


def test_a_share_of_no_image_is_refused():
    with pytest.raises(UserError, match=r"fusion_share 0.0001 leaves no image of 4096 to fit a fusion on"):
        World(method_of(2, fusion_share=0.0001))


def test_the_parts_are_kept_with_the_fusions_state():
    one, other = (World(method_of(2, cross_fit=True), seed=seed).extra for seed in (1, 2))
    assert not torch.equal(one["parts"].first, other["parts"].first)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one["parts"].first, other["parts"].first)


# --- what the logits are divided by ---------------------------------------------------------------------


def test_entropy_and_the_scale_that_matches_it():
    torch.manual_seed(0)
    logits, target = 3 * torch.randn(64, 10, dtype=torch.float64), torch.randn(64, 10, dtype=torch.float64)
    torch.testing.assert_close(mean_entropy(target), Categorical(logits=target).entropy().mean())
    scale = losses.matching_scale(logits, target)
    torch.testing.assert_close(mean_entropy(logits / scale), mean_entropy(target), rtol=1e-5, atol=0)
    assert losses.matching_scale(5 * target, target).item() == pytest.approx(5, rel=1e-5)
    assert losses.matching_scale(target / 5, target).item() == pytest.approx(0.2, rel=1e-5)


def test_the_fitted_scale_has_the_least_cross_entropy():
    torch.manual_seed(0)
    logits, labels = 4 * torch.randn(500, 10, dtype=torch.float64), torch.randint(10, (500,))
    logits[torch.arange(500), labels] += 4.0

    def loss(log_scale):
        return nn.functional.cross_entropy(logits / 2.0**log_scale, labels).item()

    found = minimize_scalar(loss, bounds=(-6, 6), method="bounded", options={"xatol": 1e-9})
    assert losses.fitted_scale(logits, labels).item() == pytest.approx(2.0**found.x, rel=1e-5)


def test_a_scale_is_bounded_where_every_answer_is_right_or_wrong():
    logits, labels = 5 * nn.functional.one_hot(torch.arange(10), 10).float(), torch.arange(10)
    assert losses.fitted_scale(logits, labels).item() == pytest.approx(2**-6, rel=1e-3)
    assert losses.fitted_scale(-logits, labels).item() == pytest.approx(2**6, rel=1e-3)


def test_softened_targets_have_the_entropy_of_the_averaged_teachers(batch):
    world = still(World(method_of(2, synergy_scale="entropy", tau_start=2.0)))
    with torch.no_grad():
        world.extra["head"].net[-1].weight.mul_(20)
    average = world.method.heads(world.outputs(batch.images), world.extra)["average"]
    made = mean_entropy(taught_of(world, batch) / 2.0)
    torch.testing.assert_close(made, mean_entropy(average / 2.0), rtol=1e-4, atol=0)


@pytest.mark.parametrize("cross_fit", [False, True])
def test_a_learned_scale_stands_in_the_state_and_divides_the_target_alone(cross_fit, batch):
    method = method_of(2, synergy_scale="learned", cross_fit=cross_fit)
    world = still(World(method))
    raw = synergy_of(world, batch)
    world_terms = world.terms(TEACHER_UPDATE, batch)
    halves = split(batch, 12)
    seen = [(world.outputs(half.images), half.labels) for half in halves]
    method.calibrate(method.half_stage(STUDENT_UPDATE), seen, world.extra)
    assert torch.equal(synergy_of(world, batch), raw), "a student update leaves it"
    with torch.no_grad():
        method.calibrate(method.half_stage(TEACHER_UPDATE), seen, world.extra)
    scales = [world.extra.state_dict()[f"{head}.scale"] for head in world.extra if head.startswith("head")]
    assert len(scales) == 1 + cross_fit
    if not cross_fit:
        torch.testing.assert_close(synergy_of(world, batch), raw / scales[0])
        torch.testing.assert_close(scales[0].double(), losses.fitted_scale(raw, batch.labels))
    found = method.observe(world.outputs(batch.images), batch.labels, world.extra)
    assert found["synergy_scale"].mean().item() == pytest.approx(sum(s.item() for s in scales) / len(scales))
    for name, value in world.terms(TEACHER_UPDATE, batch).items():
        assert torch.equal(value, world_terms[name]), name


# --- the gate -------------------------------------------------------------------------------------------


def judged(caplog, synergy, average, given=None, **settings):
    method = method_of(2, **settings)
    validation = {"synergy": synergy, "average": average, "teacher0": 70.0}
    if given is not None:
        validation["given/average"] = given
    labels = torch.arange(200) % CLASSES
    with caplog.at_level(logging.INFO):
        method.accept(method.half_stage(TEACHER_UPDATE), validation, labels, CLASSES)
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_a_synergy_below_the_average_is_told_and_stops_the_chain_if_asked(caplog):
    ((level, said),) = judged(caplog, 71.0, 72.5)
    assert level == "WARNING"
    assert "synergy accuracy 71.00 % on 200 validation images, average of the teachers' logits 72.50 %" in said
    with pytest.raises(UserError, match="it is below what costs no training"):
        judged(caplog, 71.0, 72.5, gate="average")
    with pytest.raises(UserError, match=r"72\.50 % before they adapted"):
        judged(caplog, 71.0, 70.0, given=72.5, gate="average")


def test_a_synergy_that_reaches_the_average_is_told_too(caplog):
    ((level, said),) = judged(caplog, 72.5, 72.5, gate="average")
    assert (level, "below" in said) == ("INFO", False)
    caplog.clear()
    ((level, _),) = judged(caplog, 71.0, 72.5, gate="average", gate_margin=1.5)
    assert level == "INFO"


def test_of_teachers_that_stay_as_they_are_the_average_before_is_todays(caplog):
    """It was read without folding their normalisation, and may lie an image above for nothing but rounding."""
    ((level, said),) = judged(caplog, 72.0, 72.0, given=72.5, form="residual")
    assert (level, "72.50" in said) == ("INFO", False)
    for still in ({"adapt_teachers": False}, {"train_distill_adapter_only": True, "use_distillation_adapter": True}):
        caplog.clear()
        assert judged(caplog, 72.0, 72.0, given=72.5, gate="average", **still)[0][0] == "INFO"
    with pytest.raises(UserError, match=r"72\.50 % before they adapted"):
        judged(caplog, 72.0, 72.0, given=72.5, gate="average", adapt_teachers=True)


def test_a_synergy_at_chance_stops_the_chain_in_every_case(caplog):
    for gate in ("chance", "average"):
        with pytest.raises(UserError, match="does not beat chance"):
            judged(caplog, 20.0, 15.0, gate=gate)


FORMS = {
    "residual": ("average", False, 0.0, "best", "average"),
    "published": ("none", True, 0.1, "last", "chance"),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_the_two_forms_are(form):
    """The one starts from averaged logits and asks for them at least, the other is that of the systems before."""
    keys = ("synergy_base", "adapt_teachers", "teacher_adapt_alpha_kd", "teacher_keeps", "gate")
    found = card("asib").resolve({"form": form}, "test").model_dump()
    assert tuple(found[key] for key in keys) == FORMS[form]
    default = card("asib").resolve({}, "test").model_dump()
    assert default["form"] == "residual"
    assert {key for key in found if found[key] != default[key]} == ({"form", *keys} if form == "published" else set())
