"""BatchNorm folded into the convolutions before it: the same function in eval mode, in fewer passes over memory."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from kd.models.base import TappedModel

Outputs = tuple[Tensor, dict[str, Tensor]]

TOLERANCE = 1e-4
"""Largest difference from the network as it was, as a share of a feature's largest value."""


@torch.no_grad()
def folded(model: TappedModel, images: Tensor) -> TappedModel:
    """Return a copy of a network in eval mode with BatchNorm folded where it directly follows a convolution.

    Where it does is seen in a forward pass of the images (B,3,H,W), not read from the code. The copy's logits and taps
    are compared with the network's own on these images: a convolution whose output something else reads too
    (pre-activation nets) stays as it is. Nothing to fold gives back the network itself.
    """
    training = model.training
    model.eval()
    expected = model(images, model.tap_names)
    pairs = followers(model, images)
    model.train(training)
    copied = _fold(model, pairs)
    if not _agree(expected, copied(images, copied.tap_names)):
        pairs = [pair for pair in pairs if _agree(expected, _fold(model, [pair])(images, model.tap_names))]
        copied = _fold(model, pairs)
        if not _agree(expected, copied(images, copied.tap_names)):
            pairs = []
    return copied if pairs else model


def _fold(model: TappedModel, pairs: Sequence[tuple[str, str]]) -> TappedModel:
    """Return a copy in eval mode with the named pairs of convolution and BatchNorm folded."""
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    for convolution_name, norm_name in pairs:
        convolution, norm = copied.get_submodule(convolution_name), copied.get_submodule(norm_name)
        assert isinstance(convolution, nn.Conv2d), f"{convolution_name} is no convolution"
        assert isinstance(norm, nn.BatchNorm2d), f"{norm_name} is no BatchNorm"
        assert norm.running_mean is not None, "only tracked statistics are folded"
        assert norm.running_var is not None, "only tracked statistics are folded"
        weight, bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        convolution.weight = nn.Parameter(weight.contiguous(memory_format=_format(convolution.weight)), False)
        convolution.bias = nn.Parameter(bias, False)
        parent, _, own = norm_name.rpartition(".")
        setattr(copied.get_submodule(parent), own, nn.Identity())
    return copied


def followers(model: TappedModel, images: Tensor) -> list[tuple[str, str]]:
    """Return names of convolutions and of the BatchNorm whose input is exactly their output; both run once a pass."""
    producers: dict[int, nn.Conv2d] = {}
    outputs: list[Tensor] = []  # kept alive, so that no two of them share an id
    found: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    runs: dict[nn.Module, int] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Remember who made a tensor, and who took it."""
        runs[module] = runs.get(module, 0) + 1
        if isinstance(module, nn.Conv2d):
            producers[id(output)] = module
            outputs.append(output)
        elif id(inputs[0]) in producers and isinstance(module, nn.BatchNorm2d):
            found.append((producers[id(inputs[0])], module))

    # exactly BatchNorm2d: a subclass may do more than normalise
    wanted = [m for m in model.modules() if isinstance(m, nn.Conv2d) or type(m) is nn.BatchNorm2d]
    hooks = [module.register_forward_hook(note) for module in wanted]
    model(images, ())
    for hook in hooks:
        hook.remove()
    names = {module: name for name, module in model.named_modules()}
    convolutions = [convolution for convolution, _ in found]
    return [
        (names[convolution], names[norm])
        for convolution, norm in found
        if runs[convolution] == runs[norm] == 1
        and convolutions.count(convolution) == 1
        and norm.running_mean is not None
    ]


def _agree(expected: Outputs, found: Outputs) -> bool:
    pairs = [(expected[0], found[0]), *((tap, found[1][name]) for name, tap in expected[1].items())]
    return all(bool((a - b).abs().max() <= TOLERANCE * a.abs().max().clamp_min(1e-6)) for a, b in pairs)


def _format(weight: Tensor) -> torch.memory_format:
    last = weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
