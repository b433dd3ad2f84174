"""The loss of a task against independent maths."""

import pytest
import torch
from steps import loss_of
from torch.nn import functional as F

from kd.continual.ewc import Anchors
from kd.continual.method import BALANCE, PREVIOUS, Incremental
from kd.methods.contract import STUDENT, Batch, Output, Progress, teacher
from kd.study.continual import Strategy

OLD, SEEN = 3, 5
GENERATOR = torch.Generator().manual_seed(0)
STUDENT_LOGITS = torch.randn(6, SEEN, generator=GENERATOR, dtype=torch.float64)
PREVIOUS_LOGITS = torch.randn(6, OLD, generator=GENERATOR, dtype=torch.float64)
TEACHER_LOGITS = torch.randn(6, 8, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.tensor([0, 3, 4, 1, 3, 4])
ORDER = torch.tensor([7, 2, 0, 5, 1])


def terms(strategy, phase="train", kept=None, **more):
    method = Incremental(Strategy(name="one", **strategy), 1, OLD, SEEN, phase, labels=ORDER, **more)
    outputs = {STUDENT: Output(STUDENT_LOGITS, {})}
    if method.settings.prev_kd_weight:
        outputs[PREVIOUS] = Output(PREVIOUS_LOGITS, {})
    if method.settings.targets == "teacher":
        outputs[teacher(0)] = Output(TEACHER_LOGITS, {})
    batch = Batch(torch.zeros(6, 3, 2, 2), LABELS, torch.arange(6), LABELS, teacher_logits=kept)
    return loss_of(method, STUDENT, batch, outputs)


def kl(target, student, temperature):
    p, q = (target / temperature).softmax(1), (student / temperature).softmax(1)
    return temperature**2 * (p * (p / q).log()).sum(1).mean()


def test_fine_tuning_is_cross_entropy_over_seen_classes():
    found = terms({})
    assert found.keys() == {"ce"}
    torch.testing.assert_close(found["ce"], F.cross_entropy(STUDENT_LOGITS, LABELS))


def test_current_classes_decide_among_themselves_and_replayed_images_among_all():
    new = LABELS >= OLD
    own = F.cross_entropy(STUDENT_LOGITS[new][:, OLD:], LABELS[new] - OLD, reduction="sum")
    old = F.cross_entropy(STUDENT_LOGITS[~new], LABELS[~new], reduction="sum")
    torch.testing.assert_close(terms({"ce_classes": "current"})["ce"], (own + old) / 6)


def test_balanced_fine_tuning_decides_among_all():
    torch.testing.assert_close(terms({"ce_classes": "current"}, phase=BALANCE)["ce"], terms({})["ce"])


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_previous_student_is_distilled_over_its_classes(temperature):
    found = terms({"prev_kd_weight": 0.5, "prev_kd_temperature": temperature})
    torch.testing.assert_close(found["prev_kd"], kl(PREVIOUS_LOGITS, STUDENT_LOGITS[:, :OLD], temperature))


@pytest.mark.parametrize("kept", [None, TEACHER_LOGITS[None]], ids=["live teacher", "logits of a chain"])
def test_targets_are_distilled_over_seen_classes_in_their_order(kept):
    settings = {"targets": "teacher" if kept is None else "asib", "target_temperature": 2.0}
    expected = kl(TEACHER_LOGITS[:, [7, 2, 0, 5, 1]], STUDENT_LOGITS, 2.0)
    torch.testing.assert_close(terms(settings, kept=kept)["target"], expected)


def test_the_ewc_penalty_is_a_term():
    method_anchors = Anchors({"w": torch.tensor([2.0])}, {"w": torch.tensor([1.0])}, torch.tensor(0.5))
    method = Incremental(Strategy(name="one", ewc_weight=3.0), 0, OLD, SEEN, anchors=method_anchors)
    method.parameters = {"w": torch.nn.Parameter(torch.tensor([4.0]))}
    batch = Batch(torch.zeros(6, 3, 2, 2), LABELS, torch.arange(6), LABELS)
    found = loss_of(method, STUDENT, batch, {STUDENT: Output(STUDENT_LOGITS, {})})
    assert found["ewc"].item() == 2 * 3**2 + 0.5
    assert method.weight("ewc", Progress(0, 1)) == 3.0


def test_balanced_fine_tuning_asks_for_balanced_batches():
    settings = Strategy(name="one", replay_capacity=10, balance_epochs=2, balance_lr=0.01)
    assert Incremental(settings, 0, OLD, SEEN).wants().groups is None
    balanced = Incremental(settings, 0, OLD, SEEN, BALANCE)
    assert balanced.wants().groups.kind == "balanced"
    (stage,) = balanced.plan()
    assert (stage.recipe["epochs"], stage.recipe["lr"], stage.selects) == (2, 0.01, False)
