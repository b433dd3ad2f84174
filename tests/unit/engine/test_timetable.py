"""What moves from step to step is written ahead, to the last bit."""

import torch

from kd.engine.ema import ema_decay
from kd.engine.optim import clip_norm, lr_factor
from kd.engine.timetable import Timetable
from kd.methods.contract import Progress
from kd.schema.config import Recipe

RECIPE = Recipe(
    epochs=8,
    schedule="cosine",
    warmup_epochs=2.0,
    ema_decay=0.99,
    ema_start_decay=0.9,
    ema_warmup_epochs=3.0,
    grad_clip=1.0,
    grad_clip_final=0.3,
)
STEPS = 7


def of_epoch(epoch, weigh=lambda term, progress: 1.0, before=0.0):
    done = [Progress(epoch + step / STEPS, 4) for step in range(STEPS)]
    return Timetable(RECIPE, weigh, done, before, lambda at: lr_factor(RECIPE, before + at))


def test_every_column_holds_what_its_schedule_says_at_the_beginning_of_each_step():
    found = of_epoch(1, before=4.0)
    assert len(found) == STEPS
    for step in range(STEPS):
        at = 1 + step / STEPS
        assert float(found.lr[step]) == lr_factor(RECIPE, 4.0 + at)
        assert float(found.max_norm[step]) == clip_norm(RECIPE, (4.0 + at) / 8)
        assert float(found.ema_decay[step]) == ema_decay(RECIPE, at)
    assert found.lr.dtype == found.max_norm.dtype == found.ema_decay.dtype == torch.float64


def test_a_term_is_weighed_once_an_epoch_for_all_of_its_steps():
    asked = []

    def weigh(term, progress):
        asked.append(term)
        return progress.share / 3

    found = of_epoch(2, weigh)
    weights = [float(found.weight("kd")[step]) for step in range(STEPS)]
    assert weights == [min(1.0, (2 + step / STEPS) / 4) / 3 for step in range(STEPS)]
    assert asked == ["kd"] * STEPS
