"""One step of a training: each update of the stage in turn runs its networks, adds up its terms and descends."""

from collections.abc import Mapping

import torch
from torch import Tensor

from kd.engine.flops import FlopCounter
from kd.engine.optim import SplitMomentum, branch_totals, descend, descend_by_branch, set_lr
from kd.engine.runner import uncompiled
from kd.engine.stage import StageRun
from kd.methods.contract import STUDENT, Batch, Momenta, Outputs, Seen, Step, Update


def take_step(run: StageRun, batch: Batch, known: Seen) -> float:
    """Train on a batch, of which `known` is what the roles that are not trained make, and return what it cost.

    What it finds on its way goes to the sums of the epoch.
    """
    size = len(batch.labels)
    if size in run.flops:
        _updates(run, batch, known)
    else:  # a last, smaller batch is counted for itself: what compares images grows with their square
        with uncompiled(), FlopCounter() as counter:
            _updates(run, batch, known)
        run.flops[size] = float(counter.total)
    run.steps_done += 1
    return run.flops[size]


def _updates(run: StageRun, batch: Batch, known: Seen) -> None:
    for update in run.stage.updates:
        _update(run, update, batch, known)
    run.average("step")


def _update(run: StageRun, update: Update, batch: Batch, known: Seen) -> None:
    row, timetable = run.steps_done, run.timetable
    set_lr(run.optimizers[update.name], timetable.host["lr"][row])
    seen = _forward(run, update, batch, known)
    terms = run.method.loss(Step(update.name, batch, seen, run.team.extra, timetable.schedule(row)))
    weighted = {term: timetable.weights(term)[row] * value for term, value in terms.items()}
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
    optimizer, max_norm = run.optimizers[update.name], run.timetable.host["max_norm"][run.steps_done]
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
    sums.add("train_loss" if update is updates[0] else f"train_loss/{update.name}", total, items)
    prefix = "" if len(updates) == 1 else f"{update.name}/"
    for term, value in terms.items():
        sums.add(f"loss/{prefix}{term}", value, items)
        sums.watch(f"{prefix}{term}", value, run.steps_done)
    # a method may have made one image of several, whose class nobody knows
    if STUDENT in update.trains and len(outputs[STUDENT].logits) == len(batch.labels):
        hits = (outputs[STUDENT].logits.detach().argmax(1) == batch.labels).double().mean()
        sums.add("train_top1", 100 * hits, items)
