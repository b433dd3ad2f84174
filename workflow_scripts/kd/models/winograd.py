"""3x3 convolutions of float32 on a CPU by Winograd's minimal filtering, in code that the C compiler here builds once.

A quarter of the multiplications of a direct convolution, for rounding errors about ten times as large (1e-5 of the
largest value). Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, F(4x4, 3x3).
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kd.tools.errors import UserError
from kd.tools.files import atomic_path

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_suffix(".c")
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", "-fPIC", "-shared")
PANEL = 32
"""Numbers of channels are multiples of it."""

# G (6,3) of F(4,3): U = G w G^T; rows of the Kronecker square transform a kernel as a vector of nine
_G = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]


class WinogradConv2d(nn.Conv2d):
    """A convolution that runs as Winograd's where it can: float32 maps on a CPU, outside autocast."""

    kept: Tensor | None = None
    """Transformed weights of a convolution that is never trained."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of maps (B,C,H,W)."""
        if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        if self.kept is not None:
            return torch.ops.kd_native.winograd(_last(x), self.kept, self.bias)
        y = _Convolution.apply(x, self.weight)
        return y if self.bias is None else y + self.bias[:, None, None]

    def run_direct(self) -> None:
        """Run as torch's again."""
        self.kept = None
        self.__class__ = nn.Conv2d  # type: ignore[assignment]


def use_winograd(model: nn.Module, frozen: bool = False) -> int:
    """Let every convolution of a model that fits run as Winograd's; return how many do (0 without a C compiler).

    Parameters, names and state dicts stay as they are. A frozen model's weights are transformed once, here.
    """
    found = [module for module in model.modules() if isinstance(module, nn.Conv2d) and _fits(module)]
    if not found or library() is None:
        return 0
    for module in found:
        # the same parameters, hooks and names, another forward
        module.__class__ = WinogradConv2d  # type: ignore[assignment]
        if frozen:
            module.kept = transformed(module.weight.detach())
    return len(found)


def runs_winograd(model: nn.Module) -> bool:
    """Whether some convolution of a model can run as Winograd's here."""
    return any(isinstance(module, nn.Conv2d) and _fits(module) for module in model.modules()) and library() is not None


def _fits(module: nn.Conv2d) -> bool:
    if type(module) not in (nn.Conv2d, WinogradConv2d):
        return False
    plain = module.stride == module.dilation == (1, 1) and module.padding == (1, 1) and module.padding_mode == "zeros"
    whole = module.groups == 1 and module.in_channels % PANEL == 0 and module.out_channels % PANEL == 0
    return module.kernel_size == (3, 3) and plain and whole


# --- the arithmetic ---------------------------------------------------------------------------------


@cache
def _kronecker() -> Tensor:
    g = torch.tensor(_G, dtype=torch.float64)
    return torch.kron(g, g).float()


def transformed(weight: Tensor) -> Tensor:
    """Return weights (N,C,3,3) as (36,N/32,C,32), the panels that the products read."""
    return torch.ops.kd_native.winograd_transformed(weight)


