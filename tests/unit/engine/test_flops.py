"""Operations are counted as torch counts them, and counting starts nothing else."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from kd.engine.flops import FlopCounter
from kd.models.build import build_model
from kd.spec.config import ModelSettings


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
