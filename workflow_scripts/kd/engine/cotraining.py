"""Methods of one seed and team trained side by side: one pass over the data and one of the frozen teachers for all.

Each training keeps its own networks, optimisers, random generators and resume file, and takes the very steps that it
would take alone: the same images in the same order, from the same teachers. One that diverges ends alone, too.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from kd.engine.checkpoint import restore_rng, rng_state
from kd.engine.history import Result
from kd.engine.training import Training
from kd.methods.contract import Stage
from kd.tools.errors import DivergenceError, UserError


@dataclass
class Companion:
    """A training with the state of torch's global generators that it left."""

    training: Training
    rng: dict[str, torch.Tensor]
    failure: UserError | None = None
    """Why it ended before its time."""

    @contextmanager
    def turn(self, missed: float = 0.0) -> Iterator[Training]:
        """Give it the machine: its clock runs, after `missed` seconds of shared work, and it draws its own numbers.

        A divergence inside ends this training alone.
        """
        device = self.training.team.device
        restore_rng(self.rng, device)
        self.training.clock.go_on(missed)
        try:
            yield self.training
        except DivergenceError as error:
            self.failure = error
        except torch.linalg.LinAlgError as error:  # what decompositions say of matrices that are not finite
            self.failure = DivergenceError(f"training diverged: {str(error).splitlines()[0]}")
        self.training.clock.pause()
        self.rng = rng_state(device)

    @property
    def going(self) -> bool:
        """Whether it has epochs to train."""
        return self.failure is None and not self.training.finished


def train_together(trainings: Sequence[Training], plans: Sequence[list[Stage]]) -> list[Result | UserError]:
    """Train all of them to their ends and return what each leaves, or why it failed.

    Whoever is ahead after an interruption waits for the others.
    """
    companions = [_started(training, stages) for training, stages in zip(trainings, plans, strict=True)]
    while waiting := [companion for companion in companions if companion.going]:
        behind = min(len(companion.training.result.rows) for companion in waiting)
        ready = [companion for companion in waiting if len(companion.training.result.rows) == behind]
        for bundle in _bundles(ready):
            _epoch(bundle)
    return [companion.failure or companion.training.result for companion in companions]


def _started(training: Training, stages: list[Stage]) -> Companion:
    torch.manual_seed(training.own_seed)
    training.start(stages)
    training.clock.pause()
    return Companion(training, rng_state(training.team.device))


def _bundles(companions: Sequence[Companion]) -> list[list[Companion]]:
    """Group trainings whose next epochs are the same batches, seen by the same frozen teachers."""
    bundles: list[list[Companion]] = []
    for companion in companions:
        mine = companion.training
        for bundle in bundles:
            first = bundle[0].training
            if first.feed.serves_the_same(mine.feed) and first.frozen.sees_the_same(mine.frozen):
                bundle.append(companion)
                break
        else:
            bundles.append([companion])
    return bundles


def _epoch(bundle: Sequence[Companion]) -> None:
    first = bundle[0].training
    taps = first.frozen.shared_taps([companion.training.frozen for companion in bundle])
    for companion in bundle:
        companion.training.begin_epoch()
    since = time.perf_counter()
    # What an epoch of its own draws from the first's streams the others draw in turn; they are set to it afterwards.
    for batch in first.feed.epoch():
        known = first.frozen.outputs(batch, taps)
        shared = time.perf_counter() - since
        for companion in bundle:
            if companion.failure is not None:
                continue
            with companion.turn(shared) as training:
                training.step(batch, known, first.frozen.cost(len(batch.labels)))
        since = time.perf_counter()
    for companion in bundle:
        if companion.failure is not None:
            continue
        companion.training.feed.load_state_dict(first.feed.state_dict())
        with companion.turn() as training:
            training.end_epoch()
