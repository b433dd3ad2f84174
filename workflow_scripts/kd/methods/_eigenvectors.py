"""Leading eigenvectors of many small symmetric matrices, in two ways with one gradient.

The exact gradient divides by the gaps between eigenvalues; here 1/g is g / (g^2 + c^2) with c a small share of the
largest eigenvalue, so it stays finite where eigenvalues are equal.
"""

from typing import Any

import torch
from torch import Tensor

from kd.methods._features import unit

CLOSE = 1e-5
"""Gap of two eigenvalues, as a share of the largest, below which the gradient is damped."""
ROUNDS, SQUARINGS = 6, 4
"""A matrix is squared so many times in so many rounds: its power of 2^24 tells eigenvalues apart down to one part in a
million, and even a round, from norm one, stays far from zero and infinity."""
ROUNDING = 1e-13
"""What of a matrix's trace is left of nothing once its eigenvectors are taken out, in float64."""


def damping(largest: Tensor) -> Tensor:
    """Return c^2 for the largest eigenvalues."""
    return (CLOSE * largest).square().clamp(min=torch.finfo(largest.dtype).tiny)


class Decomposed(torch.autograd.Function):
    """Eigenvectors (B,n,k) of the k largest eigenvalues of symmetric matrices (B,n,n), by LAPACK."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, count: int) -> Tensor:
        """Return the eigenvectors, largest eigenvalue first."""
        # A diverged network is told by its loss, not by a decomposition that fails.
        values, vectors = torch.linalg.eigh(torch.nan_to_num(matrix))
        values, vectors = values.flip(-1), vectors.flip(-1)
        ctx.save_for_backward(values, vectors)
        return vectors[..., :count]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the matrix from that of the eigenvectors."""
        (gradient,) = gradients
        values, vectors = ctx.saved_tensors
        count = gradient.shape[-1]
        gaps = values[..., None, :count] - values[..., :, None]
        weights = gaps / (gaps.square() + damping(values[..., :1, None]))
        turned = vectors @ (weights * (vectors.mT @ gradient)) @ vectors[..., :count].mT
        return (turned + turned.mT) / 2, None


class Squared(torch.autograd.Function):
    """The same for matrices (B,n,n) without negative eigenvalues, by products of matrices alone.

    Nothing is read back to the host, which every decomposition of torch's does on a GPU to learn how it went. Where a
    matrix has fewer eigenvalues above zero than are asked for, the further eigenvectors are zero.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, count: int) -> Tensor:
        """Return the eigenvectors, largest eigenvalue first: each taken out of what the ones before it leave."""
        found, rest = [], matrix
        nothing = ROUNDING * _trace(matrix)
        for _ in range(count):
            vector = dominant(rest)
            found.append(vector)
            taken = vector @ vector.mT
            rest = rest - (rest * taken).sum(dim=(1, 2), keepdim=True) * taken
            rest = torch.where(_trace(rest) > nothing, rest, 0.0)
        vectors = torch.cat(found, dim=2)
        ctx.save_for_backward(matrix, vectors)
        return vectors

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the matrix: M (M^2 + c^2)^-1 of each eigenvector's, M its eigenvalue minus it."""
        (gradient,) = gradients
        matrix, vectors = ctx.saved_tensors
        values = (vectors * (matrix @ vectors)).sum(dim=1)
        identity = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
        gaps = values[:, :, None, None] * identity - matrix[:, None]
        system = gaps @ gaps + damping(values[:, :1, None, None]) * identity
        moved = solved(system, gaps @ gradient.mT[..., None])
        turned = moved.squeeze(3).mT @ vectors.mT
        return (turned + turned.mT) / 2, None


def dominant(matrix: Tensor) -> Tensor:
    """Return the eigenvectors (B,n,1) of the largest eigenvalues of matrices (B,n,n) that have none below zero.

    A high power of such a matrix is v v' times a number, so that each of its columns is the eigenvector v: the longest
    is taken. Zero matrices have the vector zero.
    """
    power = matrix
    for _ in range(ROUNDS):
        norm = torch.linalg.vector_norm(power, dim=(1, 2), keepdim=True)
        power = power / norm.clamp(min=torch.finfo(power.dtype).tiny)
        for _ in range(SQUARINGS):
            power = power @ power
    longest = power.diagonal(dim1=1, dim2=2).argmax(dim=1)[:, None, None]
    column = power.gather(2, longest.expand(-1, len(matrix[0]), 1))
    return unit(column / column.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(power.dtype).tiny), dim=1)


def solved(system: Tensor, right: Tensor) -> Tensor:
    """Return the solutions (...,n,m) of systems (...,n,n) that are symmetric with all eigenvalues above zero.

    Gauss and Jordan's elimination, which for such systems needs no choice of pivots, and so nothing of the host.
    """
    table = torch.cat([system, right], dim=-1)
    size = system.shape[-1]
    for k in range(size):
        row = table[..., k : k + 1, :] / table[..., k : k + 1, k : k + 1]
        table = table - table[..., :, k : k + 1] * row
        table[..., k : k + 1, :] = row
    return table[..., size:]


def _trace(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None]
