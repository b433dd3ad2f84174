"""What a teacher makes of the training images, asked for by a method that measures it before any student."""

import torch
from torch import Tensor

from kd.engine.data import Data
from kd.engine.flops import FlopCounter
from kd.engine.precision import Precision
from kd.engine.runner import uncompiled
from kd.engine.team import Team
from kd.methods.contract import Output, teacher

ROLE = teacher(0)


class TeacherLook:
    """Answers a method's questions, and counts what they cost (`kd.methods.contract.Look`)."""

    def __init__(self, team: Team, data: Data, precision: Precision, batch_size: int, seed: int) -> None:
        self.team, self.data, self.precision, self.batch_size = team, data, precision, batch_size
        self.draws = torch.Generator().manual_seed(seed)
        self.counter = FlopCounter()
        team.fold([ROLE])

    @torch.no_grad()
    def __call__(self, positions: Tensor, augmented: bool = False) -> Output:
        """Return what the teacher makes of the images at these positions, batch by batch."""
        found = []
        for batch, _, _ in self.data.train.batches(positions, self.batch_size):
            augmenter = self.data.augmenter
            images = augmenter.train(batch, self.draws) if augmented else augmenter.plain(batch)
            self.team.make_ready([ROLE], images, self.precision)
            with uncompiled(), self.counter:
                found.append(self.team.forward(images, self.precision, roles=[ROLE])[ROLE])
        taps = {tap: torch.cat([output.taps[tap] for output in found]) for tap in self.team.taps[ROLE]}
        return Output(torch.cat([output.logits for output in found]), taps, found[0].classifier)
