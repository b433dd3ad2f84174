"""Any timm model as a TappedModel: taps, stems for small images, pretrained weights, blocks for freezing."""

import copy
import logging
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import timm
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import resample_patch_embed
from timm.models._manipulate import group_with_matcher
from timm.models.convnext import ConvNeXt
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from kd.models.base import Keep, Origin, TappedModel, stage_names, with_twins
from kd.models.weights import (
    State,
    first_difference,
    fit,
    head_names,
    load_fitted,
    misfit,
    read_state,
    without_prefixes,
)
from kd.schema.architectures import TIMM_PREFIX
from kd.tools.errors import UserError

log = logging.getLogger(__name__)

Change = Callable[[nn.Module, bool], list[str]]

_STEM = re.compile(r"stem|conv_stem|conv1|bn1|act1|features\.(conv|norm)0")
_UNMATCHED = "?"  # no parameter has this name, so timm's matcher files it where it files the head
HEADS = ("head", "head_dist")
_LARGE_CONVNEXT = 192  # channels of the first stage from ConvNeXt-L on


class Watched(nn.Module):
    """An activation that keeps what it was last given until it is taken."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation
        self.given: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated value."""
        self.given = x
        return self.activation(x)

    def take(self) -> Tensor:
        """Return what the activation was given, and forget it."""
        given, self.given = self.given, None
        assert given is not None, "the activation has not run"
        return given


class TimmModel(TappedModel):
    """A timm network behind the taps "stem" (where timm lists one), "stage1", ..., "embedding".

    Stages are timm's features in their order: resolutions for CNNs and hierarchical transformers, blocks for plain
    ViTs, whose tokens are given as maps (B, C, H, W) without class and register tokens. ResNets also have twins
    "<tap>.pre"; in other families a stage ends in no activation, or in several. Distilled networks also have the logits
    (B, classes) of their two heads, "head" and "head_dist", whose mean their own logits are.
    """

    def __init__(self, arch: str, num_classes: int, net: nn.Module) -> None:
        features = _feature_modules(net)
        stem = ["stem"] if features and _STEM.match(features[0]) else []
        self_taps = [*stem, *stage_names(len(features) - len(stem))]
        watched = _watch(net, self_taps) if isinstance(net, ResNet) else {}
        heads = HEADS if _is_distilled(net) else ()
        super().__init__(arch, num_classes, [*(with_twins(self_taps) if watched else self_taps), *heads, "embedding"])
        self.net = net
        self._index = {name: index for index, name in enumerate(self_taps)}
        self._ends = watched

    def compute(self, x: Tensor, taps: Sequence[str], keep: Keep) -> Tensor:
        """Return the logits and pass the features asked for through `keep` on the way."""
        net: Any = self.net
        wanted = [name for name in self._index if name in taps]
        if wanted:
            indices = [self._index[name] for name in wanted]
            last, maps = net.forward_intermediates(x, indices=indices, output_fmt="NCHW")
            for name, value in zip(wanted, maps, strict=True):
                keep(name, value)
        else:
            last = net.forward_features(x)
        embedding = keep("embedding", net.forward_head(last, pre_logits=True).flatten(1))
        for name, (parent, activation) in self._ends.items():
            keep(f"{name}.pre", getattr(net.get_submodule(parent), activation).take())
        linear = self.classifier
        if any(name in HEADS for name in taps):
            first, second = _both_heads(net, last)
            return (keep("head", first) + keep("head_dist", second)) / 2
        if len(_classifiers(net)) > 1:  # distilled transformers, and a few more, join heads in a way of their own
            return net.forward_head(last)
        return linear(embedding[..., None, None]).flatten(1) if isinstance(linear, nn.Conv2d) else linear(embedding)

    @property
    def classifier(self) -> nn.Module:
        """The last linear layer (a 1x1 convolution in some nets, the first of two in distilled transformers)."""
        return _classifiers(self.net)[0]

    def norm_before(self, tap: str) -> nn.BatchNorm2d | None:
        """Return the BatchNorm of a ResNet's stem, or the last of a stage's last block unless attention follows it."""
        name = tap.removesuffix(".pre")
        if name == tap or name not in self._ends:
            return None
        parent, activation = self._ends[name]
        block = self.net.get_submodule(parent)
        norm = getattr(block, activation.replace("act", "bn"))
        return norm if type(norm) is nn.BatchNorm2d and getattr(block, "se", None) is None else None

    def blocks(self) -> list[nn.Module]:
        """Return timm's coarse layer groups: stages of CNNs and Swin, blocks of ViTs.

        Whatever stands between the last of them and the classifier (norms, 1x1 convolutions) belongs to the last.
        """
        return [nn.ModuleList(group) for group in _layer_groups(self.net)]

    def head(self) -> nn.Module:
        """Return the classifier (both in distilled transformers)."""
        return nn.ModuleList(_classifiers(self.net))


