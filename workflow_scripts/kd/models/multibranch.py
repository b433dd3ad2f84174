"""A network of four blocks with channel attention, each of which is pooled into a branch of the classifier."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd.models.base import Keep, TappedModel, conv_bn, initialise, pool, stage_names

CHANNELS = (64, 128, 256, 512)


class ChannelAttention(nn.Module):
    """Efficient channel attention (Wang et al. 2020, ECA-Net): a gate per channel, from it and its neighbours.

    The kernel over channels is the odd number nearest to log2(C)/2 + 1/2, as in the authors' code.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        size = int((math.log2(channels) + 1) / 2)
        size += 1 - size % 2
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (B,C,H,W), every channel scaled by its gate."""
        gate = self.conv(pool(x).unsqueeze(1)).squeeze(1).sigmoid()
        return x * gate[:, :, None, None]


class MultiBranchNet(TappedModel):
    """Blocks of 3x3 convolution, BatchNorm, ReLU and channel attention, halved between them by max-pooling.

    Every block has a branch: its average over positions, and a linear classifier of that. The logits are the branches'
    sum, so that one linear layer over all averages side by side, the embedding (B, 960), is all of the classifiers.
    """

    def __init__(self, arch: str, num_classes: int) -> None:
        names = stage_names(len(CHANNELS))
        super().__init__(arch, num_classes, [*names, "embedding"])
        inputs = (3, *CHANNELS[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(*conv_bn(i, o, 3), nn.ReLU(), ChannelAttention(o))
            for i, o in zip(inputs, CHANNELS, strict=True)
        )
        self.fc = nn.Linear(sum(CHANNELS), num_classes)
        initialise(self)

    def compute(self, x: Tensor, taps: Sequence[str], keep: Keep) -> Tensor:
        """Return the logits and pass every feature through `keep` on the way."""
        branches = []
        for place, (name, stage) in enumerate(zip(self.stage_taps, self.stages, strict=True)):
            x = keep(name, stage(F.max_pool2d(x, 2) if place else x))
            branches.append(pool(x))
        return self.fc(keep("embedding", torch.cat(branches, dim=1)))

    @property
    def classifier(self) -> nn.Module:
        """The linear layer over all branches."""
        return self.fc

    def blocks(self) -> list[nn.Module]:
        """Return the four blocks."""
        return list(self.stages)


def build(arch: str, num_classes: int) -> MultiBranchNet:
    """Return the network."""
    return MultiBranchNet(arch, num_classes)
