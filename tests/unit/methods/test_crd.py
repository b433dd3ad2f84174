"""CRD: what is drawn and how often, the loss, the constants Z and the memories."""

import math

import numpy as np
import pytest
import torch
from steps import fitted, loss_of

from kd.methods.contract import STUDENT, Batch, Context, Output, teacher
from kd.methods.crd import CRD, Memory, Sampler, nce_loss
from kd.schema.cards import card
from kd.tools.errors import UserError

SIZES = (12, 10, 8)  # images of three classes, in shuffled places
DRAWS = 3000


@pytest.fixture(scope="module")
def labels():
    unshuffled = torch.repeat_interleave(torch.arange(3), torch.tensor(SIZES))
    return unshuffled[torch.randperm(len(unshuffled), generator=torch.Generator().manual_seed(5))]


def drawn(labels, negatives, mode="exact"):
    """Return (DRAWS,3,N): how often each image was a negative of an anchor of each class, and the positives."""
    sampler = Sampler(labels, 3, negatives)
    anchors = torch.tensor([int((labels == c).nonzero()[0]) for c in range(3)])
    torch.manual_seed(0)
    counts, positives = torch.zeros(DRAWS, 3, len(labels)), torch.zeros(DRAWS, 3, dtype=torch.int64)
    for i in range(DRAWS):
        contrast = sampler.contrast(labels[anchors], anchors, mode)
        counts[i, :, contrast.images] = contrast.counts
        positives[i] = contrast.positives
    return counts, positives


def assert_frequency(found, expected, variance):
    """Frequencies of DRAWS draws lie within five standard errors."""
    bound = 5 * math.sqrt(variance / DRAWS)
    assert (found - expected).abs().max().item() < bound


def test_negatives_without_replacement_are_uniform_sets_of_other_classes(labels):
    negatives = 15
    counts, _ = drawn(labels, negatives)
    assert counts.max() == 1, "drawn twice although there are enough"
    assert (counts.sum(dim=2) == negatives).all()
    for c, size in enumerate(SIZES):
        assert counts[:, c, labels == c].sum() == 0, "an image of the anchor's own class"
        others, m = counts[:, c, labels != c], len(labels) - size
        share = negatives / m
        assert_frequency(others.mean(dim=0), share, share * (1 - share))
        pairs = (others.T @ others / DRAWS)[~torch.eye(m, dtype=torch.bool)]
        share = negatives * (negatives - 1) / (m * (m - 1))  # of a uniform set, not only uniform margins
        assert_frequency(pairs, share, share * (1 - share))


def test_too_few_images_of_other_classes_are_drawn_with_replacement(labels):
    negatives = 40
    counts, _ = drawn(labels, negatives)
    assert (counts.sum(dim=2) == negatives).all()
    for c, size in enumerate(SIZES):
        assert counts[:, c, labels == c].sum() == 0
        others, m = counts[:, c, labels != c], len(labels) - size
        variance = negatives / m * (1 - 1 / m)  # multinomial
        assert_frequency(others.mean(dim=0), negatives / m, variance)
        assert others.var(dim=0).mean().item() == pytest.approx(variance, rel=0.05)


def test_replacement_is_decided_class_by_class(labels):
    counts, _ = drawn(labels, 20)  # other classes hold 18, 20 and 22 images
    assert (counts.sum(dim=2) == 20).all()
    assert counts[:, 0].max() > 1
    assert (counts[:, 1, labels != 1] == 1).all()
    assert counts[:, 2].max() == 1


def test_the_positive_is_the_image_itself_or_any_of_its_class(labels):
    _, exact = drawn(labels, 5)
    assert (exact == exact[0]).all()
    assert labels[exact[0]].tolist() == [0, 1, 2]
    _, relaxed = drawn(labels, 5, "relax")
    for c, size in enumerate(SIZES):
        frequency = torch.bincount(relaxed[:, c], minlength=len(labels)) / DRAWS
        assert (frequency[labels != c] == 0).all()
        assert_frequency(frequency[labels == c], 1 / size, (1 - 1 / size) / size)


def test_draws_follow_the_global_generator(labels):
    sampler = Sampler(labels, 3, 5)
    state = torch.get_rng_state()
    first = sampler.contrast(labels[:4], torch.arange(4), "relax")
    torch.set_rng_state(state)
    second = sampler.contrast(labels[:4], torch.arange(4), "relax")
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_one_class_is_a_user_error():
    with pytest.raises(UserError, match="all training images are of one class"):
        Sampler(torch.ones(6, dtype=torch.int64), 3, 4)


def test_nce_equals_the_formula_written_out():
    rng = np.random.default_rng(0)
    positive, negative = rng.normal(size=4) * 5, rng.normal(size=(4, 6)) * 5
    counts = np.array([[1, 0, 2, 0, 1, 1], [0, 1, 1, 1, 1, 1], [5, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 1]], dtype=float)
    z, noise, epsilon, total = 37.0, 5 / 50, 1e-7, 0.0
    for i in range(4):
        p = math.exp(positive[i]) / z
        total -= math.log(p / (p + noise + epsilon))
        for k in range(6):
            p = math.exp(negative[i, k]) / z
            total -= counts[i, k] * math.log(noise / (p + noise + epsilon))
    tensors = [torch.tensor(value, dtype=torch.float64) for value in (positive, negative, counts, z)]
    assert nce_loss(*tensors, noise).item() == pytest.approx(total / 4, rel=1e-10)


