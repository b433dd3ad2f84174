"""One network made ready to run in its mode."""

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kd.engine.modes import COMPILED, TORCH, WINOGRAD, Mode, run_direct
from kd.models.base import TappedModel
from kd.models.folding import folded
from kd.study.options import WINOGRAD as WINOGRAD_CODE
from kd.study.options import option

log = logging.getLogger(__name__)

Outputs = tuple[Tensor, dict[str, Tensor]]


def as_run(model: TappedModel, mode: Mode, device: torch.device, frozen: bool = False) -> Mode:
    """Return a mode with torch's kernels in place of those that this network does not have on this machine."""
    lost = mode.kernels == WINOGRAD and not (
        device.type == "cpu" and mode.precision == "fp32" and option(WINOGRAD_CODE).runs_winograd(model)
    )
    lost = lost or (mode.kernels == COMPILED and (model.arch, frozen) in Compiled.failed)
    return replace(mode, kernels=TORCH) if lost else mode


class Runner:
    """Runs a network in a mode; outputs are float32."""

    def __init__(self, model: TappedModel, mode: Mode, frozen: bool = False, captured: bool = False) -> None:
        self.model, self.mode = model, mode
        self._whole = frozen and mode.precision == "bf16" and not _normalises(model)
        if self._whole:
            model.to(torch.bfloat16)
        self._run: Callable[..., Outputs] = Compiled(model, frozen, captured) if mode.kernels == COMPILED else model

    @classmethod
    def frozen(cls, model: TappedModel, mode: Mode, images: Tensor, captured: bool = False) -> "Runner":
        """Return a runner of a copy that nothing trains: BatchNorm folded, weights made ready once.

        Images (B,3,H,W) show what follows what; bfloat16 copies without a norm left hold bfloat16 weights. One that is
        `captured` is part of a larger CUDA graph.
        """
        use = folded(model, images.contiguous(memory_format=mode.memory_format))
        if use is model:
            use = copy.deepcopy(model).eval().requires_grad_(False)
        use.to(memory_format=mode.memory_format)  # type: ignore[call-overload]
        run_direct(use)
        if mode.kernels == WINOGRAD and mode.precision == "fp32" and images.device.type == "cpu":
            option(WINOGRAD_CODE).use_winograd(use, frozen=True)
        return cls(use, mode, frozen=True, captured=captured)

    def __call__(self, images: Tensor, taps: Sequence[str]) -> Outputs:
        """Return logits and taps of images (B,3,H,W)."""
        images = images.contiguous(memory_format=self.mode.memory_format)
        if self._whole:
            logits, found = self._run(images.bfloat16(), tuple(taps))
        else:
            with self.mode.on(images.device).autocast():
                logits, found = self._run(images, tuple(taps))
        return logits.float(), {name: tap.float() for name, tap in found.items()}


class Compiled:
    """A network compiled for the first shape that it sees, a full batch; any other runs as is.

    So there is one graph for a training, and the last batch of an epoch does not make another. Where compiling fails
    (no C++ compiler, say) the network runs as is, with one log line.
    """

    paused = False
    failed: ClassVar[set[tuple[str, bool]]] = set()
    """What could not be compiled in this process: architecture, and whether frozen."""

    def __init__(self, model: TappedModel, frozen: bool, captured: bool = False) -> None:
        from torch._functorch import config

        self.model, self._frozen, self._shape = model, frozen, torch.Size()
        self._on_gpu = next(model.parameters()).is_cuda
        self._copied = frozen and self._on_gpu and not captured
        # a graph that several backward passes go through (losses with momenta of their own) keeps its buffers
        config.donated_buffer = False
        # what make_deterministic asked for holds for the compiler's choices too
        torch.use_deterministic_algorithms(torch.are_deterministic_algorithms_enabled(), warn_only=True)
        self._run: Callable[..., Any] | None = torch.compile(model, dynamic=False, **self._options(frozen))

    def _options(self, frozen: bool) -> dict[str, Any]:
        if self._copied:
            return {"mode": "reduce-overhead"}  # a CUDA graph of its own
        # on a CPU, weights laid out for their kernels once
        return {"options": {"freezing": True}} if frozen and not self._on_gpu else {}

    def __call__(self, images: Tensor, taps: tuple[str, ...]) -> Outputs:
        """Return logits and taps of images (B,3,H,W)."""
        self._shape = self._shape or images.shape
        if Compiled.paused or self._run is None or images.shape != self._shape:
            return self.model(images, taps)
        try:
            logits, found = self._run(images, taps)
        except _failures() as error:
            reason = str(error).strip().splitlines()[0]
            log.warning("%s cannot be compiled and runs as is: %s", self.model.arch, reason)
            self._run = None
            Compiled.failed.add((self.model.arch, self._frozen))
            return self.model(images, taps)
        if self._copied:  # the next replay of a CUDA graph writes over what the last one returned
            return logits.clone(), {name: tap.clone() for name, tap in found.items()}
        return logits, found


@contextmanager
def uncompiled() -> Iterator[None]:
    """Let compiled networks run as is, for who counts their operations."""
    Compiled.paused = True
    try:
        yield
    finally:
        Compiled.paused = False


def _failures() -> tuple[type[Exception], ...]:
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import InductorError

    return TorchDynamoException, InductorError


def _normalises(model: nn.Module) -> bool:
    """Whether a network still has layers whose sums want float32."""
    kinds = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.MultiheadAttention)
    return any(isinstance(module, kinds) for module in model.modules())
