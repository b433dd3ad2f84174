"""A user's own network, named 'PATH.py:function', behind taps that are named as its modules are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from kd.models.base import Keep, TappedModel
from kd.schema.architectures import own_factory
from kd.tools.errors import UserError
from kd.tools.own_code import module_at

PROBES = 2
"""Images of the pass that shows what a network is made of."""

EMBEDDING = "embedding"


def build(arch: str, num_classes: int, image_size: int) -> TappedModel:
    """Return the network that the function makes, called with the number of classes.

    It returns a module from images (B,3,H,W) to logits (B,classes) whose last layer is linear or a 1x1 convolution; a
    TappedModel is taken as it is. Errors: UserError for anything else.
    """
    own = own_factory(arch)
    assert own is not None, f"{arch} names no file"
    path, function = own
    try:
        net = getattr(module_at(path), function)(num_classes)
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise UserError(
            f"{arch} cannot be built for {num_classes} classes: {type(error).__name__}: {reason}"
        ) from error
    if isinstance(net, TappedModel):
        return net
    if not isinstance(net, nn.Module):
        raise UserError(f"{arch} must return a torch.nn.Module, found {type(net).__name__}")
    return OwnModel(arch, num_classes, net, _layout(arch, net, num_classes, image_size))


@dataclass(frozen=True)
class Layout:
    """What one pass shows of a network."""

    last: str
    """Name of the layer whose output the logits are."""
    taps: tuple[str, ...]
    """Names of the other modules that run once a pass and give a map (B,C,H,W) or a vector (B,D), in their order."""
    overwritten: frozenset[str]
    """Those into whose output something behind them writes (an in-place ReLU)."""
    stages: tuple[str, ...]
    """The taps that 'stages' stands for, shallow to deep."""


class OwnModel(TappedModel):
    """Any classifier; its taps have the names of its modules, and "embedding" is what the last layer reads.

    The stages are those that the network lists as `stage_taps`, or else the last map of each resolution.
    """

    def __init__(self, arch: str, num_classes: int, net: nn.Module, layout: Layout) -> None:
        super().__init__(arch, num_classes, [*layout.taps, EMBEDDING], layout.stages)
        self.net = net
        self._layout = layout

    def compute(self, x: Tensor, taps: Sequence[str], keep: Keep) -> Tensor:
        """Return the logits and pass the features asked for through `keep` on the way."""
        # for this pass only: a hook that stays would go on writing for the network that a copy was made of
        hooks = [self._hook(tap, keep) for tap in taps]
        try:
            return self.net(x).flatten(1)
        finally:
            for hook in hooks:
                hook.remove()

    def _hook(self, tap: str, keep: Keep) -> RemovableHandle:
        if tap == EMBEDDING:
            return self.classifier.register_forward_pre_hook(lambda _, given: _note(keep, tap, given[0].flatten(1)))
        copied = tap in self._layout.overwritten  # or what is noted would be another feature's value
        module = self.net.get_submodule(tap)
        return module.register_forward_hook(lambda _, __, out: _note(keep, tap, out.clone() if copied else out))

    @property
    def classifier(self) -> nn.Module:
        """The layer whose output the logits are."""
        return self.net.get_submodule(self._layout.last)

    def blocks(self) -> list[nn.Module]:
        """Return the network's parts that hold parameters, without the one that the last layer stands in."""
        head = self.head()
        return [part for part in self.net.children() if part is not head and any(True for _ in part.parameters())]

    def head(self) -> nn.Module:
        """Return the part that the last layer stands in."""
        return self.net.get_submodule(self._layout.last.partition(".")[0])


def _note(keep: Keep, tap: str, value: Tensor) -> None:
    # a hook that returns something puts it in the place of the output
    keep(tap, value)


@dataclass(frozen=True)
class _Given:
    """What a module gave, as it was when the module had run."""

    output: Any
    version: int

    @property
    def is_feature(self) -> bool:
        """Whether it is a map (B,C,H,W) or a vector (B,D) of every image."""
        return isinstance(self.output, Tensor) and self.output.dim() in (2, 4) and len(self.output) == PROBES


def _layout(arch: str, net: nn.Module, num_classes: int, image_size: int) -> Layout:
    """Look at one pass of a network in eval mode. Errors: UserError where it is no classifier of such images."""
    logits, given = _watched_pass(arch, net, image_size)
    if not isinstance(logits, Tensor) or logits.flatten(1).shape != (PROBES, num_classes):
        found = f"(B,{','.join(map(str, logits.shape[1:]))})" if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"{arch} must return logits (B,{num_classes}) of images (B,3,H,W), found {found}")
    # of a module that runs twice nobody could say which of the two is meant
    once = {name: each[0] for name, each in given.items() if len(each) == 1 and each[0].is_feature}
    last = _last_layer(arch, net, once, logits)
    taps = {name: one for name, one in once.items() if name not in (last, EMBEDDING)}
    overwritten = frozenset(name for name, one in taps.items() if one.output._version != one.version)
    maps = {name: one.output.shape[2:] for name, one in taps.items() if one.output.dim() == 4}
    return Layout(last, tuple(taps), overwritten, _stages(arch, net, maps))


def _watched_pass(arch: str, net: nn.Module, image_size: int) -> tuple[Any, dict[str, list[_Given]]]:
    """Return what a network makes of noise, and what each of its modules gave, run by run."""
    given: dict[str, list[_Given]] = {}

    def note(name: str, output: Any) -> None:
        """Remember what a module gave, and how often that had been written to."""
        given.setdefault(name, []).append(_Given(output, getattr(output, "_version", 0)))

    modules = [(name, module) for name, module in net.named_modules() if name]
    hooks = [module.register_forward_hook(lambda _, __, out, name=name: note(name, out)) for name, module in modules]
    training, draws = net.training, torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            logits = net.eval()(torch.rand(PROBES, 3, image_size, image_size, generator=draws))
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{arch} cannot process images of {image_size}x{image_size}: {reason}") from error
    finally:
        net.train(training)
        for hook in hooks:
            hook.remove()
    return logits, given


def _last_layer(arch: str, net: nn.Module, once: Mapping[str, _Given], logits: Tensor) -> str:
    for name in reversed(list(once)):
        linear = isinstance(net.get_submodule(name), nn.Linear | nn.Conv2d)
        if linear and torch.equal(once[name].output.flatten(1), logits.flatten(1)):
            return name
    raise UserError(f"{arch}: its logits must be what a last linear layer gives, and no such layer was found")


def _stages(arch: str, net: nn.Module, maps: Mapping[str, torch.Size]) -> tuple[str, ...]:
    """Return the maps that the network lists, or the last one of each resolution; `maps` are heights and widths."""
    listed = getattr(net, "stage_taps", None)
    if listed is not None:
        for name in listed:
            if name not in maps:
                raise UserError(f"{arch}: stage_taps lists {name!r}, which gives no map; maps are {', '.join(maps)}")
        return tuple(listed)
    # what a global pooling gives is no map any more
    last = {size: name for name, size in maps.items() if size != (1, 1)}
    return tuple(name for name in maps if name in last.values())
