"""A residual adapter inside a student, deployed with it: in ResNets and EfficientNets, on any other's embedding."""

import copy
import json
import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from kd.models.base import Keep, StagedNet, TappedModel
from kd.tools.errors import UserError

KEY = "student_adapter"
"""Key of a checkpoint's metadata under which the adapter's hidden width stands."""
EMBEDDING_HIDDEN = 64
GROUPS = 32


class MapAdapter(nn.Module):
    """x + [1x1 convolution, GroupNorm, ReLU, 1x1 convolution, GroupNorm](x), the identity at the start."""

    def __init__(self, channels: int, hidden: int | None = None) -> None:
        super().__init__()
        self.hidden = hidden
        """The width asked for, None for as many channels as there are."""
        inner = hidden or channels
        self.branch = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False),
            nn.GroupNorm(math.gcd(GROUPS, inner), inner),
            nn.ReLU(),
            nn.Conv2d(inner, channels, 1, bias=False),
            nn.GroupNorm(math.gcd(GROUPS, channels), channels),
        )
        last = self.branch[-1]
        assert isinstance(last, nn.GroupNorm), "the branch ends in a norm"
        nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (B,C,H,W) of maps (B,C,H,W)."""
        return x + self.branch(x)


class EmbeddingAdapter(nn.Sequential):
    """What is added to an embedding: linear, GELU, linear, zero at the start."""

    def __init__(self, width: int, hidden: int | None = None) -> None:
        inner = hidden or EMBEDDING_HIDDEN
        super().__init__(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))
        self.hidden = hidden
        """The width asked for, None for the usual one."""
        last = self[-1]
        assert isinstance(last, nn.Linear), "the branch ends in a linear map"
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)


class AdaptedEmbedding(TappedModel):
    """A network whose classifier reads embedding + [linear, GELU, linear](embedding), the identity at the start."""

    def __init__(self, trunk: TappedModel, adapter: EmbeddingAdapter) -> None:
        super().__init__(trunk.arch, trunk.num_classes, trunk.tap_names, trunk.stage_taps)
        self.trunk, self.adapter = trunk, adapter

    def compute(self, x: Tensor, taps: Sequence[str], keep: Keep) -> Tensor:
        """Return the logits and pass every feature through `keep` on the way."""
        inner = [tap for tap in taps if tap != "embedding"]
        _, features = self.trunk(x, (*inner, "embedding"))
        for tap in inner:
            keep(tap, features[tap])
        embedding = features["embedding"]
        adapted = keep("embedding", embedding + self.adapter(embedding))
        linear = self.classifier
        return linear(adapted[..., None, None]).flatten(1) if isinstance(linear, nn.Conv2d) else linear(adapted)

    @property
    def classifier(self) -> nn.Module:
        """The trunk's last linear layer."""
        return self.trunk.classifier

    def blocks(self) -> list[nn.Module]:
        """Return the trunk's parts."""
        return self.trunk.blocks()

    def head(self) -> nn.Module:
        """Return the trunk's classifier."""
        return self.trunk.head()

    def norm_before(self, tap: str) -> nn.BatchNorm2d | None:
        """Return the BatchNorm that a feature of the trunk before its activation comes from."""
        return self.trunk.norm_before(tap)


def add_adapter(model: TappedModel, shapes: Mapping[str, Sequence[int]], hidden: int | None = None) -> TappedModel:
    """Return a copy of the network with an adapter; shapes are its taps', without the batch.

    A ResNet or ShuffleNet gets it after its last but one stage, a timm EfficientNet or MobileNetV3 on its last map, any
    other network on its embedding. hidden is by default the number of channels, on embeddings 64.
    """
    model = copy.deepcopy(model)
    net = getattr(model, "net", None)
    if isinstance(model, StagedNet) and type(model).run_stage is StagedNet.run_stage and len(model.stages) > 1:
        stage = model.stages[-2]
        assert isinstance(stage, nn.Sequential), "stages are sequences of blocks"
        stage.append(MapAdapter(shapes[model.stage_taps[-2]][0], hidden))
        model.added = (f"stages.{len(model.stages) - 2}.{len(stage) - 1}",)
    elif net is not None and _is_timm(net, "ResNet"):
        net.layer3.append(MapAdapter(net.layer4[0].conv1.in_channels, hidden))
        model.added = (f"net.layer3.{len(net.layer3) - 1}",)
    elif net is not None and _is_timm(net, "EfficientNet"):
        net.bn2 = nn.Sequential(net.bn2, MapAdapter(net.bn2.num_features, hidden))
        model.added = ("net.bn2.1",)
    else:
        _require_linear(model)
        model = AdaptedEmbedding(model, EmbeddingAdapter(shapes["embedding"][0], hidden))
        model.added = ("adapter",)
    return model


def adapter_of(model: TappedModel) -> MapAdapter | EmbeddingAdapter | None:
    """Return the adapter of a network, None without one."""
    found = (model.get_submodule(path) for path in model.added)
    return next((module for module in found if isinstance(module, MapAdapter | EmbeddingAdapter)), None)


def adapter_metadata(model: TappedModel) -> dict[str, str]:
    """Return what a checkpoint's metadata must say of the adapter; nothing where there is none."""
    adapter = adapter_of(model)
    return {} if adapter is None else {KEY: json.dumps({"hidden": adapter.hidden})}


def restore_adapter(
    model: TappedModel, metadata: Mapping[str, str], shapes: Mapping[str, Sequence[int]]
) -> TappedModel:
    """Return a freshly built network with the adapter that metadata describe, its weights not loaded."""
    if KEY not in metadata:
        return model
    try:
        hidden = json.loads(metadata[KEY])["hidden"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"the checkpoint's entry '{KEY}' describes no adapter: {metadata[KEY]}") from error
    return add_adapter(model, shapes, hidden)


def adapter_parameters(model: TappedModel) -> int:
    """Return how many parameters the adapter has, 0 without one."""
    adapter = adapter_of(model)
    return 0 if adapter is None else sum(p.numel() for p in adapter.parameters())


def _is_timm(net: nn.Module, family: str) -> bool:
    """Whether a network is of a timm family whose layers are named as the adapter needs (timm is not imported)."""
    if family == "ResNet":
        blocks = getattr(net, "layer4", None)
        return isinstance(blocks, nn.Sequential) and hasattr(net, "layer3") and hasattr(blocks[0], "conv1")
    return hasattr(net, "conv_head") and hasattr(net, "bn2") and hasattr(net.bn2, "num_features")


def _require_linear(model: TappedModel) -> None:
    if not isinstance(model.classifier, nn.Linear | nn.Conv2d):
        raise UserError(
            f"use_student_adapter needs a classifier that is one linear layer, but that of {model.arch} is "
            f"{type(model.classifier).__name__}"
        )
