"""Device, number format and memory layout of a training."""

import contextlib
from dataclasses import dataclass

import torch

from kd.schema.config import Recipe
from kd.tools.errors import UserError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def training_device() -> torch.device:
    """Return the first visible GPU, or the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def runs_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 at all, rather than emulating it, several times slower than float32."""
    if device.type == "cuda":
        return has_fast_bf16(device)
    return has_fast_bf16(device) or bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


def has_fast_bf16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are faster than in float32 on this device."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    # Without AMX tiles a CPU gains little from bfloat16, or emulates it.
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())


@dataclass(frozen=True)
class Precision:
    """How forward passes run; losses are always computed in float32."""

    name: str
    device: torch.device

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Return the context that forward passes run in."""
        if self.name not in DTYPES:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=DTYPES[self.name])

    def scaler(self) -> torch.amp.GradScaler:
        """Return the gradient scaler, which does nothing but for fp16."""
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16", init_scale=1024.0)


def choose_precision(name: str, device: torch.device) -> Precision:
    """Resolve 'auto', where nothing was measured, to float32; what the device does not have is a UserError."""
    if name in {"fp16", "tf32"} and device.type == "cpu":
        raise UserError(f"recipe.precision: {name} needs a GPU, found a CPU; allowed there are auto, fp32 and bf16")
    if name == "tf32" and not has_fast_bf16(device):  # both came with the same generation
        raise UserError("recipe.precision: tf32 needs a GPU of compute capability 8.0 or later; allowed here is fp32")
    return Precision("fp32" if name == "auto" else name, device)


def check_capture(recipe: Recipe, device: torch.device) -> None:
    """Raise a UserError where a recipe insists on CUDA graphs and there are none."""
    if recipe.capture == "on" and device.type != "cuda":
        raise UserError("recipe.capture: on needs a GPU, found a CPU; allowed there are auto and off")


def set_kernels(recipe: Recipe) -> None:
    """Ask torch for the kernels that a recipe means, once at the start of a job."""
    make_deterministic(recipe.deterministic)
    allow_tf32(recipe.precision == "tf32")


def make_deterministic(enabled: bool) -> None:
    """Ask for kernels that give the same bits every time."""
    # not torch.use_deterministic_algorithms, which imports the compiler to tell it too: `Compiled` does that
    torch.set_deterministic_debug_mode("warn" if enabled else "default")
    # by default that also fills every new tensor with NaN, a pass over memory that no result depends on
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not enabled


def allow_tf32(allowed: bool) -> None:
    """Let float32 products on a GPU be rounded to TF32's 10 bits, or see that they are float32.

    Convolutions are rounded unless somebody says otherwise. These names and not the newer fp32_precision: they set both
    kinds of flags, and torch refuses to read the one kind where only the other was set.
    """
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed
