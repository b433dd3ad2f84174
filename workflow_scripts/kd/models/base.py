"""What every network of the benchmark can do: return logits together with the features asked for."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd.tools.errors import UserError, unknown


class Keep:
    """Notes features under their tap names where they were asked for."""

    def __init__(self, taps: Sequence[str]) -> None:
        self.taps = taps
        self.kept: dict[str, Tensor] = {}

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """Note a feature if it was asked for, and return it unchanged."""
        if name in self.taps:
            self.kept[name] = value
        return value


NECK = "neck"


@dataclass(frozen=True)
class Origin:
    """Where a network's initial weights came from, and which of its own they are."""

    file: str
    digest: str
    """SHA-256 of the file, '' of weights that timm fetched."""
    entry: str
    """The key in the file under which they stood, '' for none."""
    loaded: int
    """How many of the network's parameters and buffers were loaded (BatchNorm's counters are not counted)."""
    not_loaded: tuple[str, ...] = ()
    """Those that are initialised afresh."""
    adapted: tuple[str, ...] = ()
    """Those that were made from others of another shape, or left out: a first kernel, position embeddings."""

    def record(self) -> dict[str, Any]:
        """Return what a run's record says about it."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each channel by which images were normalised, of values from 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def spread(self) -> Tensor:
        """Return what images are divided by, (C,): the deviations, but for a constant channel's, which is 0."""
        return torch.tensor(self.std).clamp_min(1e-3)  # as kd.data.augment has it


