"""Number formats: what each device has, and what is asked of torch for it."""

import pytest
import torch

from kd.engine.precision import Precision, choose_precision, set_kernels
from kd.schema.config import Recipe
from kd.tools.errors import UserError

CPU = torch.device("cpu")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_was_not_measured_runs_in_float32_on_every_machine(device):
    assert choose_precision("auto", torch.device(device)).name == "fp32"


@pytest.mark.parametrize("name", ["fp16", "tf32"])
def test_formats_of_gpus_are_refused_on_a_cpu(name):
    with pytest.raises(UserError, match=f"recipe.precision: {name} needs a GPU, found a CPU; allowed there are auto"):
        choose_precision(name, CPU)


@pytest.mark.parametrize(("generation", "refused"), [((7, 5), True), ((8, 0), False), ((9, 0), False)])
def test_tf32_is_refused_on_gpus_that_do_not_have_it(monkeypatch, generation, refused):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: generation)
    if not refused:
        assert choose_precision("tf32", torch.device("cuda")).name == "tf32"
        return
    with pytest.raises(UserError, match=r"tf32 needs a GPU of compute capability 8\.0 or later"):
        choose_precision("tf32", torch.device("cuda"))


@pytest.fixture
def tf32_flags():
    """Leave torch's flags as they were found."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("name", ["auto", "fp32", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize("before", [True, False])
def test_float32_products_are_rounded_to_tf32_where_that_was_asked_for_by_name_alone(tf32_flags, name, before):
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = before
    set_kernels(Recipe(epochs=1, precision=name))
    flags = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    newer = torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    assert flags == (name == "tf32",) * 2
    assert [value == "tf32" for value in newer] == [name == "tf32"] * 2, "torch's newer flags say the same"


def test_tf32_needs_neither_autocast_nor_a_scaler():
    precision = Precision("tf32", torch.device("cuda"))
    with precision.autocast():
        assert not torch.is_autocast_enabled("cuda")
    assert not Precision("tf32", CPU).scaler().is_enabled()


@pytest.mark.parametrize(("name", "enabled"), [("fp32", False), ("bf16", False), ("fp16", True)])
def test_losses_are_scaled_for_fp16_alone(name, enabled):
    # fp16 is refused on a CPU before training, but its scaler can be made there
    scaler = Precision(name, CPU).scaler()
    assert scaler.is_enabled() == enabled
    assert scaler.scale(torch.tensor(1.0)).item() == (1024.0 if enabled else 1.0)