def test_nce_is_finite_at_the_extremes():
    positive = torch.tensor([50.0, -50.0], requires_grad=True)
    negative = torch.tensor([[50.0, -50.0], [50.0, 50.0]], requires_grad=True)
    loss = nce_loss(positive, negative, torch.ones(2, 2), torch.tensor(1e3), 0.3)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(positive.grad).all()
    assert torch.isfinite(negative.grad).all()


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_memory_moves_the_rows_of_the_batch_only(momentum):
    memory = Memory(6, 4)
    before, positions = memory.student.clone(), torch.tensor([4, 1])
    new = torch.nn.functional.normalize(torch.randn(2, 4), dim=1)
    memory.remember(memory.student, positions, new, momentum)
    moved = momentum * before[positions] + (1 - momentum) * new
    torch.testing.assert_close(memory.student[positions], moved / moved.norm(dim=1, keepdim=True))
    assert torch.equal(memory.student[[0, 2, 3, 5]], before[[0, 2, 3, 5]])


def world_of(labels, seed):
    """Return a batch of eight images with random outputs of student and teacher."""
    generator = torch.Generator().manual_seed(seed)
    positions = torch.randperm(len(labels), generator=generator)[:8]
    outputs = {
        role: Output(torch.randn(8, 3, generator=generator), {"embedding": torch.randn(8, width, generator=generator)})
        for role, width in ((STUDENT, 5), (teacher(0), 7))
    }
    return Batch(torch.zeros(8, 3, 2, 2), labels[positions], positions, labels[positions]), outputs


def run(method, extra, labels, seed):
    """Return the crd term of one batch of random features."""
    batch, outputs = world_of(labels, seed)
    return loss_of(method, STUDENT, batch, outputs, extra)["crd"]


def crd(labels, **settings):
    method = CRD(card("crd").resolve({"negatives": 15, "embedding_size": 4, **settings}, "test"))
    shapes = {STUDENT: {"embedding": torch.Size([5])}, teacher(0): {"embedding": torch.Size([7])}}
    context = Context(3, labels, shapes, dict.fromkeys(shapes, ("embedding",)), dict.fromkeys(shapes, ()))
    return method, fitted(method, context)[1]


def test_z_is_fixed_by_the_first_batch_and_in_the_checkpoint(labels):
    method, extra = crd(labels)
    state = extra.state_dict()
    assert {"memory.student", "memory.teacher", "memory.z_student", "memory.z_teacher"} <= set(state)
    assert state["memory.z_student"] < 0
    run(method, extra, labels, seed=0)
    first = {key: value.clone() for key, value in extra.state_dict().items() if ".z_" in key}
    assert all(value > 0 for value in first.values())
    run(method, extra, labels, seed=1)
    assert all(torch.equal(extra.state_dict()[key], value) for key, value in first.items())


def test_logits_can_be_embedded_without_any_tap(labels):
    method, extra = crd(labels, embed="logits")
    assert extra["teacher"].linear.in_features == 3
    assert torch.isfinite(run(method, extra, labels, seed=0))


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_each_side_is_compared_with_the_others_bank_and_remembered_in_its_own(labels, momentum):
    method, extra = crd(labels, momentum=momentum)
    batch, outputs = world_of(labels, seed=0)
    banks = {side: extra["memory"].get_buffer(side).double().numpy().copy() for side in ("student", "teacher")}
    state = torch.get_rng_state()
    found = run(method, extra, labels, seed=0).item()
    torch.set_rng_state(state)
    contrast = extra["sampler"].contrast(batch.labels, batch.positions, "exact")
    expected, n, size, tau = 0.0, len(labels), 15, 0.07
    for side, other, role in (("student", "teacher", STUDENT), ("teacher", "student", teacher(0))):
        embedded = extra[side](outputs[role].taps["embedding"]).detach().double().numpy()
        scores = np.exp(embedded @ banks[other].T / tau)
        own = [scores[i, batch.positions[i]] for i in range(8)]
        negatives = [scores[i, contrast.images[contrast.counts[i] > 0]] for i in range(8)]
        z = (sum(own) + sum(scored.sum() for scored in negatives)) / (8 * (size + 1)) * n
        for positive, scored in zip(own, negatives, strict=True):
            p, p_k, m = positive / z, scored / z, size / n
            expected -= (math.log(p / (p + m + 1e-7)) + np.log(m / (p_k + m + 1e-7)).sum()) / 8
        moved = momentum * banks[side][batch.positions] + (1 - momentum) * embedded
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
        np.testing.assert_allclose(extra["memory"].get_buffer(side)[batch.positions].numpy(), moved, atol=1e-5)
    assert found == pytest.approx(expected, rel=1e-4)
