"""Trainings of as many epochs as a number of operations lasts for, in place of the recipe's."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from kd.engine.checkpoint import ResumeFile
from kd.engine.jobs.files import Files
from kd.engine.jobs.trainings import frozen_forward_of
from kd.engine.jobs.workbench import Workbench, prepare
from kd.engine.training import Training
from kd.methods.contract import stages_of
from kd.schema.config import Recipe
from kd.study.experiment import checked
from kd.study.job_settings import JobSettings
from kd.tools.errors import UserError
from kd.tools.files import read_json

log = logging.getLogger(__name__)


def within_budget(job: JobSettings, files: Files) -> JobSettings:
    """Return a job whose recipe has the whole number of epochs, at least one, that comes nearest to its budget."""
    assert job.budget is not None, "a job of the recipe's epochs has no budget"
    of_rows, own = files.budget[: sum(job.budget.rows)], files.budget[sum(job.budget.rows) :]
    assert len(own) == job.budget.own, "every record is of a row or of the job's own"
    flops = most_expensive(job.budget.rows, of_rows)
    before, each = cost(prepare(job, files), files)
    epochs = max(1, round((flops - sum(map(_flops, own)) - before) / each))
    log.info("%.4g operations last for %d epochs of %.4g, the recipe has %d", flops, epochs, each, job.recipe.epochs)
    known = {"flops": flops, "recipe_epochs": job.recipe.epochs}
    return job.model_copy(
        update={"recipe": stretched(job.recipe, epochs), "budget": job.budget.model_copy(update=known)}
    )


def most_expensive(rows: Sequence[int], records: Sequence[Path]) -> float:
    """Return the operations of the most expensive row: `rows` says how many of the records each of them has.

    Errors: UserError for a run that failed, whose operations are not those of the whole.
    """
    assert sum(rows) == len(records), "every record is of one row"
    left, sums = iter(records), []
    for count in rows:
        sums.append(sum(_flops(next(left)) for _ in range(count)))
    return max(sums)


def _flops(path: Path) -> float:
    record = read_json(path)
    status = record.get("status", "ok")
    if status != "ok":
        raise UserError(f"{path.parent} {status}, so there is no compute to match: {record.get('reason')}")
    try:
        return float(record["flops"]["train"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not say how many operations its training took") from error


def cost(bench: Workbench, files: Files) -> tuple[float, float]:
    """Return the operations before the first epoch and of each one of a training in one stage.

    It takes a step with each size of batch that an epoch has, so that the bench is of no use for a training afterwards.
    """
    nowhere = ResumeFile(Path(os.devnull), "")
    training = Training(
        bench.team,
        bench.method,
        bench.data,
        bench.job.recipe,
        bench.precision,
        bench.job.seed,
        nowhere,
        lambda row: None,
        frozen_forward_of(bench, files),
    )
    (stage,) = stages_of(bench.method)
    training.start([stage])
    before = training.result.flops
    training.begin_epoch()
    sizes: list[int] = []
    costs: dict[int, float] = {}
    for batch in training.feed.epoch():
        size = len(batch.labels)
        sizes.append(size)
        if size not in costs:
            done = training.result.flops
            training.step(batch, training.frozen.outputs(batch), training.frozen.cost(size))
            costs[size] = training.result.flops - done
    return before, sum(costs[size] for size in sizes)


def stretched(recipe: Recipe, epochs: int) -> Recipe:
    """Return a recipe of other epochs, all that it counts in epochs being the same shares of them."""
    if epochs == recipe.epochs:
        return recipe
    longer = epochs / recipe.epochs
    changes = {
        "epochs": epochs,
        "milestones": [_stretched(milestone, recipe.epochs, longer) for milestone in recipe.milestones],
        "warmup_epochs": recipe.warmup_epochs * longer,
        "ema_warmup_epochs": recipe.ema_warmup_epochs * longer,
    }
    return checked(Recipe, {**recipe.model_dump(), **changes}, "recipe of the budget")


def _stretched(milestone: float, epochs: int, longer: float) -> float:
    """Return a milestone as a share of the epochs, which it may be already; one beyond them stays beyond."""
    if milestone < 1:
        return milestone
    return milestone / epochs if milestone < epochs else milestone * max(longer, 1.0)