def normalisation(arch: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation by which timm's weights of `timm:NAME` want images normalised."""
    found = timm.get_pretrained_cfg(arch.removeprefix(TIMM_PREFIX))
    return (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD) if found is None else (found.mean, found.std)


def build(arch: str, num_classes: int, pretrained: bool | str, small_input: bool, image_size: int) -> TimmModel:
    """Return timm's model `timm:NAME` for square images.

    `pretrained` True takes timm's own weights, a string a file. `small_input` changes the stem of the ResNet,
    EfficientNet and ConvNeXt families so that it keeps the resolution; other nets stay as they are.
    """
    name = arch.removeprefix(TIMM_PREFIX)
    net, _ = _create(name, num_classes, pretrained is True, image_size)
    change: Change = shrink_stem if small_input else _unchanged
    origin = None
    if isinstance(pretrained, str):
        origin = _load_file(net, arch, pretrained, change)
    else:
        adapted = change(net, pretrained)
        origin = _fetched(net, num_classes, adapted) if pretrained else None
    for module in net.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]  # else it would overwrite a tapped feature
    model = TimmModel(arch, num_classes, net)
    model.origin = origin and _within(origin, "net.")
    return model


def shrink_stem(net: nn.Module, trained: bool = False) -> list[str]:
    """Make the stem keep the resolution of small images, where the family has a known way to do so.

    Return the names of what of a `trained` net had to take another shape for it, or to go; the rest is kept.
    """
    if isinstance(net, ResNet):
        return _shrink_resnet(net, trained)
    if isinstance(net, EfficientNet | MobileNetV3):
        net.conv_stem.stride = (1, 1)  # the weights stay
    elif isinstance(net, ConvNeXt):
        return _shrink_convnext(net, trained)
    else:
        log.info("small_input: the stem of %s stays as it is", type(net).__name__)
    return []


def _unchanged(net: nn.Module, trained: bool = False) -> list[str]:
    """Leave the stem alone."""
    return []


