"""MobileNetV2 (Sandler et al. 2018) at half width with expansion 6, as used on 32x32 images."""

from torch import Tensor, nn

from kd.models.base import Keep, StagedNet, conv, conv_bn, joined

WIDTH = 0.5
EXPANSION = 6
EMBEDDING = 1280
ROWS = (  # expansion, channels at full width, blocks, stride
    (1, 16, 1, 1),
    (EXPANSION, 24, 2, 1),
    (EXPANSION, 32, 3, 2),
    (EXPANSION, 64, 4, 2),
    (EXPANSION, 96, 3, 1),
    (EXPANSION, 160, 3, 2),
    (EXPANSION, 320, 1, 1),
)
STAGES = ((0, 1), (2,), (3, 4), (5, 6))  # rows of each tapped stage: those of one resolution


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project linearly; the shortcut joins equal shapes."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.same = stride == 1 and inputs == outputs
        self.layers = nn.Sequential(
            conv(inputs, inner, 1),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            conv(inner, inner, 3, stride, groups=inner),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            conv(inner, outputs, 1),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H/stride, W/stride); no activation follows (linear bottleneck)."""
        inner: Tensor = self.layers(x)
        return joined(inner, x) if self.same else inner

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The BatchNorm after the projection."""
        norm = self.layers[-1]
        assert isinstance(norm, nn.BatchNorm2d)
        return norm


class MobileNetV2(StagedNet):
    """A strided stem, four stages of linear bottlenecks and a 1x1 convolution to the embedding.

    A linear bottleneck has no activation, so a stage's tap and its `.pre` twin are the same tensor.
    """

    def run_stage(self, stage: nn.Sequential, name: str, x: Tensor, keep: Keep) -> Tensor:
        """Return the output of one stage, tapped under both of its names."""
        x = stage(x)
        keep(f"{name}.pre", x)
        return keep(name, x)


def _row(inputs: int, row: tuple[int, int, int, int]) -> list[InvertedResidual]:
    expansion, full, count, stride = row
    outputs = int(full * WIDTH)
    following = [InvertedResidual(outputs, outputs, 1, expansion) for _ in range(count - 1)]
    return [InvertedResidual(inputs, outputs, stride, expansion), *following]


def build(arch: str, num_classes: int) -> MobileNetV2:
    """Return MobileNetV2 with expansion 6 and half the channels."""
    inputs = first = int(32 * WIDTH)
    rows = []
    for row in ROWS:
        rows.append(_row(inputs, row))
        inputs = int(row[1] * WIDTH)
    stages = [nn.Sequential(*[block for index in indices for block in rows[index]]) for indices in STAGES]
    neck = conv_bn(inputs, EMBEDDING, 1)
    return MobileNetV2(arch, num_classes, conv_bn(3, first, 3, stride=2), stages, EMBEDDING, neck)
