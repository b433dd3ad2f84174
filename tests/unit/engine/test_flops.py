"""Operations are counted as torch counts them, and counting starts nothing else."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from kd.engine.flops import FlopCounter
from kd.engine.jobs.students import train_students
from kd.models.build import build_model
from kd.schema.config import ModelSettings


@pytest.mark.parametrize("arch", ["resnet8", "MobileNetV2", "ShuffleV1", "timm:convnext_atto"])
@pytest.mark.parametrize("inference", [False, True])
def test_networks_count_as_torch_counts_them(arch, inference):
    torch.manual_seed(0)
    model = build_model(ModelSettings(arch=arch), 10, 32)
    images, totals = torch.randn(2, 3, 32, 32), []
    for counter in (FlopCounter(), FlopCounterMode(display=False)):
        with counter, torch.inference_mode(inference):
            logits = model(images)[0]
            if not inference:
                logits.sum().backward()
        totals.append(counter.total if isinstance(counter, FlopCounter) else counter.get_total_flops())
    assert totals[0] == totals[1] > 0


def test_attention_counts_its_two_products_forward_and_five_backward():
    batch, heads, length, width = 2, 4, 16, 8
    query = torch.randn(batch, heads, length, width, requires_grad=True)
    product = 2 * batch * heads * length * length * width
    with FlopCounter() as counter:
        found = F.scaled_dot_product_attention(query, query, query)
    assert counter.total == 2 * product
    with FlopCounter() as counter:
        found.sum().backward()
    assert counter.total == 5 * product, "the scores are computed again"


# --- what a training is said to have cost ---------------------------------------------------------


def passes(arch, size=8):
    """Return the operations of one image's forward pass and of its first layer, worked out from the layers' shapes."""
    model = build_model(ModelSettings(arch=arch), 10, size).eval()
    found = []

    def note(module, inputs, output):
        kernel = module.weight[0].numel()  # products for one output value
        found.append(2 * kernel * output[0].numel())

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(note)
    model(torch.zeros(2, 3, size, size))
    return sum(found), found[0]


def trained_by_hand(images, epochs=2, student="resnet8"):
    """Return what training a network costs: its pass and both products of its backward pass, images needing none."""
    forward, first = passes(student)
    return epochs * images * (3 * forward - first)


@pytest.mark.parametrize("batch_size", [32, 48, 200], ids=["even", "smaller last", "one batch"])
@pytest.mark.parametrize("recipe", [{}, {"kernels": "winograd"}, {"precision": "bf16"}], ids=str)
def test_a_student_and_its_live_teacher_cost_their_passes(world, batch_size, recipe):
    result = world("kd", recipe={"batch_size": batch_size, **recipe}).train()
    assert result.flops == trained_by_hand(160) + 2 * 160 * passes("wrn_16_1")[0]


def test_several_teachers_cost_a_pass_each(world):
    result = world({"method": "avg_kd"}).train()
    assert result.flops == trained_by_hand(160) + 2 * 160 * (passes("wrn_16_1")[0] + passes("resnet14")[0])


def test_a_student_without_a_teacher_costs_its_own_passes(world):
    assert world("ce").train().flops == trained_by_hand(160)


def test_a_teacher_that_is_asked_once_costs_one_pass_an_image(world):
    here = world("kd", recipe={"augmentation": {"crop": "none", "flip": False}, "eval_batch_size": 70})
    assert here.train().flops == trained_by_hand(160) + 160 * passes("wrn_16_1")[0]


def test_what_compares_images_costs_the_square_of_each_batch(world):
    here = world("sp", recipe={"batch_size": 48})
    widths = {"resnet8": 64 * 2 * 2, "wrn_16_1": 64 * 2 * 2}
    squares = sum(2 * size**2 for size in (48, 48, 48, 16))
    products = squares * (3 * widths["resnet8"] + widths["wrn_16_1"])
    expected = trained_by_hand(160) + 2 * (160 * passes("wrn_16_1")[0] + products)
    assert here.train().flops == expected


@pytest.mark.parametrize("method", ["kd", "sp", {"method": "hint", "two_stage": True, "hint_epochs": 1}], ids=str)
def test_a_resumed_training_and_one_beside_others_cost_the_same(world, method):
    here, beside = world(method, recipe={"batch_size": 48}), world("at", recipe={"batch_size": 48})
    whole = here.train("whole").flops

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        here.train("broken", stop)
    assert here.train("broken").flops == whole
    files = [here.files("together/0"), beside.files("together/1")]
    results = train_students([here.job(), beside.job()], files, lambda row: None)
    assert results[0].flops == whole
