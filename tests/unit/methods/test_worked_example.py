"""The worked example of a method of one's own learns what its card says."""

from pathlib import Path

import torch
from steps import loss_of

from kd.engine.resolve import build_method
from kd.methods.contract import STUDENT, Batch, Output, teacher
from kd.study.job_settings import MethodPart

CARD = Path(__file__).resolve().parents[3] / "config" / "own" / "js_kd.yaml"


def test_the_method_is_what_its_card_says():
    settings = {"ce_weight": 0.5, "js_weight": 2.0, "temperature": 3.0}
    method = build_method([MethodPart(card=str(CARD), settings=settings)], 1)
    z, t = (torch.randn(6, 4, generator=torch.Generator().manual_seed(k), dtype=torch.float64) for k in (0, 1))
    labels = torch.arange(6) % 4
    batch = Batch(torch.zeros(6, 3, 2, 2), labels, torch.arange(6), labels)
    found = loss_of(method, STUDENT, batch, {STUDENT: Output(z, {}), teacher(0): Output(t, {})})
    p, q = (t / 3).softmax(1), (z / 3).softmax(1)
    middle = (p + q) / 2
    kl = (p * (p / middle).log()).sum(1) + (q * (q / middle).log()).sum(1)
    torch.testing.assert_close(found["js"], 9 * (kl / 2).mean())
    torch.testing.assert_close(found["ce"], torch.nn.functional.cross_entropy(z, labels))