def _watch(net: ResNet, taps: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Watch the activations that end a ResNet's stem and stages: tap -> the module they belong to and their name there.

    A network with blocks of another kind has none.
    """
    ends = {"stem": ("", "act1")}
    for number, tap in enumerate(taps[1:], start=1):
        layer = getattr(net, f"layer{number}")
        if not isinstance(layer[-1], BasicBlock | Bottleneck):
            return {}
        ends[tap] = (f"layer{number}.{len(layer) - 1}", "act2" if isinstance(layer[-1], BasicBlock) else "act3")
    for parent, activation in ends.values():
        block = net.get_submodule(parent)
        setattr(block, activation, Watched(getattr(block, activation)))
    return ends


def _shrink_resnet(net: ResNet, trained: bool) -> list[str]:
    """Replace the stem by a 3x3 convolution of stride 1 (a deep stem only loses its stride); no max-pooling.

    A trained kernel becomes the 3x3 one that answers to a picture as the 7x7 one does to the same picture enlarged
    (the pseudo-inverse resize of FlexiViT, Beyer et al. 2023): what is behind it goes on seeing what it learnt on.
    """
    adapted: list[str] = []
    if isinstance(net.conv1, nn.Sequential):
        for layer in net.conv1:
            if isinstance(layer, nn.Conv2d):
                layer.stride = (1, 1)
    else:
        fresh = nn.Conv2d(net.conv1.in_channels, net.conv1.out_channels, 3, 1, 1, bias=net.conv1.bias is not None)
        nn.init.kaiming_normal_(fresh.weight, mode="fan_out", nonlinearity="relu")
        if trained:
            kernel = resample_patch_embed(net.conv1.weight.detach(), [3, 3], interpolation="bilinear")
            fresh.weight.data.copy_(kernel)
            if fresh.bias is not None and net.conv1.bias is not None:
                fresh.bias.data.copy_(net.conv1.bias.detach())
            side = net.conv1.kernel_size[0]
            log.warning("small_input: the first kernel, trained with %dx%d pixels, is resampled to 3x3", side, side)
            adapted = ["conv1.weight"]
        net.conv1 = fresh
    net.maxpool = nn.Identity()  # type: ignore[assignment]
    return adapted


def _shrink_convnext(net: ConvNeXt, trained: bool) -> list[str]:
    """Lower the patch stride: 1 and no norm behind it for ConvNeXt-L and larger, 2 for the smaller ones.

    The 4x4 weights stay; padding makes the resolution exactly the input's (or half of it).
    """
    first, *rest = net.stem
    if not isinstance(first, nn.Conv2d) or len(rest) != 1:  # an overlapping stem of several layers
        log.info("small_input: the overlapping stem of this ConvNeXt stays as it is")
        return []
    large = first.out_channels >= _LARGE_CONVNEXT
    stride = 1 if large else 2
    padding: str | int = "same" if large else (first.kernel_size[0] - 1) // 2
    side = first.kernel_size[0]
    conv = nn.Conv2d(first.in_channels, first.out_channels, side, stride, padding, bias=first.bias is not None)
    conv.load_state_dict(first.state_dict())
    net.stem = nn.Sequential(conv, nn.Identity() if large else rest[0])
    if not (large and trained):
        return []
    log.warning("small_input: the trained norm behind the first layer is left out, as in a ConvNeXt of this size")
    return ["stem.1"]


@dataclass(frozen=True)
class Plain:
    """A network as timm alone makes it: `timm.create_model(name, **options)`, then some lines that change it."""

    net: nn.Module
    """With the weights of the network that it stands for."""
    name: str
    options: dict[str, Any]
    changes: list[str]
    """Lines of Python, in which the network is `net` and torch.nn is `nn`."""


def as_timm(model: TimmModel, image_size: int) -> Plain | None:
    """Return the network as plain timm makes it, for who does not have this library; None where it has more in it."""
    name, own, changes = model.arch.removeprefix(TIMM_PREFIX), dict(model.net.named_modules()), []
    net, options = _create(name, model.num_classes, False, image_size)
    for path, module in list(net.named_modules()):
        found = own.get(path)
        found = found.activation if isinstance(found, Watched) else found
        if found is None:
            return None
        if list(module.children()) or _written(found) == _written(module):
            continue
        changes.append(_change(path, found, module))
        net.set_submodule(path, copy.deepcopy(found))
    state = {name.replace(".activation.", "."): value for name, value in model.net.state_dict().items()}
    if first_difference(net.state_dict(), state):
        return None
    net.load_state_dict(state)
    return Plain(net, name, options, changes)


def _change(path: str, found: nn.Module, before: nn.Module) -> str:
    """Return the line that makes of a module of timm's network the one that was found in its place."""
    if type(found) is type(before) and isinstance(found, nn.Conv2d):
        same = ("kernel_size", "in_channels", "out_channels", "padding", "groups", "dilation")
        if all(getattr(found, key) == getattr(before, key) for key in same):
            return f'net.get_submodule("{path}").stride = {found.stride}'
    return f'net.set_submodule("{path}", nn.{_written(found)})'


def _written(module: nn.Module) -> str:
    """Return a module as Python writes it, whether it works in place left out."""
    text = re.sub(r"(, )?inplace=(True|False)", "", repr(module))
    return re.sub(r"padding=(same|valid)", r'padding="\1"', text)


def _create(name: str, num_classes: int, pretrained: bool, image_size: int) -> tuple[nn.Module, dict[str, Any]]:
    """Return timm's model and what it is told beside `pretrained`: the image size where it takes one."""
    options: dict[str, Any] = {"num_classes": num_classes}
    if pretrained and not timm.is_model_pretrained(name):
        raise UserError(f"pretrained: timm has no weights for {name}; give the path of a file or false")
    try:
        try:
            sized = {**options, "img_size": image_size}
            return timm.create_model(name, pretrained=pretrained, **sized), sized
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            return timm.create_model(name, pretrained=pretrained, **options), options
    except (AssertionError, ValueError, RuntimeError, OSError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        task = "fetching its weights" if pretrained else f"building it for {image_size}x{image_size} images"
        raise UserError(f"timm:{name}: {task} failed: {reason}") from error


def _load_file(net: nn.Module, arch: str, path: str | Path, change: Change) -> Origin:
    """Load a file into the net and change its stem: a file may come from before that change or from after it."""
    state, metadata = read_state(path)
    optional = head_names(net, nn.ModuleList(_classifiers(net)))
    before, adapted = _fit_any(net, state, optional)
    if before is not None:
        origin = load_fitted(net, before, path, metadata, adapted)
        return replace(origin, adapted=(*adapted, *change(net, True)))
    difference = first_difference(net.state_dict(), state, optional)
    change(net, False)
    after = fit(net, state, optional)
    if after is None:
        raise misfit(path, arch, difference, metadata)
    return load_fitted(net, after, path, metadata)


def _fit_any(net: nn.Module, state: State, optional: set[str]) -> tuple[State | None, list[str]]:
    """Fit the state as it is, or as timm's filter for the family rewrites it (foreign names, position embeddings).

    Return the names of the weights that the filter gave another shape, too.
    """
    fitted = fit(net, state, optional)
    convert = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if fitted is not None or convert is None:
        return fitted, []
    for candidate in without_prefixes(state):
        try:
            fitted = fit(net, convert(dict(candidate), net), optional)
        except (KeyError, IndexError, AttributeError, TypeError, ValueError, RuntimeError, AssertionError):
            continue  # the filter met names it does not know: weights of another family
        if fitted is not None:
            adapted = [n for n, value in fitted.items() if n in candidate and candidate[n].shape != value.shape]
            if adapted:
                log.warning("%s resampled for another size of images or patches", ", ".join(adapted))
            return fitted, adapted
    return None, []


def _fetched(net: nn.Module, num_classes: int, adapted: Sequence[str]) -> Origin:
    """Return what timm loaded: everything, but a head only where the classes are as many as those that it knows."""
    config: dict[str, Any] = net.pretrained_cfg  # type: ignore[assignment]
    head = head_names(net, nn.ModuleList(_classifiers(net))) if config.get("num_classes") != num_classes else set()
    names = [name for name in net.state_dict() if not name.endswith("num_batches_tracked")]
    fresh = sorted(name for name in names if name in head)
    tag = ".".join(filter(None, (config.get("architecture"), config.get("tag"))))
    if fresh:
        log.warning("%s not loaded (another number of classes), initialised afresh", ", ".join(fresh))
    return Origin(f"timm:{tag}", "", "", len(names) - len(fresh), tuple(fresh), tuple(adapted))


def _within(origin: Origin, prefix: str) -> Origin:
    """Return the same with the names that the weights have within a larger module."""
    fresh, adapted = (tuple(prefix + name for name in names) for names in (origin.not_loaded, origin.adapted))
    return replace(origin, not_loaded=fresh, adapted=adapted)


def _feature_modules(net: nn.Module) -> list[str]:
    """Return the module behind each of timm's features; none if the model cannot return them."""
    if not hasattr(net, "forward_intermediates"):
        return []
    return [str(entry["module"]) for entry in net.feature_info]  # type: ignore[union-attr]


def _classifiers(net: Any) -> list[nn.Module]:
    found = net.get_classifier()
    listed = list(found) if isinstance(found, tuple | list | nn.ModuleList) else [found]
    # A few nets return their whole head, pooling included.
    return [part.fc if hasattr(part, "global_pool") and hasattr(part, "fc") else part for part in listed]


def _is_distilled(net: Any) -> bool:
    """Whether a net has a head for labels and one for a teacher, and predicts with their mean."""
    heads = net.get_classifier() if hasattr(net, "distilled_training") else ()
    return isinstance(heads, tuple) and len(heads) == len(HEADS) and all(isinstance(head, nn.Module) for head in heads)


def _both_heads(net: Any, last: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits of a distilled net's two heads, which each family finds in a way of its own.

    timm's nets give them apart only where they train with distillation. The mode is set of the net alone, and not of
    its layers.
    """
    before = net.training, net.distilled_training
    try:
        net.training = net.distilled_training = True
        return net.forward_head(last)
    finally:
        net.training, net.distilled_training = before


def _layer_groups(net: Any) -> list[list[nn.Module]]:
    """Return the modules of each layer group before the classifier, shallow to deep.

    Parameters that hang directly on the net, such as class token and position embedding, belong to the stem: they train
    only when everything does, so they need no place here.
    """
    layer_of = _timm_layers(net) if hasattr(net, "group_matcher") else _listed_layers(net)
    for name in head_names(net, nn.ModuleList(_classifiers(net))):
        layer_of[name] = None
    groups: dict[int, list[nn.Module]] = {}
    for layer, module in _whole_modules(net, "", layer_of):
        groups.setdefault(layer, []).append(module)
    return [groups[layer] for layer in sorted(groups)]


def _timm_layers(net: Any) -> dict[str, int | None]:
    """Return the layer group of each parameter as timm's matcher has it; the unmatched belong to the last group."""
    named = chain(net.named_parameters(), [(_UNMATCHED, None)])
    layer_of: dict[str, int] = group_with_matcher(named, net.group_matcher(coarse=True), reverse=True)
    unmatched = layer_of.pop(_UNMATCHED)
    last = max((layer for layer in layer_of.values() if layer != unmatched), default=unmatched)
    return {name: min(layer, last) for name, layer in layer_of.items()}


def _listed_layers(net: nn.Module) -> dict[str, int | None]:
    """Return the layer group of each parameter of a net without a matcher: one for each member of its lists."""
    heads = {name.partition(".")[0] for name in head_names(net, nn.ModuleList(_classifiers(net)))}
    layer_of: dict[str, int | None] = {}
    seen: list[str] = ["stem"]
    for name, _ in net.named_parameters():
        child, _, inner = name.partition(".")
        if child not in heads and isinstance(getattr(net, child), nn.Sequential | nn.ModuleList):
            member = f"{child}.{inner.partition('.')[0]}"
            if member not in seen:
                seen.append(member)
        layer_of[name] = len(seen) - 1  # what stands outside lists belongs to the member before it
    return layer_of


def _whole_modules(module: nn.Module, prefix: str, layer_of: dict[str, int | None]) -> Iterator[tuple[int, nn.Module]]:
    """Yield the largest modules whose parameters all belong to one layer group, with that group."""
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        layers = {layer_of[f"{path}.{inner}"] for inner, _ in child.named_parameters()}
        only = layers.pop() if len(layers) == 1 else None
        if only is not None:
            yield only, child
        elif layers:
            yield from _whole_modules(child, f"{path}.", layer_of)
