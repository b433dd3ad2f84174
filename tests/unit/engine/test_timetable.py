"""What moves from step to step is written ahead, to the last bit."""

import torch

from kd.engine.optim import clip_norm, lr_factor
from kd.engine.timetable import EMA_STEP, LR, MAX_NORM, Timetable, ema_decay
from kd.methods.contract import Method, Progress
from kd.schema.cards import MethodSettings
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


class Weighed(Method):
    """Weighs its terms by what is left of a stage, and notes that it was asked."""

    def __init__(self):
        super().__init__(MethodSettings())
        self.asked = []

    def weight(self, term, progress):
        self.asked.append(term)
        return progress.share / 3


class Moving(Weighed):
    def schedule(self, progress):
        return {"tau": 4.0 - progress.epoch / 3}


def of_epoch(epoch, method=None, before=0.0, found=None):
    found = found or Timetable(RECIPE, method or Weighed(), torch.device("cpu"))
    done = [Progress(epoch + step / STEPS, 4) for step in range(STEPS)]
    found.fill(done, before, lambda at: lr_factor(RECIPE, before + at))
    return found


def steps(found):
    """Yield the number of every step of an epoch, with the timetable at its row."""
    for step in range(STEPS):
        found.read()
        yield step
        found.advance()


def test_every_column_holds_what_its_schedule_says_at_the_beginning_of_each_step():
    found = of_epoch(1, before=4.0)
    for step in steps(found):
        at = 1 + step / STEPS
        assert float(found[LR]) == found.host[LR][step] == lr_factor(RECIPE, 4.0 + at)
        assert float(found[MAX_NORM]) == clip_norm(RECIPE, (4.0 + at) / 8)
        assert float(found[EMA_STEP]) == 1 - ema_decay(RECIPE, at)
        assert {found[name].dtype for name in (LR, MAX_NORM, EMA_STEP)} == {torch.float64}


def test_a_term_is_weighed_once_an_epoch_for_all_of_its_steps():
    method = Weighed()
    found = of_epoch(2, method)
    weights = [float(found.weight("kd")) for _ in steps(found)]
    assert weights == [min(1.0, (2 + step / STEPS) / 4) / 3 for step in range(STEPS)]
    assert method.asked == ["kd"] * STEPS


def test_a_loss_reads_its_own_schedules_as_they_are_at_its_step():
    first = of_epoch(0)
    first.read()
    assert first.schedule() == {}
    found = of_epoch(1, Moving())
    for step in steps(found):
        tau = found.schedule()["tau"]
        assert (tau.shape, tau.dtype) == ((), torch.float64)
        assert float(tau) == 4.0 - (1 + step / STEPS) / 3


def test_the_next_epoch_is_written_over_the_last_one():
    """A graph of a step reads the memory that it has seen; only a term that nobody knew moves the numbers."""
    found = of_epoch(0, Moving())
    found.read()
    before = found.place
    found.weight("kd")
    place, row = found.place, found.row.data_ptr()
    assert place != before
    of_epoch(1, found=found)
    assert (found.place, found.row.data_ptr(), int(found.row)) == (place, row, 0)
    for step in steps(found):
        assert float(found.weight("kd")) == min(1.0, (1 + step / STEPS) / 4) / 3
