"""One step of a training: each update of the stage in turn runs its networks, adds up its terms and descends.

A step is a function of tensors on the device: what varies from one to the next it reads from the timetable, whose row
it moves on itself. So a GPU can replay one that it has seen; what the host counts is counted elsewhere.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from kd.engine.flops import FlopCounter
from kd.engine.optim import SplitMomentum, branch_totals, descend, descend_by_branch, set_lr
from kd.engine.runner import uncompiled
from kd.engine.stage import StageRun
from kd.engine.timetable import LR, MAX_NORM
from kd.methods.contract import STUDENT, Batch, Momenta, Outputs, Seen, Step, Update


def take_step(run: StageRun, batch: Batch, known: Seen) -> None:
    """Train on a batch, of which `known` is what the roles that are not trained make.

    What it finds on its way goes to the sums of the epoch.
    """
    size = len(batch.labels)
    if size in run.flops:
        _updates(run, batch, known)
    else:  # a last, smaller batch is counted for itself: what compares images grows with their square
        with uncompiled(), FlopCounter() as counter:
            _updates(run, batch, known)
        run.flops[size] = float(counter.total)


def _updates(run: StageRun, batch: Batch, known: Seen) -> None:
    run.timetable.read()
    for update in run.stage.updates:
        _update(run, update, batch, known)
    run.average("step")
    run.timetable.advance()


def _update(run: StageRun, update: Update, batch: Batch, known: Seen) -> None:
    timetable = run.timetable
    # A CPU's kernels take learning rates from the host, and no graph replays them. It is the one number of a step that
    # is not read on the device there, as tensors would only be read back from it.
    set_lr(run.optimizers[update.name], timetable[LR] if run.replayable else timetable.host[LR][run.steps_done])
    seen = _forward(run, update, batch, known)
    terms = run.method.loss(Step(update.name, batch, seen, run.team.extra, timetable.schedule()))
    weighted = {term: timetable.weight(term).to(value.dtype) * value for term, value in terms.items()}
    total = torch.stack(list(weighted.values())).sum()
    _descend(run, update, total, weighted)
    _add_up(run, update, batch, seen.outputs, terms, total)


def _forward(run: StageRun, update: Update, batch: Batch, known: Seen) -> Seen:
    """Run what is not known on the batch and its further views; what is neither known nor trained is not wanted."""

    def run_on(images: Tensor, known: Outputs) -> Outputs:
        return run.team.forward(images, run.precision, frozenset(update.trains), known, run.trained)

    outputs = run_on(batch.images, known.outputs)
    views = {name: run_on(view, known.views[name]) for name, view in batch.views.items()}
    # trainings that share a forward pass know the taps of all of them
    return Seen(outputs, views).narrowed(run.team.taps)


def _descend(run: StageRun, update: Update, total: Tensor, weighted: Mapping[str, Tensor]) -> None:
    optimizer, max_norm = run.optimizers[update.name], run.timetable[MAX_NORM] if run.recipe.grad_clip > 0 else None
    if isinstance(optimizer, SplitMomentum):
        assert isinstance(run.method, Momenta)
        descend_by_branch(optimizer, branch_totals(weighted, run.method.momenta()), run.scaler, max_norm)
    else:
        descend(optimizer, total, run.scaler, max_norm)


def _add_up(
    run: StageRun,
    update: Update,
    batch: Batch,
    outputs: Outputs,
    terms: Mapping[str, Tensor],
    total: Tensor,
) -> None:
    sums, updates = run.sums, run.stage.updates
    items = len(batch.labels) // batch.group
    prefix = "" if len(updates) == 1 else f"{update.name}/"
    loss = "train_loss" if update is updates[0] else f"train_loss/{update.name}"
    sums.add({loss: total, **{f"loss/{prefix}{term}": value for term, value in terms.items()}}, items)
    sums.watch({f"{prefix}{term}": value for term, value in terms.items()}, run.timetable.row)
    # a method may have made one image of several, whose class nobody knows
    if STUDENT in update.trains and len(outputs[STUDENT].logits) == len(batch.labels):
        hits = (outputs[STUDENT].logits.detach().argmax(1) == batch.labels).double().mean()
        sums.add({"train_top1": 100 * hits}, items)
