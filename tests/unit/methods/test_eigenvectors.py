"""Leading eigenvectors by products of matrices: LAPACK's, with LAPACK's gradient, and nothing that a GPU waits for."""

import pytest
import torch
from operators import recorded

from kd.methods import kdsvd
from kd.methods._eigenvectors import Decomposed, Squared, solved
from kd.methods.kdsvd import kdsvd_loss, leading_directions, teacher_directions

WAYS = [Decomposed, Squared]


def rectified(*shape, seed=0):
    """Maps as they are behind a ReLU, in float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).clamp(min=0)


def gram(count, size, positions):
    rows = rectified(count, size, positions)
    return rows @ rows.mT


def found(way, matrix, count):
    """Return eigenvectors with the first component positive, and the matrix's gradient of some function of them."""
    own = matrix.clone().requires_grad_()
    vectors = way.apply(own, count)
    vectors = vectors * vectors.detach()[:, :1].sign()
    weight = torch.linspace(-1, 1, vectors.numel(), dtype=vectors.dtype).sin().view(vectors.shape)
    (vectors * weight).sum().backward()
    return vectors.detach(), own.grad


@pytest.mark.parametrize(("size", "positions", "count"), [(3, 12, 3), (6, 36, 4), (16, 16, 4), (33, 70, 5)])
def test_products_of_matrices_find_what_a_decomposition_finds(size, positions, count):
    matrix = gram(4, size, positions)
    (vectors, gradient), (expected, its_gradient) = (found(way, matrix, count) for way in (Squared, Decomposed))
    torch.testing.assert_close(vectors, expected, rtol=1e-9, atol=1e-9)
    # both are damped at the same small gaps; squares of gaps cost the linear equations half their digits
    torch.testing.assert_close(gradient, its_gradient, rtol=1e-5, atol=1e-6 * its_gradient.abs().max().item())


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_a_matrix_may_be_small_or_large(scale):
    matrix = gram(2, 5, 20)
    torch.testing.assert_close(found(Squared, scale * matrix, 2)[0], found(Squared, matrix, 2)[0])


@pytest.mark.parametrize("way", WAYS)
def test_equal_eigenvalues_take_a_finite_gradient_and_others_the_exact_one(way):
    matrix = torch.diag(torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64))[None].requires_grad_()
    way.apply(matrix, 2).square().sum(dim=-1)[0, 0].backward()
    assert torch.isfinite(matrix.grad).all()
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(2, 4, 4, generator=generator, dtype=torch.float64)
    # A sign-free function of the leading eigenvectors, of a matrix kept symmetric.
    weight = torch.randn(4, 4, generator=generator, dtype=torch.float64)

    def projected(x):
        vectors = way.apply(x @ x.mT, 2)
        return (vectors @ vectors.mT * weight).sum()

    assert torch.autograd.gradcheck(projected, [half.requires_grad_()], rtol=1e-4, atol=1e-6)


def test_directions_that_a_matrix_lacks_are_zero_and_take_no_gradient():
    rows = torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    matrix = torch.stack([rows @ rows.mT, torch.zeros(3, 3, dtype=torch.float64)]).requires_grad_()
    vectors = Squared.apply(matrix, 3)
    vectors.sum().backward()
    expected = torch.stack([torch.diag(torch.tensor([1.0, 1.0, 0.0])), torch.zeros(3, 3)]).double()
    torch.testing.assert_close(vectors.detach().abs(), expected)
    assert torch.isfinite(matrix.grad).all()
    assert not matrix.grad[1].any()


def test_equations_are_solved_without_pivots():
    system = gram(3, 7, 20) + torch.eye(7, dtype=torch.float64)
    right = rectified(3, 7, 2, seed=1)
    torch.testing.assert_close(solved(system, right), torch.linalg.solve(system, right))


# --- the method, as a GPU runs it ---------------------------------------------------------------------


@pytest.fixture
def elsewhere(monkeypatch):
    """Let the method run as it does where the host is another machine than the device."""
    monkeypatch.setattr(kdsvd, "on_host", lambda feature: False)


SHAPES = [(4, 3, 4, 4), (4, 5, 4, 4), (4, 8, 2, 2)]
"""More positions than channels, and fewer."""


@pytest.mark.parametrize("k", [1, 2])
def test_loss_and_gradient_are_those_of_decompositions_up_to_the_teachers_signs(monkeypatch, elsewhere, k):
    student, target = ([rectified(*shape, seed=seed) for shape in SHAPES] for seed in (1, 2))

    def signed(feature, count):
        directions, values = teacher_directions(feature, count)
        turned = torch.where(directions.sum(dim=1, keepdim=True) > 0, -directions, directions)
        return turned, values

    results = []
    for host in (True, False):
        monkeypatch.setattr(kdsvd, "on_host", lambda feature, host=host: host)
        with monkeypatch.context() as patch:
            patch.setattr(kdsvd, "teacher_directions", signed)
            own = [feature.clone().requires_grad_() for feature in student]
            loss = kdsvd_loss(own, target, k)
            loss.backward()
        results.append([loss.detach(), *(feature.grad for feature in own)])
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-7)


def test_nothing_of_the_loss_waits_for_a_device(elsewhere):
    student, target = ([rectified(*shape, seed=seed).float() for shape in SHAPES] for seed in (1, 2))

    def step():
        kdsvd_loss([feature.requires_grad_() for feature in student], target).backward()

    assert recorded(step).unfit == []


def test_signs_are_those_of_most_decompositions_of_rectified_maps(elsewhere):
    directions, values = teacher_directions(rectified(5, 4, 6, 6), 2)
    assert (directions.sum(dim=1) <= 0).all()
    torch.testing.assert_close(values.square().sum(dim=1), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(leading_directions(rectified(5, 4, 6, 6), 2).abs(), directions.abs())
