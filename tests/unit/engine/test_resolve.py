"""Methods by their cards, and several of them as one."""

import pytest
import torch
from torch import nn

from kd.engine.resolve import build_method
from kd.methods.contract import STUDENT, Deploys, Heads, Method, Momenta, Output, Outputs, Progress, Scheduled, Seen
from kd.schema.cards import card
from kd.study.job_settings import MethodPart

HOOKS = (Deploys, Heads, Momenta, Scheduled)


def combined(*names):
    return build_method(
        [MethodPart(card=name, settings=card(name).resolve({}, name).model_dump()) for name in names], 1
    )


@pytest.mark.parametrize(
    ("names", "hooks"),
    [
        (("kd", "at"), set()),
        (("ce", "simkd"), {Deploys}),
        (("kd", "byot"), {Heads}),
        (("kd", "dot"), {Momenta}),
        (("at", "ctkd", "byot"), {Heads, Scheduled}),
    ],
)
def test_a_combination_has_the_hooks_of_its_methods_and_no_others(names, hooks):
    method = combined(*names)
    assert {hook for hook in HOOKS if isinstance(method, hook)} == hooks
    assert not isinstance(Method(method.settings), HOOKS)


def test_schedules_of_a_combination_are_named_by_their_methods():
    assert set(combined("kd", "ctkd").schedule(Progress(0.0, 10))) == {"ctkd.reversal"}


def test_features_are_what_a_method_named_in_its_order():
    taps = {f"stage{k}": torch.full((2, 3), float(k)) for k in (1, 2, 3)}
    outputs = Outputs({STUDENT: Output(torch.zeros(2, 4), taps, nn.Identity())})
    seen = Seen(outputs, {"strong": outputs}).narrowed({STUDENT: ("stage3", "stage1")})
    for found in (seen.outputs.student, seen.views["strong"].student):
        assert [feature[0, 0].item() for feature in found.features] == [3.0, 1.0]
        assert isinstance(found.classifier, nn.Identity)
    assert seen.narrowed({}).outputs.student.features == []
