"""A trunk that ends in a projector and another network's classifier, as SimKD deploys it (Chen et al. 2022)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd.models.adapters import KEY as ADAPTER
from kd.models.adapters import adapter_metadata, adapter_parameters, restore_adapter
from kd.models.base import NECK, Keep, TappedModel, initialise, pool
from kd.models.freezing import keep_frozen_in_eval
from kd.tools.errors import UserError

PROJECTED = "projected"
EMBEDDING = "embedding"
KEY = "reused_head"
"""Key of a checkpoint's metadata under which the construction facts stand."""
PROBES = 4


@dataclass(frozen=True)
class Pooled:
    """The feature whose average over positions a classifier reads."""

    tap: str
    rectify: bool
    """Whether a ReLU comes between the tap and the average."""
    nonnegative: bool
    """Whether no value of it is ever below zero, as behind a ReLU."""

    def of(self, taps: Mapping[str, Tensor]) -> Tensor:
        """Return the feature as maps (B,C,H,W); a vector becomes maps of one pixel."""
        value = taps[self.tap]
        value = F.relu(value) if self.rectify else value
        return value if value.ndim == 4 else value[:, :, None, None]


@torch.no_grad()
def pooled_feature(model: TappedModel, image_size: int) -> Pooled:
    """Return the deepest map that is averaged into the embedding; where no tap is such a map, the embedding itself.

    Names say too little: a net may have a BatchNorm, a convolution or a norm of tokens in between. So every map of some
    noise images is averaged, as it is and behind a ReLU, and compared with their embedding.
    """
    training, device = model.training, next(model.parameters()).device
    noise = torch.randn(PROBES, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    model.eval()
    _, taps = model(noise.to(device), model.tap_names)
    model.train(training)
    embedding = taps[EMBEDDING].double()
    for tap in reversed(model.tap_names):
        for rectify in (False, True):
            found = Pooled(tap, rectify, nonnegative=False)
            feature = found.of(taps).double()
            if taps[tap].ndim == 4 and _equal(feature.mean(dim=(2, 3)), embedding):
                return Pooled(tap, rectify, bool((feature >= 0).all()))
    return Pooled(EMBEDDING, False, bool((embedding >= 0).all()))


def last_map(model: TappedModel, image_size: int) -> Pooled:
    """Return the map that is averaged into the embedding or, where no tap is or only a neck, the last stage's.

    (Students with a neck give the map before it in the release of SimKD too.)
    """
    found = pooled_feature(model, image_size)
    return Pooled(model.stage_taps[-1], False, False) if found.tap in {EMBEDDING, NECK} else found


@dataclass(frozen=True)
class Facts:
    """All that a ReusedHead is built from beside its trunk: shapes and names, no weights."""

    tap: str
    rectify: bool
    height: int
    width: int
    """The trunk's map is averaged to this size before it is projected."""
    inputs: int
    hidden: int
    outputs: int
    nonnegative: bool
    """Whether the projector ends in a ReLU."""
    classes: int
    bias: bool
    teacher: str


class ReusedHead(TappedModel):
    """Trunk, projector and a classifier that is not trained; the logits are those that are deployed.

    The trunk's own classifier is taken out. Taps are the trunk's, besides "projected", the maps that the projector
    makes, and "embedding", their average, which the classifier reads.
    """

    def __init__(self, trunk: TappedModel, facts: Facts) -> None:
        inner = [tap for tap in trunk.tap_names if tap != EMBEDDING]
        name = f"{trunk.arch} with the classifier of {facts.teacher}"
        super().__init__(name, facts.classes, [*inner, PROJECTED, EMBEDDING], trunk.stage_taps)
        self.facts = facts
        own = trunk.classifier
        self.replaced = sum(p.numel() for p in own.parameters())
        self.trunk = trunk
        for path in [path for path, module in trunk.named_modules() if module is own]:
            trunk.set_submodule(path, nn.Identity())
        self.projector = projector(facts)
        self.fc = nn.Linear(facts.outputs, facts.classes, bias=facts.bias).requires_grad_(False)

    def adopt(self, classifier: nn.Module) -> "ReusedHead":
        """Copy the weights of a last layer, linear or a 1x1 convolution, and return the network."""
        weight, bias = classifier.weight, classifier.bias
        assert isinstance(weight, Tensor)
        with torch.no_grad():
            self.fc.weight.copy_(weight.flatten(1))
            if self.fc.bias is not None:
                assert isinstance(bias, Tensor)
                self.fc.bias.copy_(bias)
        return self

    def compute(self, x: Tensor, taps: Sequence[str], keep: Keep) -> Tensor:
        """Return the deployed logits and pass every feature through `keep` on the way."""
        facts = self.facts
        wanted = [tap for tap in taps if tap in self.trunk.tap_names and tap != EMBEDDING]
        _, features = self.trunk(x, tuple(dict.fromkeys([*wanted, facts.tap])))
        for tap in wanted:
            keep(tap, features[tap])
        source = Pooled(facts.tap, facts.rectify, False).of(features)
        if source.shape[2:] != (facts.height, facts.width):
            source = F.adaptive_avg_pool2d(source, (facts.height, facts.width))
        projected = keep(PROJECTED, self.projector(source))
        return self.fc(keep(EMBEDDING, pool(projected)))

    @property
    def classifier(self) -> nn.Module:
        """The reused classifier."""
        return self.fc

    def blocks(self) -> list[nn.Module]:
        """Return the trunk's parts."""
        return self.trunk.blocks()

    def head(self) -> nn.Module:
        """Return the projector, which trains at every freeze level; the classifier never does."""
        return self.projector

    def norm_before(self, tap: str) -> nn.BatchNorm2d | None:
        """Return the BatchNorm that a feature of the trunk before its activation comes from."""
        return self.trunk.norm_before(tap)

    def requires_grad_(self, requires_grad: bool = True) -> "ReusedHead":
        """Set whether gradients are taken of everything but the classifier."""
        super().requires_grad_(requires_grad)
        self.fc.requires_grad_(False)
        return self

    def train(self, mode: bool = True) -> "ReusedHead":
        """Set the mode; BatchNorm of the trunk that was frozen stays in eval mode."""
        super().train(mode)
        keep_frozen_in_eval(self.trunk)
        return self


def projector(facts: Facts) -> nn.Sequential:
    """Return 1x1, 3x3 and 1x1 convolutions with BatchNorm and ReLU, the last ReLU only towards targets behind one."""
    inputs, hidden, outputs = facts.inputs, facts.hidden, facts.outputs
    layers = nn.Sequential(
        nn.Conv2d(inputs, hidden, 1, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU(),
        nn.Conv2d(hidden, hidden, 3, padding=1, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU(),
        nn.Conv2d(hidden, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU() if facts.nonnegative else nn.Identity(),
    )
    initialise(layers)
    return layers


def added_parameters(model: TappedModel) -> int:
    """Return how many parameters deployment adds to the plain architecture; the classifier taken out is subtracted."""
    if not isinstance(model, ReusedHead):
        return adapter_parameters(model)
    added = [*model.projector.parameters(), *model.fc.parameters()]
    return sum(p.numel() for p in added) - model.replaced


def deployment(model: TappedModel) -> dict[str, str]:
    """Return what a checkpoint's metadata must say for `redeploy` to rebuild the network; nothing of a plain one."""
    if isinstance(model, ReusedHead):
        return {KEY: json.dumps(asdict(model.facts), sort_keys=True)}
    return adapter_metadata(model)


def redeploy(model: TappedModel, metadata: Mapping[str, str], image_size: int = 32) -> TappedModel:
    """Return the network around a freshly built trunk that a checkpoint's metadata describe, its weights not loaded.

    Without such metadata it is the trunk as it is. Metadata that do not describe a network are a UserError.
    """
    if ADAPTER in metadata:
        return restore_adapter(model, metadata, _shapes(model, image_size))
    if KEY not in metadata:
        return model
    try:
        return ReusedHead(model, Facts(**json.loads(metadata[KEY])))
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the checkpoint's entry '{KEY}' describes no network: {reason}") from error


@torch.no_grad()
def _shapes(model: TappedModel, image_size: int) -> dict[str, torch.Size]:
    """Return the shapes of all taps, without the batch."""
    training = model.training
    model.eval()
    _, taps = model(torch.zeros(1, 3, image_size, image_size), model.tap_names)
    model.train(training)
    return {name: tap.shape[1:] for name, tap in taps.items()}


def _equal(found: Tensor, expected: Tensor) -> bool:
    """Whether two (B,D) agree to rounding, and are not just all zero."""
    if found.shape != expected.shape or not expected.any():
        return False
    return bool(torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())))
