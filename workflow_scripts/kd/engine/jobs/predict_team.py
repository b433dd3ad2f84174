"""What all that a half-stage leaves makes of validation and training images, one by one."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from kd.engine.evaluation import seen
from kd.engine.jobs.files import Files
from kd.engine.jobs.workbench import Workbench, prepare
from kd.methods.contract import Heads, Outputs, Teaches, is_teacher
from kd.study.job_settings import JobSettings

MOST_IMAGES = 5_000
"""Images of a split that are asked about, with the same share of every class where there are more."""
GIVEN = "given"
"""What the teachers are called as they were before the first half-stage: given0, given1, ..."""


@torch.no_grad()
def predict_team(job: JobSettings, files: Files) -> dict[str, np.ndarray]:
    """Return what the state after a half-stage makes of the plain validation and training images, as `val` and `train`.

    names: (M,) the networks by role, then the method's heads; where `files` have the teachers' own weights too, then
    those teachers as `given0`, ... By split: positions (n,) in it, labels (n,), logits (M,n,C) float32. Of a training
    image the head that teaches the student has the logits that the student is taught.
    """
    given = _of_given_teachers(prepare(job, replace(files, previous=None))) if files.teachers else {}
    bench = prepare(job, files)
    arrays: dict[str, np.ndarray] = {}
    for split in ("val", "train"):
        made, labels, positions = _ask(bench, split)
        made |= given.get(split, {})
        arrays["names"] = np.array(list(made))
        arrays[f"{split}/positions"], arrays[f"{split}/labels"] = positions, labels
        arrays[f"{split}/logits"] = np.stack(list(made.values()))
    return arrays


def _of_given_teachers(bench: Workbench) -> dict[str, dict[str, np.ndarray]]:
    teachers = [role for role in bench.team.models if is_teacher(role)]
    found = {split: _ask(bench, split)[0] for split in ("val", "train")}
    return {split: {f"{GIVEN}{k}": made[role] for k, role in enumerate(teachers)} for split, made in found.items()}


def _ask(bench: Workbench, split: str) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return logits (n,C) by name, labels and positions of a split's images."""
    store = bench.data.train if split == "train" else bench.data.validation
    chosen = torch.from_numpy(even_sample(store.labels.cpu().numpy(), bench.job.split_seed))
    reading = (store, bench.data.augmenter, bench.precision, bench.job.recipe.eval_batch_size)
    parts = [
        (dict(_answers(bench, outputs, positions if split == "train" else None)), labels, positions)
        for outputs, labels, positions in seen(bench.team, *reading, positions=chosen)
    ]
    logits = {name: _joined([made[name] for made, _, _ in parts]) for name in parts[0][0]}
    return logits, _joined([labels for _, labels, _ in parts]), _joined([at for _, _, at in parts])


def _answers(bench: Workbench, outputs: Outputs, positions: Tensor | None) -> Iterator[tuple[str, Tensor]]:
    """Yield logits (B,C) by name: of all networks, then of the heads; positions (B,) are those of training images."""
    method, extra = bench.method, bench.team.extra
    yield from ((role, outputs[role].logits.float()) for role in bench.team.models)
    heads = method.heads(outputs, extra) if isinstance(method, Heads) else {}
    if positions is not None and isinstance(method, Teaches):
        heads[method.teaching] = method.taught(outputs, extra, positions)
    yield from ((name, logits.float()) for name, logits in heads.items())


def _joined(parts: list[Tensor]) -> np.ndarray:
    return torch.cat(parts).cpu().numpy()


def even_sample(labels: np.ndarray, seed: int, most: int = MOST_IMAGES) -> np.ndarray:
    """Return sorted positions of at most so many images with labels (N,), evenly over the classes.

    The sample is the same for every half-stage of a run, and for all runs with its split.
    """
    if len(labels) <= most:
        return np.arange(len(labels))
    drawn = np.random.default_rng([seed, 4]).random(len(labels))
    by_class = np.lexsort((drawn, labels))
    return np.sort(by_class[np.arange(most) * len(labels) // most])
