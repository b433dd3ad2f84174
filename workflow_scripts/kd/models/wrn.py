"""Wide residual networks (Zagoruyko and Komodakis 2016): wrn_<depth>_<width>, with pre-activation blocks."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from kd.models.base import Keep, TappedModel, conv, initialise, pool


class PreActivationBlock(nn.Module):
    """BN, ReLU, 3x3 convolution, twice, around a shortcut.

    `bn1` is called by the network, which taps its result: calling it once more for the tap would update its running
    statistics twice.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs, 3)
        self.shortcut = conv(inputs, outputs, 1, stride) if inputs != outputs else None

    def forward(self, x: Tensor, normalised: Tensor) -> Tensor:
        """Return the sum (B, outputs, H/stride, W/stride) from the input and bn1(input)."""
        activated = F.relu(normalised)
        inner = self.conv2(F.relu(self.bn2(self.conv1(activated)), inplace=True))
        # A projected shortcut starts at the activated input, an identity one at the raw input.
        return inner + (x if self.shortcut is None else self.shortcut(activated))


class WideResNet(TappedModel):
    """A 3x3 stem and three stages.

    Taps are the raw outputs of the stem and of the stages. The twin `<tap>.pre` is what the next ReLU receives: the
    output after the BatchNorm that follows it.
    """

    def __init__(self, arch: str, num_classes: int, depth: int, width: int) -> None:
        order = [tap for name in ("stem", "stage1", "stage2", "stage3") for tap in (name, f"{name}.pre")]
        super().__init__(arch, num_classes, [*order, "embedding"])
        count, remainder = divmod(depth - 4, 6)
        assert remainder == 0, f"{arch}: depth must be 6n + 4"
        channels = [16, 16 * width, 32 * width, 64 * width]
        self.stem = conv(3, channels[0], 3)
        self.stages = nn.ModuleList(
            _stage(inputs, outputs, count, stride)
            for inputs, outputs, stride in zip(channels[:-1], channels[1:], (1, 2, 2), strict=True)
        )
        self.bn = nn.BatchNorm2d(channels[-1])
        self.fc = nn.Linear(channels[-1], num_classes)
        initialise(self)

    def compute(self, x: Tensor, taps: Sequence[str], keep: Keep) -> Tensor:
        """Return the logits and pass every feature through `keep` on the way."""
        tap = "stem"
        x = keep(tap, self.stem(x))
        for name, stage in zip(self.stage_taps, self.stages, strict=True):
            assert isinstance(stage, nn.ModuleList)
            for number, block in enumerate(stage):
                assert isinstance(block, PreActivationBlock)
                normalised = block.bn1(x)
                if number == 0:
                    keep(f"{tap}.pre", normalised)
                x = block(x, normalised)
            tap = name
            keep(tap, x)
        activated = F.relu(keep(f"{tap}.pre", self.bn(x)))
        return self.fc(keep("embedding", pool(activated)))

    @property
    def classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.fc

    def norm_before(self, tap: str) -> nn.BatchNorm2d | None:
        """Return the first BatchNorm of the next stage, or the final one."""
        name = tap.removesuffix(".pre")
        if name == tap:
            return None
        number = ("stem", *self.stage_taps).index(name)
        if number == len(self.stages):
            return self.bn
        following = self.stages[number]
        assert isinstance(following, nn.ModuleList)
        block = following[0]
        assert isinstance(block, PreActivationBlock)
        return block.bn1

    def blocks(self) -> list[nn.Module]:
        """Return the stem and the stages, the final BatchNorm with the last of them."""
        *first, last = self.stages
        return [self.stem, *first, nn.ModuleList([last, self.bn])]


def _stage(inputs: int, outputs: int, count: int, stride: int) -> nn.ModuleList:
    following = [PreActivationBlock(outputs, outputs, 1) for _ in range(count - 1)]
    return nn.ModuleList([PreActivationBlock(inputs, outputs, stride), *following])


def build(arch: str, num_classes: int) -> WideResNet:
    """Return wrn_<depth>_<width>."""
    _, depth, width = arch.split("_")
    return WideResNet(arch, num_classes, int(depth), int(width))
