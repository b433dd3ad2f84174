"""Contrastive representation distillation with memory banks (Tian, Krishnan and Isola 2020)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd.methods._connectors import UnitEmbedding
from kd.methods._features import EMBEDDING
from kd.methods.contract import STUDENT, Context, Method, Output, Step, teacher
from kd.tools.errors import UserError

EPSILON = 1e-7
UNSET = -1.0


class Contrast(NamedTuple):
    """What a batch of anchors is compared with."""

    positives: Tensor
    """(B,) the image that is each anchor's positive."""
    images: Tensor
    """(W,) images among which the negatives of all anchors are."""
    counts: Tensor
    """(B,W) how many of an anchor's negatives each of them is."""


def similarities(embedding: Tensor, bank: Tensor, contrast: Contrast, temperature: float) -> tuple[Tensor, Tensor]:
    """Return cosine over temperature of anchors (B,D) with their positives, (B,), and with the images, (B,W)."""
    anchors = embedding / temperature
    positive = (anchors * bank.index_select(0, contrast.positives)).sum(dim=1)
    return positive, anchors @ bank.index_select(0, contrast.images).T


def normaliser(positive: Tensor, negative: Tensor, counts: Tensor, images: int) -> Tensor:
    """Return Z: the mean of exp(similarity) over positives and negatives times the number of training images."""
    with torch.no_grad():
        total = positive.exp().sum() + torch.linalg.vecdot(counts, negative.exp()).sum()
        return total / (len(positive) + counts.sum()) * images


def nce_loss(positive: Tensor, negative: Tensor, counts: Tensor, z: Tensor, noise: float) -> Tensor:
    """Return -[log P/(P+m+eps) + sum over negatives of log m/(P_k+m+eps)], averaged over anchors.

    P = exp(similarity) / Z; `noise` m is the number of negatives times the noise probability 1/n. The paper has no
    epsilon; it is the released code's. With c = m + eps, log(P + c) = log c + softplus(similarity - log Z - log c): one
    pass over (B,W) that cannot overflow.
    """
    offset = noise + EPSILON
    shift = z.log() + math.log(offset)
    attracted = F.logsigmoid(positive - shift)
    repelled = math.log(noise / offset) * counts.sum(dim=1) - torch.linalg.vecdot(counts, F.softplus(negative - shift))
    return -(attracted + repelled).mean()


class Memory(nn.Module):
    """Embeddings of every training image and the constants Z, all buffers, so that a checkpoint holds them."""

    student: Tensor
    teacher: Tensor
    z_student: Tensor
    z_teacher: Tensor

    def __init__(self, images: int, width: int) -> None:
        super().__init__()
        for name in ("student", "teacher"):
            # Uniform with the variance of a unit vector's entries.
            self.register_buffer(name, (2 * torch.rand(images, width) - 1) * (3 / width) ** 0.5)
            self.register_buffer(f"z_{name}", torch.tensor(UNSET))

    def constant(self, anchors: str, estimate: Tensor) -> Tensor:
        """Return Z for the anchors of one side; the first estimate is kept for good."""
        kept: Tensor = getattr(self, f"z_{anchors}")
        z = torch.where(kept < 0, estimate, kept)
        kept.copy_(z)
        return z

    @torch.no_grad()
    def remember(self, bank: Tensor, positions: Tensor, embedding: Tensor, momentum: float) -> None:
        """Move the rows of a batch towards its embeddings (B,D) and scale them to length one."""
        moved = momentum * bank.index_select(0, positions) + (1 - momentum) * embedding
        bank.index_copy_(0, positions, F.normalize(moved, dim=1))


