"""ShuffleNetV2 (Ma et al. 2018) at width 1, as used on 32x32 images: 116-232-464 channels, a 1x1 stem."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd.models.base import StagedNet, conv, conv_bn

STEM = 24
STAGES = ((116, 4), (232, 8), (464, 4))  # channels, blocks
EMBEDDING = 1024


class SplitUnit(nn.Module):
    """Half of the channels passes, half goes through 1x1, depthwise 3x3 and 1x1 convolutions; then both are shuffled.

    The passing half has been through a ReLU already, so a ReLU on the returned tensor changes the other half only.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.passing = half
        self.conv1 = conv(half, half, 1)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = conv(half, half, 3, groups=half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv(half, half, 1)
        self.bn3 = nn.BatchNorm2d(half)
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, channels, H, W), not yet activated."""
        passing, inner = x[:, : self.passing], x[:, self.passing :]
        inner = F.relu(self.bn1(self.conv1(inner)), inplace=True)
        inner = self.bn3(self.conv3(self.bn2(self.conv2(inner))))
        return self.shuffle(torch.cat([passing, inner], dim=1))


class DownUnit(nn.Module):
    """Two strided branches that each give half of the output channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.left = nn.Sequential(*conv_bn(inputs, inputs, 3, 2, groups=inputs), *conv_bn(inputs, half, 1))
        self.right = nn.Sequential(
            *conv_bn(inputs, half, 1),
            nn.ReLU(inplace=True),
            *conv_bn(half, half, 3, 2, groups=half),
            *conv_bn(half, half, 1),
        )
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H/2, W/2), not yet activated."""
        return self.shuffle(torch.cat([self.left(x), self.right(x)], dim=1))


def build(arch: str, num_classes: int) -> StagedNet:
    """Return ShuffleV2: ShuffleNetV2 at width 1."""
    stages, inputs = [], STEM
    for outputs, count in STAGES:
        following = [SplitUnit(outputs) for _ in range(count - 1)]
        stages.append(nn.Sequential(DownUnit(inputs, outputs), *following))
        inputs = outputs
    neck = conv_bn(inputs, EMBEDDING, 1)
    return StagedNet(arch, num_classes, conv_bn(3, STEM, 1), stages, EMBEDDING, neck)
