"""A step can be replayed: nothing in it comes from the host, and it computes what a plain loop computes."""

import copy

import pytest
import torch
from method_world import PHASES, PLAIN
from operators import differences, recorded
from tape import TapedGraph
from training_world import SCALED, SETTINGS, at_epoch, training_of, world_of

from kd.engine.capture import WARM_UP
from kd.engine.optim import SplitMomentum, branch_gradients, branch_totals, branches, clip_norm, lr_factor
from kd.engine.timetable import ema_decay
from kd.methods.contract import STUDENT, Momenta, Progress, Scheduled, Seen, Step

CASES = {
    **{f"{name}{' before' if pretrain else ''}": (name, pretrain, {}, PLAIN) for name, pretrain in PHASES},
    **{name: (name, False, {}, PLAIN) for name in SETTINGS},
    "kd+dot": ("kd+dot", False, {}, PLAIN),
    "kd, adam": ("kd", False, {"optimizer": "adam"}, PLAIN),
    "kd, adamw": ("kd", False, {"optimizer": "adamw"}, PLAIN),
    "kd, nesterov": ("kd", False, {"nesterov": True}, PLAIN),
    "kd, cutmix": ("kd", False, {"cutmix_alpha": 0.7}, PLAIN),
    "kd, fixed": ("kd", False, {"teacher_view": "fixed", "mixup_alpha": 0.0}, PLAIN),
    "kd, scaled": ("kd", False, {}, SCALED),
    "dml, scaled": ("dml", False, {}, SCALED),
    "kd+dot, scaled": ("kd+dot", False, {}, SCALED),
}
"""Every card and pre-stage, and what a recipe changes in how they descend."""


def records(training, stage):
    """Return the records of two steps of a stage, in other rows of other epochs, neither of them its first."""
    training.start([stage])
    tray = training.feed.tray

    def step():
        training._take(tray.serve(tray.size))

    for epoch, row in ((0, 1), (2, 0)):
        at_epoch(training, epoch)
        sizes = tray.epoch()
        for _ in range(row):
            assert next(sizes) == tray.size
            step()
        assert next(sizes) == tray.size
        yield recorded(step)


@pytest.mark.parametrize(("name", "pretrain", "recipe", "precision"), CASES.values(), ids=CASES.keys())
def test_a_step_holds_nothing_of_the_host(tmp_path, monkeypatch, name, pretrain, recipe, precision):
    """The numbers that operators are told are the same in any two steps, and none waits for what another one found."""
    monkeypatch.setattr("kd.engine.training.replays", lambda device: True)
    monkeypatch.setattr("kd.methods.kdsvd.on_host", lambda feature: False)
    world = world_of(name, pretrain)
    for stage in world.stages():
        first, second = records(training_of(world, tmp_path, recipe, precision), stage)
        assert len(first.calls) > 100, "a step of a network"
        assert not list(differences(first, second)), f"stage {stage.name}"
        assert not first.unfit, f"stage {stage.name}"


# --- against a plain loop -----------------------------------------------------------------------------