class TappedModel(nn.Module, ABC):
    """A classifier whose inner features can be read by name.

    `tap_names` holds every tap in forward order. "stem", "stage1", ... are maps (B, C, H, W), "neck", where there is
    one, the map of a last convolution behind the stages, "embedding" the pooled vector (B, D); "<tap>.pre", where there
    is one, is the same feature before its activation. `stage_taps` are the maps without stem and neck.
    """

    _seen_scale: Tensor | None
    _seen_shift: Tensor | None

    def __init__(
        self, arch: str, num_classes: int, tap_names: Sequence[str], stage_taps: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        self.arch = arch
        self.num_classes = num_classes
        self.tap_names = tuple(tap_names)
        self.stage_taps = tuple(
            [name for name in tap_names if name.startswith("stage") and "." not in name]
            if stage_taps is None
            else stage_taps
        )
        self.origin: Origin | None = None
        """What was loaded into it when it was built, None of a network that was initialised afresh."""
        self.added: tuple[str, ...] = ()
        """Paths of modules that were put into it after it was built; they train at every freeze level."""
        self.normalised: Normalisation | None = None
        """How its images were normalised when it was trained, where that is not how it is given them."""
        # buffers, to be where its weights are, and no part of what is saved: they depend on who gives the images
        self.register_buffer("_seen_scale", None, persistent=False)
        self.register_buffer("_seen_shift", None, persistent=False)

    def see_as(self, own: Normalisation, given: Normalisation) -> None:
        """Let it see images that it is `given` normalised in one way as its `own` were when it was trained.

        Where both are the same nothing is done to the images at all. Black borders stay black, grey squares stay grey:
        they are the same images.
        """
        self.normalised = None if own == given else own
        self._seen_scale = self._seen_shift = None
        if self.normalised is None:
            return
        if len(own.mean) != len(given.mean):
            raise UserError(
                f"{self.arch}: its normalisation is of {len(own.mean)} channels, images have {len(given.mean)}"
            )
        shift = (torch.tensor(given.mean) - torch.tensor(own.mean)) / own.spread()
        self._seen_scale = (given.spread() / own.spread()).view(1, -1, 1, 1)
        self._seen_shift = shift.view(1, -1, 1, 1)

    def forward(self, x: Tensor, taps: Sequence[str] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits (B, classes) of images (B, 3, H, W) and the features asked for, in the order asked.

        A tap that does not exist is a UserError.
        """
        for tap in taps:
            if tap not in self.tap_names:
                raise unknown(f"tap of {self.arch}", tap, self.tap_names)
        keep = Keep(taps)
        if self._seen_scale is not None and self._seen_shift is not None:
            x = x * self._seen_scale + self._seen_shift
        logits = self.compute(x, taps, keep)
        return logits, {tap: keep.kept[tap] for tap in taps}

    @abstractmethod
    def compute(self, x: Tensor, taps: Sequence[str], keep: Keep) -> Tensor:
        """Return the logits and pass every feature through `keep` on the way."""

    @property
    @abstractmethod
    def classifier(self) -> nn.Module:
        """The last linear layer."""

    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """Return the parts before the head, shallow to deep, stem first."""

    def head(self) -> nn.Module:
        """Return what trains at every freeze level: the classifier (both where a net has two)."""
        return self.classifier

    def norm_before(self, tap: str) -> nn.BatchNorm2d | None:
        """Return the BatchNorm, of all its channels, that a feature `<tap>.pre` comes from; None where unknown.

        Behind a shortcut it is that of the residual branch.
        """
        return None


def activate(keep: Keep, name: str, value: Tensor) -> Tensor:
    """Return ReLU(value), noting the value before as `<name>.pre` and the value after as `<name>`.

    The value is one that nobody else reads: where it is not noted, the ReLU overwrites it, which saves a pass over new
    memory.
    """
    keep(f"{name}.pre", value)
    return keep(name, F.relu(value, inplace=f"{name}.pre" not in keep.taps))


def joined(inner: Tensor, shortcut: Tensor) -> Tensor:
    """Return the sum of a block's two branches; it overwrites the first, which nobody else reads."""
    # under autocast the shortcut may be of higher precision, and so then is the sum
    return inner.add_(shortcut) if inner.dtype == shortcut.dtype else inner + shortcut


def pool(x: Tensor) -> Tensor:
    """Average maps (B, C, H, W) of any size over their positions: (B, C)."""
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


def with_twins(names: Sequence[str]) -> list[str]:
    """Return the names, each after its pre-activation twin."""
    return [tap for name in names for tap in (f"{name}.pre", name)]


def stage_names(count: int) -> list[str]:
    """Return stage1 ... stage<count>."""
    return [f"stage{number}" for number in range(1, count + 1)]


def conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a bias-free convolution with padding that keeps the resolution at stride 1."""
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False)


def conv_bn(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a bias-free convolution followed by BatchNorm."""
    return nn.Sequential(conv(inputs, outputs, size, stride, groups), nn.BatchNorm2d(outputs))


def initialise(model: nn.Module) -> None:
    """Set convolutions to Kaiming normal (fan out, He et al. 2015) and BatchNorm to 1 and 0; linear layers stay."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


class StagedNet(TappedModel):
    """A stem, stages of blocks, an optional neck (with a ReLU behind it), global average pooling and one linear layer.

    Blocks return their output, a tensor of their own, before the last ReLU, which is applied here, so both sides of it
    can be tapped. A block's `last_norm`, where it has one, is the BatchNorm that normalises every channel of what its
    shortcut is added to.
    """

    def __init__(
        self,
        arch: str,
        num_classes: int,
        stem: nn.Module,
        stages: Sequence[nn.Sequential],
        width: int,
        neck: nn.Module | None = None,
    ) -> None:
        names = stage_names(len(stages))
        maps = ["stem", *names, *([] if neck is None else [NECK])]
        super().__init__(arch, num_classes, [*with_twins(maps), "embedding"])
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.neck = neck
        self.fc = nn.Linear(width, num_classes)
        initialise(self)

    def compute(self, x: Tensor, taps: Sequence[str], keep: Keep) -> Tensor:
        """Return the logits and pass every feature through `keep` on the way."""
        x = activate(keep, "stem", self.stem(x))
        for name, stage in zip(self.stage_taps, self.stages, strict=True):
            assert isinstance(stage, nn.Sequential)
            x = self.run_stage(stage, name, x, keep)
        if self.neck is not None:
            x = activate(keep, NECK, self.neck(x))
        return self.fc(keep("embedding", pool(x)))

    def run_stage(self, stage: nn.Sequential, name: str, x: Tensor, keep: Keep) -> Tensor:
        """Return the output of one stage, tapped before and after its last ReLU."""
        *first, last = stage
        for block in first:
            x = F.relu(block(x), inplace=True)
        return activate(keep, name, last(x))

    def norm_before(self, tap: str) -> nn.BatchNorm2d | None:
        """Return the last BatchNorm of the stem, of the neck or of a stage's last block."""
        name = tap.removesuffix(".pre")
        if name == tap:
            return None
        part = self.neck if name == NECK else self.stem
        if name in self.stage_taps:
            stage = self.stages[self.stage_taps.index(name)]
            assert isinstance(stage, nn.Sequential)
            part = stage[-1]
        norm = part[-1] if isinstance(part, nn.Sequential) else getattr(part, "last_norm", None)
        return norm if isinstance(norm, nn.BatchNorm2d) else None

    @property
    def classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.fc

    def blocks(self) -> list[nn.Module]:
        """Return the stem and the stages, the neck with the last of them."""
        *first, last = self.stages
        return [self.stem, *first, last if self.neck is None else nn.ModuleList([last, self.neck])]