class Sampler(nn.Module):
    """Draws positives and negatives by class, on the device, from its global generator.

    The negatives of each anchor are a uniformly drawn set of `negatives` images of other classes. One random order of
    the training images serves the whole batch: an anchor takes the first `negatives` images of other classes in it. So
    every anchor's set has exactly the distribution of a draw of its own without replacement, and the expected loss and
    gradient are those of independent draws. The sets of one batch overlap instead of being independent of each other,
    which is what makes them cheap: no gather of B x K embeddings. Where other classes hold fewer images than asked for,
    each negative of such an anchor is drawn on its own, with replacement.
    """

    labels: Tensor
    order: Tensor
    rank: Tensor
    first: Tensor
    size: Tensor
    short: Tensor

    def __init__(self, labels: Tensor, num_classes: int, negatives: int) -> None:
        super().__init__()
        size = torch.bincount(labels, minlength=num_classes)
        if int(size.max()) == len(labels):
            raise UserError("method crd draws negatives from other classes, but all training images are of one class")
        self.negatives = negatives
        self.window = min(len(labels), negatives + int(size.max()))
        short = (len(labels) - size < negatives) & (size > 0)
        self.some_short = bool(short.any())
        order = labels.argsort(stable=True)
        tensors = {
            "labels": labels,
            "order": order,
            "rank": order.argsort(),
            "first": size.cumsum(0) - size,
            "size": size,
            "short": short,
        }
        for name, value in tensors.items():
            self.register_buffer(name, value, persistent=False)

    def contrast(self, labels: Tensor, positions: Tensor, mode: str) -> Contrast:
        """Draw for anchors with labels and positions (B,); mode "exact" makes an image its own positive."""
        images = torch.randperm(len(self.labels), device=self.labels.device)[: self.window]
        positives = positions if mode == "exact" else self.same_class(labels)
        return Contrast(positives, images, self.counts(labels, images))

    def same_class(self, labels: Tensor) -> Tensor:
        """Return for each label an image of that class, all equally likely."""
        return self.order[self.first[labels] + self.uniform(self.size[labels])]

    def counts(self, labels: Tensor, images: Tensor) -> Tensor:
        """Return (B,W): which of the images, in random order, are each anchor's negatives, and how many times."""
        foreign = self.labels.index_select(0, images) != labels[:, None]
        taken = foreign & (foreign.cumsum(dim=1, dtype=torch.int32) <= self.negatives)
        counts = taken.float()
        if self.some_short:  # then the window holds every image
            counts = torch.where(self.short[labels][:, None], self.with_replacement(labels, images), counts)
        return counts

    def with_replacement(self, labels: Tensor, images: Tensor) -> Tensor:
        """Return (B,W): how often each image is among as many independent draws from other classes."""
        size, total = self.size[labels], len(self.labels)
        # In the order by class, the others of a class are the ring of places that begins where it ends.
        drawn = self.uniform((total - size)[:, None].expand(-1, self.negatives))
        rows = torch.arange(len(labels), device=labels.device)[:, None] * total
        times = torch.zeros(len(labels) * total, device=labels.device)
        times.scatter_add_(0, (rows + drawn).flatten(), times.new_ones(()).expand(drawn.numel()))
        place = (self.rank.index_select(0, images) - (self.first[labels] + size)[:, None]) % total
        return times.view(len(labels), total).gather(1, place)

    @staticmethod
    def uniform(below: Tensor) -> Tensor:
        """Return integers from 0 to below - 1, elementwise; the bias of the remainder is under 1e-12."""
        return torch.randint(2**62, below.shape, device=below.device) % below


class CRD(Method):
    """Cross-entropy and contrast of student and teacher embeddings in both directions."""

    def taps(self, context: Context) -> dict[str, tuple[str, ...]]:
        """Return the pooled vectors, unless the logits are embedded."""
        return {} if self.settings.embed == "logits" else {STUDENT: (EMBEDDING,), teacher(0): (EMBEDDING,)}

    def build(self, context: Context) -> nn.ModuleDict:
        """Return two embeddings, the memory and the sampler."""
        settings, labels = self.settings, context.labels
        return nn.ModuleDict(
            {
                "student": UnitEmbedding(self.width(context, STUDENT), settings.embedding_size),
                "teacher": UnitEmbedding(self.width(context, teacher(0)), settings.embedding_size),
                "memory": Memory(len(labels), settings.embedding_size),
                "sampler": Sampler(labels, context.num_classes, settings.negatives),
            }
        )

    def width(self, context: Context, role: str) -> int:
        """Return the number of values that are embedded."""
        return context.num_classes if self.settings.embed == "logits" else context.features(role)[0].numel()

    def embedded(self, output: Output) -> Tensor:
        """Return what is embedded of a model's output, (B,D)."""
        return output.logits if self.settings.embed == "logits" else output.taps[EMBEDDING]

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the classification and the contrastive loss, and remember the embeddings."""
        batch, memory, sampler = step.batch, step.extra["memory"], step.extra["sampler"]
        assert isinstance(memory, Memory)
        assert isinstance(sampler, Sampler)
        student = step.extra["student"](self.embedded(step.student))
        target = step.extra["teacher"](self.embedded(step.teacher))
        contrast = sampler.contrast(batch.labels, batch.positions, self.settings.mode)
        crd = self.anchored("student", student, memory.teacher, contrast, memory)
        crd = crd + self.anchored("teacher", target, memory.student, contrast, memory)
        memory.remember(memory.student, batch.positions, student, self.settings.momentum)
        memory.remember(memory.teacher, batch.positions, target, self.settings.momentum)
        return {"ce": step.cross_entropy(), "crd": crd}

    def anchored(self, side: str, embedding: Tensor, bank: Tensor, contrast: Contrast, memory: Memory) -> Tensor:
        """Return the loss of one side's embeddings (B,D) against the other side's bank (N,D)."""
        positive, negative = similarities(embedding, bank, contrast, self.settings.temperature)
        z = memory.constant(side, normaliser(positive, negative, contrast.counts, len(bank)))
        return nce_loss(positive, negative, contrast.counts, z, self.settings.negatives / len(bank))
