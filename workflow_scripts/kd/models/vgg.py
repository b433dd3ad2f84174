"""VGG nets with BatchNorm (Simonyan and Zisserman 2015) and one linear layer on pooled features."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from kd.models.base import Keep, TappedModel, activate, initialise, pool, stage_names, with_twins

CONVOLUTIONS = {  # how many in each of the five groups
    "vgg8": (1, 1, 1, 1, 1),
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
CHANNELS = (64, 128, 256, 512, 512)
POOLED = 3  # 2x2 max pooling follows the first three groups; 32x32 images leave 4x4 maps


class VGG(TappedModel):
    """Five groups of 3x3 convolutions: the first is the tap "stem", the others are the stages."""

    def __init__(self, arch: str, num_classes: int, counts: Sequence[int]) -> None:
        super().__init__(arch, num_classes, [*with_twins(["stem", *stage_names(4)]), "embedding"])
        inputs = (3, *CHANNELS[:-1])
        self.groups = nn.ModuleList(_group(i, o, n) for i, o, n in zip(inputs, CHANNELS, counts, strict=True))
        self.fc = nn.Linear(CHANNELS[-1], num_classes)
        initialise(self)

    def compute(self, x: Tensor, taps: Sequence[str], keep: Keep) -> Tensor:
        """Return the logits and pass every feature through `keep` on the way."""
        for number, (name, group) in enumerate(zip(("stem", *self.stage_taps), self.groups, strict=True)):
            x = activate(keep, name, group(x))
            if number < POOLED:
                x = F.max_pool2d(x, 2)
        return self.fc(keep("embedding", pool(x)))

    @property
    def classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.fc

    def norm_before(self, tap: str) -> nn.BatchNorm2d | None:
        """Return the last BatchNorm of a group."""
        name = tap.removesuffix(".pre")
        if name == tap:
            return None
        group = self.groups[("stem", *self.stage_taps).index(name)]
        assert isinstance(group, nn.Sequential)
        norm = group[-1]
        assert isinstance(norm, nn.BatchNorm2d)
        return norm

    def blocks(self) -> list[nn.Module]:
        """Return the five groups."""
        return list(self.groups)


def _group(inputs: int, outputs: int, count: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(count):
        if number:
            layers.append(nn.ReLU(inplace=True))
        source = outputs if number else inputs
        layers += [nn.Conv2d(source, outputs, 3, padding=1), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers)  # the last ReLU belongs to the tap


def build(arch: str, num_classes: int) -> VGG:
    """Return vgg8, vgg11, vgg13, vgg16 or vgg19."""
    return VGG(arch, num_classes, CONVOLUTIONS[arch])