class Plain:
    """The same training as one writes it without an engine: numbers of the host, worked out step by step."""

    def __init__(self, training, stage, fused=False):
        """Take over the networks, images and frozen roles of a training that has entered a stage, and nothing else.

        With `fused` kernels and learning rates in tensors, as where steps are replayed: both round elsewhere.
        """
        self.fused = fused or None
        self.team, self.method, self.frozen = training.team, training.method, training.frozen
        self.feed, self.stage, self.recipe = training.feed, stage, training.stage_run.recipe
        self.trained, self.epochs = training.stage_run.trained, training.stage_run.epochs
        self.before = stage.span[0] if stage.span else 0.0
        self.optimizers = {update.name: self.optimizer(update) for update in stage.updates}
        self.averaged = copy.deepcopy(self.team.models[STUDENT]) if STUDENT in self.trained else None
        self.sums, self.items = {}, 0

    def optimizer(self, update):
        groups = [(self.team.parameters(role), update.lr_scale.get(role, 1.0)) for role in update.trains]
        listed = [{"params": own, "scale": scale} for own, scale in groups if own]
        momenta = self.method.momenta() if isinstance(self.method, Momenta) else {}
        if momenta:
            return SplitMomentum(listed, 0.0, 0.9, list(branches(momenta).values()), self.recipe.weight_decay)
        if self.recipe.optimizer != "sgd":
            kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.recipe.optimizer]
            return kind(listed, betas=self.recipe.betas, weight_decay=self.recipe.weight_decay, fused=self.fused)
        momentum, decay = self.recipe.momentum, self.recipe.weight_decay
        return torch.optim.SGD(listed, momentum=momentum, weight_decay=decay, fused=self.fused)

    def epoch(self, epoch):
        self.sums, self.items = {}, 0
        for step, batch in enumerate(self.feed.epoch()):
            self.step(batch, epoch + step / self.feed.steps)

    def step(self, batch, at):
        known, items = self.frozen.outputs(batch), len(batch.labels) // batch.group
        self.items += items
        for update in self.stage.updates:
            terms = self.update(update, batch, known, at)
            for name, value in terms.items():
                self.sums[update.name, name] = self.sums.get((update.name, name), 0.0) + float(value) * items
        if self.averaged is not None:
            decay = ema_decay(self.recipe, at)
            student = self.team.models[STUDENT]
            with torch.no_grad():
                for shadow, own in zip(self.averaged.parameters(), student.parameters(), strict=True):
                    shadow.lerp_(own, 1 - decay)
                for shadow, own in zip(self.averaged.buffers(), student.buffers(), strict=True):
                    shadow.copy_(own)

    def update(self, update, batch, known, at):
        taught = frozenset(update.trains)
        outputs = self.team.forward(batch.images, PLAIN, taught, known.outputs, self.trained)
        views = {
            name: self.team.forward(view, PLAIN, taught, known.views[name], self.trained)
            for name, view in batch.views.items()
        }
        progress = Progress(at, self.epochs)
        moving = self.method.schedule(progress) if isinstance(self.method, Scheduled) else {}
        schedule = {name: torch.tensor(value, dtype=torch.float64) for name, value in moving.items()}
        seen = Seen(outputs, views).narrowed(self.team.taps)
        terms = self.method.loss(Step(update.name, batch, seen, self.team.extra, schedule))
        weighted = {name: self.method.weight(name, progress) * value for name, value in terms.items()}
        self.descend(self.optimizers[update.name], weighted, at)
        return {name: value.detach() for name, value in terms.items()}

    def descend(self, optimizer, weighted, at):
        for group in optimizer.param_groups:
            lr = self.recipe.lr * group["scale"] * lr_factor(self.recipe, self.before + at)
            group["lr"] = torch.tensor(lr) if self.fused else lr
        limit = clip_norm(self.recipe, (self.before + at) / self.recipe.epochs)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if isinstance(optimizer, SplitMomentum):
            gradients = branch_gradients(branch_totals(weighted, self.method.momenta()), parameters)
            norm = torch.stack([sum_of(own).norm() for own in zip(*gradients, strict=True) if sum_of(own) is not None])
            share = (limit / (norm.norm() + 1e-6)).clamp(max=1.0)
            optimizer.step([[None if one is None else one * share for one in branch] for branch in gradients])
            return
        optimizer.zero_grad()
        torch.stack(list(weighted.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(parameters, limit)
        optimizer.step()


def sum_of(gradients):
    reached = [gradient for gradient in gradients if gradient is not None]
    return torch.stack(reached).sum(dim=0) if reached else None


AGAINST = {key: case[:3] for key, case in CASES.items() if key == case[0] or key.split(",")[0] == key}
AGAINST["kd, adamw"] = ("kd", False, {"optimizer": "adamw"})
"""The cases whose descent the plain loop knows."""


@pytest.mark.parametrize(("name", "pretrain", "recipe"), AGAINST.values(), ids=AGAINST.keys())
def test_three_epochs_are_those_of_a_plain_loop(tmp_path, monkeypatch, name, pretrain, recipe):
    """Weights, averaged weights and mean losses, to the last bit, in every stage."""
    for training, plain in trainings(monkeypatch, tmp_path, name, pretrain, recipe, replayed=False):
        trained_alike(training, plain)


@pytest.mark.parametrize(("name", "pretrain", "recipe"), AGAINST.values(), ids=AGAINST.keys())
def test_replayed_steps_are_those_of_a_plain_loop(tmp_path, monkeypatch, name, pretrain, recipe):
    """The same where full batches are steps played from a tape, which knows nothing of Python."""
    monkeypatch.setattr("kd.methods.kdsvd.on_host", lambda feature: False)
    monkeypatch.setattr("kd.engine.loop.CudaGraph", TapedGraph)
    for training, plain in trainings(monkeypatch, tmp_path, name, pretrain, recipe, replayed=True):
        before = TapedGraph.played
        full = trained_alike(training, plain).count(training.feed.tray.size)
        assert TapedGraph.played - before == full - WARM_UP - 1 > 0, "all but those that warm up and are recorded"


def trainings(monkeypatch, folder, name, pretrain, recipe, replayed):
    """Yield the engine's training of each stage, and a plain loop beside it."""
    ours, theirs = world_of(name, pretrain), world_of(name, pretrain)
    for stage, other in zip(ours.stages(), theirs.stages(), strict=True):
        training, plain = (training_of(world, folder, recipe) for world in (ours, theirs))
        plain.start([other])
        with monkeypatch.context() as patch:
            patch.setattr("kd.engine.training.replays", lambda device: replayed)
            training.start([stage])
        yield training, Plain(plain, other, fused=replayed)
    assert ours.state().keys() == theirs.state().keys()


def trained_alike(training, loop):
    """Train three epochs side by side and return how many images each step had."""
    sizes = []
    for epoch in range(3):
        at_epoch(training, epoch)
        torch.manual_seed(epoch)
        for images in training.loop.epoch():
            training.stepped(images, training.frozen.cost(images))
            sizes.append(images)
        torch.manual_seed(epoch)
        loop.epoch(epoch)
        compare(training, loop)
    return sizes


def compare(training, loop):
    for role, state in training.team.state().items():
        for key, value in loop.team.state()[role].items():
            assert torch.equal(value, state[key]), f"{role}: {key}"
    run = training.stage_run
    assert (run.ema is None) == (loop.averaged is None)
    if run.ema is not None:
        for key, value in loop.averaged.state_dict().items():
            assert torch.equal(value, run.ema.model.state_dict()[key]), f"averaged: {key}"
    means = run.sums.means()
    for (update, term), value in loop.sums.items():
        prefix = "" if len(loop.stage.updates) == 1 else f"{update}/"
        assert means[f"loss/{prefix}{term}"] == value / loop.items, term
