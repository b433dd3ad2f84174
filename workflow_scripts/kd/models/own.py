"""A user's own network, named 'PATH.py:function', behind taps that are named as its modules are."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

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
    return OwnModel(arch, num_classes, net, _Probe(arch, net, num_classes, image_size))


class OwnModel(TappedModel):
    """Any classifier; its taps are the modules that run once a pass and give a map (B,C,H,W) or a vector (B,D).

    "embedding" is what the last layer reads. The stages are those that the network lists as `stage_taps`, or else the
    last map of each resolution.
    """

    def __init__(self, arch: str, num_classes: int, net: nn.Module, seen: "_Probe") -> None:
        names = [name for name in seen.shapes if name != seen.last and name != EMBEDDING]
        super().__init__(arch, num_classes, [*names, EMBEDDING], seen.stages())
        self.net = net
        self._last = seen.last
        self._overwritten = frozenset(seen.overwritten)

    def compute(self, x: Tensor, taps: Sequence[str], keep: Keep) -> Tensor:
        """Return the logits and pass the features asked for through `keep` on the way."""
        hooks = [self._hook(tap, keep) for tap in taps]
        try:
            return self.net(x).flatten(1)
        finally:
            for hook in hooks:
                hook.remove()

    def _hook(self, tap: str, keep: Keep) -> torch.utils.hooks.RemovableHandle:
        if tap == EMBEDDING:
            return self.classifier.register_forward_pre_hook(lambda _, inputs: _note(keep, tap, inputs[0].flatten(1)))
        copied = tap in self._overwritten  # what follows writes into it (an in-place ReLU), and it would be another's
        module = self.net.get_submodule(tap)
        return module.register_forward_hook(lambda _, __, out: _note(keep, tap, out.clone() if copied else out))

    @property
    def classifier(self) -> nn.Module:
        """The layer whose output the logits are."""
        return self.net.get_submodule(self._last)

    def blocks(self) -> list[nn.Module]:
        """Return the network's parts that hold parameters, without the one that the last layer stands in."""
        head = self._last.partition(".")[0]
        return [
            part for name, part in self.net.named_children() if name != head and any(True for _ in part.parameters())
        ]

    def head(self) -> nn.Module:
        """Return the part that the last layer stands in."""
        return self.net.get_submodule(self._last.partition(".")[0])


def _note(keep: Keep, tap: str, value: Tensor) -> None:
    keep(tap, value)


class _Probe:
    """What one pass shows of a network: which modules give what, which of them is the last layer."""

    def __init__(self, arch: str, net: nn.Module, num_classes: int, image_size: int) -> None:
        self.arch, self.net = arch, net
        self.shapes: dict[str, torch.Size] = {}
        self.overwritten: set[str] = set()
        self._given: dict[str, tuple[Tensor, int]] = {}
        runs: dict[str, int] = {}

        def note(name: str, output: Any) -> None:
            runs[name] = runs.get(name, 0) + 1
            if isinstance(output, Tensor) and output.dim() in (2, 4) and len(output) == PROBES:
                self._given[name] = (output, output._version)

        hooks = [
            module.register_forward_hook(lambda _, __, out, name=name: note(name, out))
            for name, module in net.named_modules()
            if name
        ]
        training = net.training
        try:
            with torch.no_grad():
                logits = net.eval()(torch.rand(PROBES, 3, image_size, image_size))
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{arch} cannot process images of {image_size}x{image_size}: {reason}") from error
        finally:
            net.train(training)
            for hook in hooks:
                hook.remove()
        self._check_logits(logits, num_classes)
        self.last = self._last_layer(logits)
        for name, (output, version) in self._given.items():
            if runs[name] == 1:
                self.shapes[name] = output.shape[1:]
                if output._version != version:
                    self.overwritten.add(name)
        self._given.clear()

    def _check_logits(self, logits: Any, num_classes: int) -> None:
        found = f"(B,{','.join(map(str, logits.shape[1:]))})" if isinstance(logits, Tensor) else type(logits).__name__
        if not isinstance(logits, Tensor) or logits.flatten(1).shape != (PROBES, num_classes):
            raise UserError(f"{self.arch} must return logits (B,{num_classes}) of images (B,3,H,W), found {found}")

    def _last_layer(self, logits: Tensor) -> str:
        for name in reversed(self._given):
            output, module = self._given[name][0], self.net.get_submodule(name)
            if isinstance(module, nn.Linear | nn.Conv2d) and torch.equal(output.flatten(1), logits.flatten(1)):
                return name
        raise UserError(f"{self.arch}: its logits must be what a last linear layer gives, and no such layer was found")

    def stages(self) -> list[str]:
        """Return the taps that 'stages' stands for, shallow to deep."""
        listed = getattr(self.net, "stage_taps", None)
        maps = {name: shape for name, shape in self.shapes.items() if len(shape) == 3 and name != self.last}
        if listed is not None:
            for name in listed:
                if name not in maps:
                    raise UserError(
                        f"{self.arch}: stage_taps lists {name!r}, which gives no map; maps are {', '.join(maps)}"
                    )
            return list(listed)
        last: dict[tuple[int, ...], str] = {}
        for name, shape in maps.items():
            if shape[1:] != (1, 1):  # what a global pooling gives is no map any more
                last[tuple(shape[1:])] = name
        return sorted(last.values(), key=list(maps).index)
