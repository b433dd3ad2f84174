"""AEKD: several teachers weighted so that their gradients conflict least (Du et al. 2020)."""

import itertools

import torch
from torch import Tensor, nn

from kd.methods._teams import all_logits, divergences
from kd.methods.contract import Context, Method, Step
from kd.tools.errors import UserError

MOST_TEACHERS = 8
RIDGE = 1e-9
SLACK = 1e-6


class MinNorm(nn.Module):
    """Solves min 1/2 |sum_k a_k g_k|^2 over 0 <= a_k <= cap with sum 1, for a handful of vectors g_k, exactly.

    At the optimum every weight is 0, at the cap, or free; with that known, the free ones solve linear equations (the
    conditions of Karush, Kuhn and Tucker). All such patterns are solved at once on the device and the best of those
    within bounds is taken: no iteration, and nothing is read back.
    """

    free: Tensor
    fixed: Tensor

    def __init__(self, vectors: int, cap: float) -> None:
        super().__init__()
        assert cap * vectors >= 1 - SLACK, "the weights must be able to add up to 1"
        choices = [p for p in itertools.product((0.0, cap, None), repeat=vectors) if None in p]
        patterns = [p for p in choices if sum(value or 0.0 for value in p) <= 1 + SLACK]
        self.cap = cap
        self.register_buffer("free", torch.tensor([[v is None for v in p] for p in patterns]), persistent=False)
        fixed = torch.tensor([[v or 0.0 for v in p] for p in patterns], dtype=torch.float64)
        self.register_buffer("fixed", fixed, persistent=False)

    @torch.no_grad()
    def forward(self, gram: Tensor) -> Tensor:
        """Return the weights (K,) for the products <g_i, g_j> (K,K), all float64; zero vectors weigh the same."""
        unit = gram / gram.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
        # Among weights that give the same vector the ridge chooses the most even ones.
        found = self.candidates(unit + RIDGE * torch.eye(len(gram), dtype=torch.float64, device=gram.device))
        within = (found.isfinite() & (found >= -SLACK) & (found <= self.cap + SLACK)).all(dim=1)
        values = torch.einsum("pi,ij,pj->p", found, unit, found) + RIDGE * found.square().sum(dim=1)
        best = torch.where(within, values, torch.inf).argmin()
        return found.index_select(0, best[None])[0].clamp(0, self.cap)

    def candidates(self, gram: Tensor) -> Tensor:
        """Return the weights (P,K) at which each pattern's free ones are stationary."""
        patterns, vectors = self.free.shape
        system = gram.new_zeros(patterns, vectors + 1, vectors + 1)
        identity = torch.eye(vectors, dtype=gram.dtype, device=gram.device)
        system[:, :vectors, :vectors] = torch.where(self.free[:, :, None], gram, identity)
        system[:, :vectors, vectors] = self.free.to(gram.dtype)
        system[:, vectors, :vectors].fill_(1.0)
        right = torch.cat([self.fixed, self.fixed.new_ones(patterns, 1)], dim=1)
        return torch.linalg.solve_ex(system, right)[0][:, :vectors]


def logit_gradients(student_logits: Tensor, teacher_logits: Tensor, temperature: float, gradient: str) -> Tensor:
    """Return (K,D): the gradient of each teacher's T^2 KL with respect to the student's logits (B,C), up to 1/B.

    It is T (softmax(z_s/T) - softmax(z_t/T)). gradient "mean" averages it over images, as released: D = C; "full" keeps
    that of every image: D = B C.
    """
    own = (student_logits.detach() / temperature).softmax(dim=-1)
    target = (teacher_logits.detach() / temperature).softmax(dim=-1)
    found = temperature * (own - target)
    return found.mean(dim=1) if gradient == "mean" else found.flatten(1)


class AEKD(Method):
    """Cross-entropy and the teachers' divergences, weighted batch by batch."""

    def build(self, context: Context) -> nn.ModuleDict:
        """Return the solver; a tolerance that is too small, or too many teachers, are a UserError."""
        tolerance = self.settings.tolerance
        if not 2 <= self.teachers <= MOST_TEACHERS:
            raise UserError(f"method aekd takes 2 to {MOST_TEACHERS} teachers, found {self.teachers}")
        if tolerance * self.teachers < 1 - SLACK:
            raise UserError(
                f"method aekd: with tolerance {tolerance} the weights of {self.teachers} teachers cannot add up to 1, "
                f"allowed are values from 1/{self.teachers} to 1"
            )
        return nn.ModuleDict({"solver": MinNorm(self.teachers, tolerance)})

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the classification loss and the weighted divergences."""
        settings, student, target = self.settings, step.student.logits, all_logits(step.teachers)
        gradients = logit_gradients(student, target, settings.temperature, settings.gradient)
        gradients = gradients.double()  # a product in single precision may be rounded to ten bits on a GPU
        weights = step.extra["solver"](gradients @ gradients.T).to(student.dtype)
        losses = divergences(student, target, settings.temperature).mean(dim=1)
        return {"ce": step.cross_entropy(), "kd": weights @ losses}
