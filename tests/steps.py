"""Methods asked as the engine asks them, with outputs from plain dictionaries."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from kd.engine.timetable import schedules
from kd.methods.contract import Batch, Context, Method, Output, Outputs, Progress, Seen, Step


def fitted(method: Method, context: Context) -> tuple[dict[str, tuple[str, ...]], nn.ModuleDict]:
    """Return the taps that a method names and the modules that it builds."""
    named = method.taps(context)
    return named, method.build(replace(context, named=named))


def loss_of(
    method: Method,
    update: str,
    batch: Batch,
    outputs: Mapping[str, Output],
    extra: nn.ModuleDict | None = None,
    progress: Progress | None = None,
    views: Mapping[str, Mapping[str, Output]] | None = None,
) -> dict[str, Tensor]:
    """Return the terms of an update; by default nothing was built, and training begins."""
    seen = Seen(Outputs(outputs), {name: Outputs(found) for name, found in (views or {}).items()})
    columns = schedules(method, [progress or Progress(0.0, 1)])
    schedule = {name: column[0] for name, column in columns.items()}
    return method.loss(Step(update, batch, seen, nn.ModuleDict() if extra is None else extra, schedule))
