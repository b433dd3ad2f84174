"""WKD-L: distances between classes, and the cost of carrying probability from one class to another."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from steps import fitted, loss_of

from kd.engine.resolve import build_method, method_class
from kd.methods._classes import target_term
from kd.methods.contract import STUDENT, Batch, Context, Output, Progress, teacher
from kd.methods.wkd_l import (
    centred_rows,
    cka_distances,
    cosine_distances,
    members_of,
    others,
    transport_cost,
    transport_term,
)
from kd.schema.cards import card
from kd.study.job_settings import MethodPart
from kd.tools.errors import UserError

LABELS = torch.tensor([0, 2, 1, 2, 0, 1, 2])


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def sinkhorn_by_loops(s, t, labels, cost, temperature, strength, rounds):
    """Return the cost of every image with row and column of its label cut out of the matrix."""
    found = []
    for own, target, label in zip(s, t, labels, strict=True):
        left = [c for c in range(len(own)) if c != label]
        q, p = softmax(own[left] / temperature), softmax(target[left] / temperature)
        c = np.maximum(cost[np.ix_(left, left)], 0) + 1e-8
        kernel, u = np.exp(-c / strength), np.full(len(left), 1 / len(left))
        for _ in range(rounds):
            v = p / (kernel.T @ u + 1e-8)
            u = q / (kernel @ v + 1e-8)
        found.append(sum(u[i] * kernel[i, j] * v[j] * c[i, j] for i in range(len(left)) for j in range(len(left))))
    return np.array(found)


def drawn(seed=0, batch=5, classes=6):
    """Return logits of student and teacher, labels, and costs that are not symmetric."""
    rng = np.random.default_rng(seed)
    s, t = rng.normal(size=(2, batch, classes)) * 3
    cost = rng.uniform(0, 1, size=(classes, classes))
    np.fill_diagonal(cost, 0.0)
    return s, t, rng.integers(0, classes, batch), cost


@pytest.mark.parametrize("rounds", [1, 10])
def test_the_cost_is_that_of_matrices_cut_at_each_label(rounds):
    s, t, labels, cost = drawn()
    y = torch.tensor(labels)
    own, known = (others(torch.tensor(z), y, 3.0) for z in (s, t))
    found = transport_cost(own, known, y, torch.tensor(cost), 0.1, rounds)
    np.testing.assert_allclose(found, sinkhorn_by_loops(s, t, labels, cost, 3.0, 0.1, rounds), rtol=1e-9)


def test_the_gradient_runs_through_all_rounds_and_not_into_the_teacher():
    s, t, labels, cost = drawn(1, batch=3, classes=4)
    own, known = (torch.tensor(z, requires_grad=True) for z in (s, t))
    transport_term(own, known, torch.tensor(labels), torch.tensor(cost), 2.0, 0.1, 4).backward()
    assert known.grad is None
    for place in np.ndindex(s.shape):
        shift = np.zeros_like(s)
        shift[place] = 1e-6
        ends = [sinkhorn_by_loops(s + sign * shift, t, labels, cost, 2.0, 0.1, 4).mean() for sign in (1, -1)]
        assert own.grad[place].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-8)


def test_many_rounds_with_little_entropy_carry_only_what_is_too_much():
    # between two classes beside the label the exact transport moves |q_0 - p_0| at their cost
    s, t, _, _ = drawn(2, batch=1, classes=3)
    y, cost = torch.tensor([2]), 0.6 * (1 - torch.eye(3, dtype=torch.float64))
    q, p = (softmax(z[0, :2])[0] for z in (s, t))
    found = transport_cost(*(others(torch.tensor(z), y, 1.0) for z in (s, t)), y, cost, 0.05, 3000)
    assert found.item() == pytest.approx(0.6 * abs(q - p), rel=1e-3)


def test_the_least_entropy_that_is_allowed_does_not_underflow():
    strength, rng = card("wkd_l").settings["sinkhorn_lambda"].min, np.random.default_rng(4)
    s, t = rng.normal(size=(2, 4, 12)) * 3
    y, cost = torch.zeros(4, dtype=torch.int64), rng.uniform(0.3, 0.6, size=(12, 12)) * (1 - np.eye(12))
    own, known = (others(torch.tensor(z, dtype=torch.float32), y, 8.0) for z in (s, t))
    found = transport_cost(own, known, y, torch.tensor(cost, dtype=torch.float32), strength, 100)
    q, p = (np.log(softmax(z[:, 1:] / 8.0))[:, None] for z in (s, t))
    kernel, u = -cost[None, 1:, 1:] / strength, np.zeros((4, 11))
    for _ in range(100):
        v = p[:, 0] - logsumexp(u[:, :, None] + kernel, axis=1)
        u = q[:, 0] - logsumexp(v[:, None, :] + kernel, axis=2)
    expected = (np.exp(u[:, :, None] + kernel + v[:, None, :]) * cost[1:, 1:]).sum(axis=(1, 2))
    assert expected.min() > 0.02
    np.testing.assert_allclose(found, expected, rtol=0.1)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("scale", [0.0, 1e4])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_loss_and_gradient_are_finite_for_equal_and_for_huge_logits(classes, scale, kind):
    s, t, labels, cost = drawn(3, batch=1, classes=classes)
    own = torch.tensor(scale * s, dtype=torch.float32).requires_grad_()
    known, y, matrix = torch.tensor(scale * t).to(kind), torch.tensor(labels), torch.tensor(cost, dtype=torch.float32)
    loss = target_term(own, known, y) + transport_term(own, known, y, matrix, 8.0, 0.05, 10)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(own.grad).all()


# --- distances ------------------------------------------------------------------------------------


def cka_by_numpy(first, second):
    a, b = (x - x.mean(axis=0) for x in (first, second))
    return np.sum((a.T @ b) ** 2) / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))


@pytest.mark.parametrize("shape", [(3, 2, 2), (5,)])
@pytest.mark.parametrize("most", [1, 10**6])
def test_distances_are_1_minus_linear_cka_of_images_in_order(shape, most):
    features = np.random.default_rng(4).normal(size=(len(LABELS), *shape))
    members = members_of(LABELS, 3)
    assert [positions.tolist() for positions in members] == [[0, 4], [2, 5], [1, 3]]
    found = cka_distances(members, lambda positions: centred_rows(torch.tensor(features[positions])), most)
    rows = [np.concatenate([features[i].reshape(shape[0], -1).T for i in positions]) for positions in members]
    expected = [[0 if i == j else 1 - cka_by_numpy(a, b) for j, b in enumerate(rows)] for i, a in enumerate(rows)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_classes_without_images_or_variation_are_at_distance_1():
    features = torch.ones(4, 2, 1, 1)
    features[1] = 3.0
    members = members_of(torch.tensor([0, 0, 1, 1]), 3)
    found = cka_distances(members, lambda positions: centred_rows(features[positions]))
    assert found.tolist() == (1 - torch.eye(3)).tolist()


def test_a_classifiers_distances_are_1_minus_the_cosine_of_its_rows():
    found = cosine_distances(torch.tensor([[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 1.0], [2.0, 1.0, 0.0]]))


# --- the method -----------------------------------------------------------------------------------


def method(**settings):
    return method_class("wkd_l")(card("wkd_l").resolve(settings, "test"))


def context_of(*roles):
    maps = {"stage1": torch.Size((2, 2, 2)), "embedding": torch.Size((2,))}
    return Context(
        num_classes=3,
        labels=LABELS,
        shapes=dict.fromkeys(roles, maps),
        taps=dict.fromkeys(roles, tuple(maps)),
        stages=dict.fromkeys(roles, ("stage1",)),
    )


def test_only_the_pre_stage_reads_the_teachers_maps():
    assert method().taps(context_of(teacher(0))) == {teacher(0): ("stage1",)}
    assert method().taps(context_of(STUDENT, teacher(0))) == {}
    assert method(distances="classifier").taps(context_of(teacher(0))) == {}


def test_costs_are_sharpened_distances_and_terms_are_weighed_apart():
    built = method(sharpness=2.0, temperature=3.0, sinkhorn_lambda=0.1, sinkhorn_iterations=4, wkd_weight=7.0)
    _, extra = fitted(built, context_of(STUDENT, teacher(0)))
    s, t, labels, distances = drawn(5, classes=3)
    extra["distances"].values.copy_(torch.tensor(distances))
    y = torch.tensor(labels)
    batch = Batch(torch.zeros(5, 3, 2, 2), y, torch.arange(5), y)
    own, known = (torch.tensor(z, dtype=torch.float32) for z in (s, t))
    outputs = {STUDENT: Output(own, {}), teacher(0): Output(known, {})}
    found = loss_of(built, STUDENT, batch, outputs, extra)
    costs = 1 - np.exp(-2 * distances.astype(np.float32))
    expected = sinkhorn_by_loops(s, t, labels, costs, 3.0, 0.1, 4).mean()
    assert found["wkd"].item() == pytest.approx(expected, rel=1e-5)
    of_label = [softmax(z)[np.arange(5), labels] for z in (s, t)]
    assert found["target"].item() == pytest.approx(-(of_label[1] * np.log(of_label[0])).mean(), rel=1e-5)
    assert [built.weight(term, Progress(0.0, 10)) for term in found] == [1.0, 1.0, 7.0]


@pytest.mark.parametrize(
    ("epoch", "share"), [(0.0, 1.0), (149.5, 1.0), (150.0, 0.99970), (194.0, 0.5), (239.0, 0.0), (239.9, 0.0)]
)
def test_transport_fades_after_epoch_150_of_240(epoch, share):
    built = method()
    assert built.weight("wkd", Progress(epoch, 240)) == pytest.approx(600 * share, abs=0.01)
    assert built.weight("target", Progress(epoch, 240)) == 1.0
    assert method(decay_from=1.0).weight("wkd", Progress(epoch, 240)) == 600


def test_two_pre_stages_of_different_kinds_cannot_be_combined():
    parts = [MethodPart(card=name, settings=card(name).resolve({}, name).model_dump()) for name in ("ft", "wkd_l")]
    with pytest.raises(UserError, match="ft, wkd_l have pre-stages of their own and cannot be combined"):
        build_method(parts, 1)
