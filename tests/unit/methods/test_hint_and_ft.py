"""FitNets' regressors and stages; factor transfer's pre-stage and modules."""

import pytest
import torch
from steps import fitted, loss_of

from kd.methods._connectors import hint_regressor
from kd.methods.contract import STUDENT, Batch, Context, Output, Progress, teacher
from kd.methods.ft import FT, Frozen
from kd.methods.hint import Hint, hint_loss
from kd.schema.cards import card
from kd.tools.errors import UserError


def context_of(**maps):
    """Return a context in which each role has one map, 'stage2' and last."""
    return Context(
        num_classes=4,
        labels=torch.zeros(8, dtype=torch.int64),
        shapes={role: {"stage2": torch.Size(shape)} for role, shape in maps.items()},
        taps=dict.fromkeys(maps, ("stage2",)),
        stages=dict.fromkeys(maps, ("stage2",)),
    )


@pytest.mark.parametrize(
    ("student", "target", "kernel", "kind"),
    [
        ((4, 8, 8), (6, 8, 8), (1, 1), torch.nn.Conv2d),
        ((4, 16, 16), (6, 8, 8), (3, 3), torch.nn.Conv2d),
        ((4, 4, 4), (6, 8, 8), (4, 4), torch.nn.ConvTranspose2d),
        ((4, 11, 9), (6, 8, 8), (4, 2), torch.nn.Conv2d),
        ((4, 2, 2), (6, 1, 1), (3, 3), torch.nn.Conv2d),
        ((4, 8, 4), (6, 4, 4), (5, 1), torch.nn.Conv2d),
    ],
)
def test_regressor_gives_the_teachers_shape(student, target, kernel, kind):
    regressor = hint_regressor(torch.Size(student), torch.Size(target), "test")
    assert isinstance(regressor[0], kind)
    assert regressor[0].kernel_size == kernel
    found = regressor(torch.randn(2, *student))
    assert found.shape == (2, *target)
    assert (found >= 0).all()


@pytest.mark.parametrize(("student", "target"), [((4, 4, 4), 16), ((4, 7, 7), 8), ((4, 4, 8), 8)])
def test_no_regressor_to_a_larger_map_of_another_ratio(student, target):
    with pytest.raises(UserError, match=r"where: no regressor leads from student maps of \dx\d to teacher maps of"):
        hint_regressor(torch.Size(student), torch.Size((6, target, target)), "where")


def test_a_missing_regressor_is_named_by_its_taps():
    method = Hint(card("hint").resolve({}, "test"))
    context = context_of(student=(4, 3, 3), teacher0=(6, 8, 8))
    with pytest.raises(UserError, match="method hint, taps stage2 and stage2"):
        fitted(method, context)


def test_hint_loss_is_the_mean_square_summed_over_taps():
    zeros, ones = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    assert hint_loss([zeros, zeros], [ones, 2 * ones]).item() == pytest.approx(1 + 4)


def test_two_stage_trains_hints_first_and_lowers_the_weight_of_distillation():
    method = Hint(card("hint").resolve({"two_stage": True, "hint_epochs": 7}, "test"))
    first, second = method.plan()
    assert (first.name, first.selects, first.recipe["epochs"]) == ("hint", False, 7)
    assert second.selects
    assert second.trained() == {STUDENT}
    weights = [method.weight("kd", Progress(epoch, 10)) for epoch in (0.0, 5.0, 10.0)]
    assert weights == pytest.approx([4.0, 2.5, 1.0])


def ft_in(context, **settings):
    method = FT(card("ft").resolve(settings, "test"))
    return method, fitted(method, context)[1]


PRE_STAGE, MAIN = context_of(teacher0=(6, 4, 4)), context_of(student=(4, 4, 4), teacher0=(6, 4, 4))


def test_the_trained_paraphraser_loads_into_the_main_stage():
    _, before = ft_in(PRE_STAGE)
    _, after = ft_in(MAIN)
    after["paraphraser"].load_state_dict(before["paraphraser"].state_dict())
    assert isinstance(after["paraphraser"], Frozen)
    assert set(before) == {"paraphraser"}
    feature = torch.randn(2, 6, 4, 4)
    assert torch.equal(after["paraphraser"](feature), before["paraphraser"].module.encoder(feature))


def test_the_frozen_paraphraser_stays_in_eval_without_gradient():
    _, extra = ft_in(MAIN)
    extra.train()
    assert not any(module.training for module in extra["paraphraser"].modules())
    assert not any(p.requires_grad for p in extra["paraphraser"].parameters())
    assert all(p.requires_grad for p in extra["translator"].parameters())


@pytest.mark.parametrize(("rate", "factors"), [(0.5, 3), (1.0, 6), (0.01, 1)])
def test_factors_are_a_share_of_the_teachers_channels(rate, factors):
    _, extra = ft_in(MAIN, rate=rate)
    feature = torch.randn(2, 6, 4, 4)
    assert extra["paraphraser"](feature).shape == (2, factors, 4, 4)
    assert extra["translator"](torch.randn(2, 4, 4, 4)).shape == (2, factors, 4, 4)
    norms = [m for m in extra.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == 3, "the translator has BatchNorm, the paraphraser none"


def test_the_pre_stage_learns_to_reconstruct():
    torch.manual_seed(0)
    method, extra = ft_in(PRE_STAGE, rate=1.0)
    stage = method.pretrain_plan()
    outputs = {teacher(0): Output(torch.zeros(8, 4), {"stage2": torch.rand(8, 6, 4, 4)})}
    labels = torch.zeros(8, dtype=torch.int64)
    batch = Batch(torch.zeros(8, 3, 8, 8), labels, labels, labels)
    optimizer = torch.optim.SGD(extra.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        terms = loss_of(method, stage.updates[0].name, batch, outputs, extra)
        assert set(terms) == {"reconstruction"}
        terms["reconstruction"].backward()
        optimizer.step()
        losses.append(terms["reconstruction"].item())
    assert losses[-1] < 0.8 * losses[0]
    assert method.weight("reconstruction", Progress(0.0, 1)) == 1.0
    assert not stage.selects
