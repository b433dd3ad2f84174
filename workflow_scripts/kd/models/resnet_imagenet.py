"""The bottleneck ResNet-50 (He et al. 2016, table 1) with a 3x3 stem of stride 1 for small images."""

from torch import Tensor, nn
from torch.nn import functional as F

from kd.models.base import StagedNet, conv, conv_bn, joined

EXPANSION = 4
STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # inner channels, blocks, stride


class Bottleneck(nn.Module):
    """1x1, 3x3 (which carries the stride) and 1x1 convolutions around a shortcut; returns the sum before its ReLU."""

    def __init__(self, inputs: int, inner: int, stride: int) -> None:
        super().__init__()
        outputs = inner * EXPANSION
        self.conv1 = conv(inputs, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv(inner, inner, 3, stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv(inner, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 4 * inner, H/stride, W/stride), not yet activated."""
        inner = F.relu(self.bn1(self.conv1(x)), inplace=True)
        inner = F.relu(self.bn2(self.conv2(inner)), inplace=True)
        return joined(self.bn3(self.conv3(inner)), self.shortcut(x))

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The BatchNorm that ends the residual branch."""
        return self.bn3


def build(arch: str, num_classes: int) -> StagedNet:
    """Return ResNet50."""
    assert arch == "ResNet50"
    stages, inputs = [], 64
    for inner, count, stride in STAGES:
        outputs = inner * EXPANSION
        following = [Bottleneck(outputs, inner, 1) for _ in range(count - 1)]
        stages.append(nn.Sequential(Bottleneck(inputs, inner, stride), *following))
        inputs = outputs
    return StagedNet(arch, num_classes, conv_bn(3, 64, 3), stages, inputs)
