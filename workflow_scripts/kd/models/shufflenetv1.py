"""ShuffleNet (Zhang et al. 2018) with three groups, as used on 32x32 images: 240-480-960 channels, a 1x1 stem."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd.models.base import StagedNet, conv, conv_bn, joined

GROUPS = 3
STEM = 24
STAGES = ((240, 4), (480, 8), (960, 4))  # channels, blocks


class ShuffleUnit(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; at stride 2 the pooled input is appended instead of added.

    The first unit of the net has too few input channels to split, so its first convolution is not grouped.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = outputs // 4
        groups = 1 if inputs == STEM else GROUPS
        self.stride = stride
        self.conv1 = conv(inputs, inner, 1, groups=groups)
        self.bn1 = nn.BatchNorm2d(inner)
        self.shuffle = nn.ChannelShuffle(groups) if groups > 1 else nn.Identity()
        self.conv2 = conv(inner, inner, 3, stride, groups=inner)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv(inner, outputs, 1, groups=GROUPS)
        self.bn3 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum, or at stride 2 the concatenation with the pooled input, not yet activated."""
        inner = self.shuffle(F.relu(self.bn1(self.conv1(x)), inplace=True))
        inner = F.relu(self.bn2(self.conv2(inner)), inplace=True)
        inner = self.bn3(self.conv3(inner))
        if self.stride == 1:
            return joined(inner, x)
        return torch.cat([inner, F.avg_pool2d(x, 3, stride=2, padding=1)], dim=1)

    @property
    def last_norm(self) -> nn.BatchNorm2d | None:
        """The BatchNorm that ends the residual branch; at stride 2 some channels have none."""
        return self.bn3 if self.stride == 1 else None


def _stage(inputs: int, outputs: int, count: int) -> nn.Sequential:
    # The pooled input fills the channels that the first unit does not compute.
    following = [ShuffleUnit(outputs, outputs, 1) for _ in range(count - 1)]
    return nn.Sequential(ShuffleUnit(inputs, outputs - inputs, 2), *following)


def build(arch: str, num_classes: int) -> StagedNet:
    """Return ShuffleV1: ShuffleNet with three groups."""
    stages, inputs = [], STEM
    for outputs, count in STAGES:
        stages.append(_stage(inputs, outputs, count))
        inputs = outputs
    return StagedNet(arch, num_classes, conv_bn(3, STEM, 1), stages, inputs)
