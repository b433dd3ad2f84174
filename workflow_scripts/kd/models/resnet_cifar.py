"""ResNets for 32x32 images (He et al. 2016, section 4.2), also with the wider 64-128-256 channels of resnetNx4."""

from torch import Tensor, nn
from torch.nn import functional as F

from kd.models.base import StagedNet, conv, conv_bn, joined


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut; returns the sum before its ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs, 3)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H/stride, W/stride), not yet activated."""
        inner = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return joined(self.bn2(self.conv2(inner)), self.shortcut(x))

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The BatchNorm that ends the residual branch."""
        return self.bn2


def _stage(inputs: int, outputs: int, count: int, stride: int) -> nn.Sequential:
    following = [BasicBlock(outputs, outputs, 1) for _ in range(count - 1)]
    return nn.Sequential(BasicBlock(inputs, outputs, stride), *following)


def build(arch: str, num_classes: int) -> StagedNet:
    """Return resnet<depth> or resnet<depth>x<width>, with (depth - 2) / 6 blocks in each of three stages."""
    depth, _, width = arch.removeprefix("resnet").partition("x")
    count, remainder = divmod(int(depth) - 2, 6)
    assert remainder == 0, f"{arch}: depth must be 6n + 2"
    # The x4 nets have twice the stem and four times the stages of the plain ones.
    stem, stages = (32, (64, 128, 256)) if width == "4" else (16, (16, 32, 64))
    inputs = (stem, *stages[:-1])
    layers = [_stage(i, o, count, s) for i, o, s in zip(inputs, stages, (1, 2, 2), strict=True)]
    return StagedNet(arch, num_classes, conv_bn(3, stem, 3), layers, stages[-1])