def _transformed(weight: Tensor) -> Tensor:
    outputs, inputs = weight.shape[:2]
    planes = _kronecker() @ weight.reshape(outputs * inputs, 9).T
    return planes.view(36, outputs // PANEL, PANEL, inputs).transpose(2, 3).contiguous()


def _untransformed(planes: Tensor, outputs: int, inputs: int) -> Tensor:
    """Return the gradient (N,C,3,3) to weights of that to their transforms."""
    return (_kronecker().T @ planes.view(36, -1)).view(3, 3, inputs, outputs).permute(3, 2, 0, 1)


class _Convolution(torch.autograd.Function):
    """The convolution of maps (B,C,H,W) with weights (N,C,3,3), padding 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """Return maps (B,N,H,W)."""
        x = _last(x)
        ctx.save_for_backward(x, weight)
        return torch.ops.kd_native.winograd(x, transformed(weight), None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients to maps and weights, None to what asks for none."""
        x, weight = ctx.saved_tensors
        gradient = _last(gradient)
        to_x = to_weight = None
        if ctx.needs_input_grad[0]:
            to_x = torch.ops.kd_native.winograd(gradient, transformed(weight.transpose(0, 1).flip(2, 3)), None)
        if ctx.needs_input_grad[1]:
            planes = torch.ops.kd_native.winograd_weight_gradient(x, gradient)
            outputs, inputs = weight.shape[:2]
            to_weight = torch.ops.kd_native.winograd_untransformed(planes, outputs, inputs)
        return to_x, to_weight


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


# Operators, not bare calls, so that FlopCounter sees convolutions and counts no product within them.
_operators = torch.library.Library("kd_native", "DEF")
_operators.define("winograd(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
_operators.define("winograd_weight_gradient(Tensor x, Tensor gradient) -> Tensor")
_operators.define("winograd_transformed(Tensor weight) -> Tensor")
_operators.define("winograd_untransformed(Tensor planes, int outputs, int inputs) -> Tensor")


def _winograd(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    images, inputs, height, width = x.shape
    outputs = weight.shape[1] * PANEL
    y = torch.empty((images, outputs, height, width), memory_format=torch.channels_last)
    _call("winograd_convolution", (x, weight, bias, y), (images, height, width, inputs, outputs))
    return y


def _winograd_weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    images, inputs, height, width = x.shape
    planes = torch.empty(36, inputs, gradient.shape[1])
    _call("winograd_weight_gradient", (x, gradient, planes), (images, height, width, inputs, gradient.shape[1]))
    return planes


_operators.impl("winograd", _winograd, "CPU")
_operators.impl("winograd_weight_gradient", _winograd_weight_gradient, "CPU")
_operators.impl("winograd_transformed", _transformed, "CPU")
_operators.impl("winograd_untransformed", _untransformed, "CPU")


def _call(name: str, tensors: Sequence[Tensor | None], sizes: Sequence[int]) -> None:
    built = library()
    assert built is not None, "a Winograd convolution is made only where its library was built"
    pointers = [ctypes.c_void_p(None if tensor is None else tensor.data_ptr()) for tensor in tensors]
    if getattr(built, name)(*pointers, *map(ctypes.c_long, sizes)):
        raise MemoryError


def _flops(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    """Count what a direct convolution would take, so that costs compare between kernels."""
    images, inputs, height, width = x
    return 2 * 9 * images * height * width * inputs * weight[1] * PANEL


def _gradient_flops(x: Sequence[int], gradient: Sequence[int], *_: Any, **__: Any) -> int:
    images, inputs, height, width = x
    return 2 * 9 * images * height * width * inputs * gradient[1]


def flop_formulas() -> dict[Any, Callable[..., int]]:
    """Return by operator what counts its operations, for FlopCounter."""
    operators = torch.ops.kd_native
    return {operators.winograd: _flops, operators.winograd_weight_gradient: _gradient_flops}


# --- the library ------------------------------------------------------------------------------------


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled library, built once for this CPU; None, with one log line, where that fails."""
    names = (os.environ.get("CC") or "gcc", "gcc", "clang")
    compiler = next((found for name in names if (found := shutil.which(name))), None)
    if compiler is None:
        log.info("no C compiler here: convolutions run as torch's")
        return None
    try:
        return ctypes.CDLL(str(_built(compiler)))
    except (OSError, UserError, subprocess.SubprocessError) as error:
        log.info("Winograd's convolutions cannot be built with %s (%s): they run as torch's", compiler, error)
        return None


def _built(compiler: str) -> Path:
    """Return the library's file; it is named after all that decides its content."""
    content = [SOURCE.read_text(encoding="utf-8"), *FLAGS, compiler, _cpu()]
    name = hashlib.sha256("\n".join(content).encode()).hexdigest()[:16]
    path = compiler_cache() / f"winograd-{name}.so"
    if not path.is_file():
        with atomic_path(path) as temporary:
            command = [compiler, *FLAGS, str(SOURCE), "-o", str(temporary)]
            subprocess.run(command, check=True, capture_output=True, timeout=120)
    return path


def compiler_cache() -> Path:
    """Return the folder of what compilers make: KD_CACHE, which the workflow sets, or one of the user's own."""
    own = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(os.environ.get("KD_CACHE") or Path(own) / "kd-benchmark").absolute()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
