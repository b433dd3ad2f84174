"""Teachers that are asked once, or about one view of every image."""

import pytest
import torch
from told import told

from kd.data.augment import Augmenter
from kd.engine.fixed_view import fixed_view
from kd.engine.jobs.files import Files
from kd.engine.jobs.student import train_student
from kd.engine.jobs.teacher_outputs import teacher_outputs
from kd.engine.jobs.trainings import frozen_forward_of
from kd.engine.jobs.workbench import prepare
from kd.engine.teachers import FrozenForward, is_fixed
from kd.engine.team import Team
from kd.methods.contract import Batch, is_teacher, stages_of
from kd.schema.config import Augmentation, Recipe
from kd.study.job_settings import parse_settings
from kd.tools.errors import UserError

STILL = {"augmentation": {"crop": "none", "flip": False}}


def outputs_of(here):
    """Write the outputs of a run's teachers on the fixed view and return their files."""
    found = []
    for name in here.run.teachers:
        folder = here.folder / "outputs" / name
        job = parse_settings(told(here.plan, "teacher_outputs", "digits", name, 0))
        teacher_outputs(job, Files(here.packed, folder, teachers=[here.teacher(name)], code="test"))
        found.append(folder / "outputs.safetensors")
    return found


@pytest.mark.parametrize(
    ("augmentation", "fixed"),
    [
        ({"crop": "none", "flip": False}, True),
        ({"crop": "padded", "padding": 0, "flip": False}, True),
        ({"crop": "padded", "padding": 1, "flip": False}, False),
        ({"crop": "resized", "flip": False}, False),
        ({"crop": "none"}, False),
        ({"crop": "none", "flip": False, "cutout": 4}, False),
        ({"crop": "none", "flip": False, "randaugment": {}}, False),
    ],
)
def test_what_never_moves_is_told_from_what_does(augmentation, fixed):
    assert is_fixed(Recipe(epochs=1, augmentation=augmentation)) == fixed
    assert not is_fixed(Recipe(epochs=1, augmentation=augmentation, mixup_alpha=1.0))


def test_a_teacher_of_images_that_never_move_is_asked_once_an_image(world, monkeypatch):
    here = world("kd", recipe={**STILL, "epochs": 3})
    asked = []
    original = FrozenForward._ask_once
    monkeypatch.setattr(
        FrozenForward, "_ask_once", lambda self, roles: asked.append(list(roles)) or original(self, roles)
    )
    remembered = here.train("remembered")
    assert asked == [["teacher0"]]
    monkeypatch.setattr(FrozenForward, "_ask_once", lambda self, roles: {})
    live = here.train("live")
    assert [row["train_loss"] for row in remembered.rows] == pytest.approx(
        [row["train_loss"] for row in live.rows], rel=1e-4
    )
    assert remembered.flops < live.flops


def test_methods_that_read_maps_keep_their_teacher_live(world, monkeypatch):
    asked = []
    monkeypatch.setattr(FrozenForward, "_ask_once", lambda self, roles: asked.append(list(roles)) or {})
    world("at", recipe=STILL).train()
    assert asked == [[]]


def test_the_fixed_view_is_one_draw_of_the_augmentation_by_split(world):
    here = world("ce")
    data = prepare(here.job(), here.files("run")).data
    first, again = (fixed_view(data.train, data.augmenter, 0) for _ in range(2))
    other = fixed_view(data.train, data.augmenter, 1)
    still = Augmenter(Augmentation(crop="none", flip=False), data.augmenter.mean, data.augmenter.std)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, fixed_view(data.train, still, 0))


@pytest.mark.parametrize("method", ["kd", "hint", {"method": "avg_kd"}], ids=["logits", "maps", "two teachers"])
def test_a_fixed_teacher_view_gives_the_same_numbers_as_its_images(world, monkeypatch, method):
    """Logits read from the file equal those of a live pass over the view, and maps come from that view too."""
    here = world(method, recipe={"teacher_view": "fixed"})
    files = here.files("fixed", outputs=outputs_of(here))
    result = train_student(here.job(), files, lambda row: None)
    assert all(0 <= row["val_top1"] <= 100 for row in result.rows)
    bench = prepare(here.job(), files)
    frozen = frozen_forward_of(bench, files)
    (stage,) = stages_of(bench.method)
    bench.team.enter(stage)
    frozen.enter([role for role in bench.team.models if is_teacher(role)], here.job().recipe)
    view = fixed_view(bench.data.train, bench.data.augmenter, 0)
    positions = torch.tensor([5, 0, 17])
    labels = bench.data.train.labels[positions]
    found = frozen.outputs(Batch(torch.zeros(3, 3, 8, 8), labels, positions, labels)).outputs
    live = bench.team.forward(view[positions], bench.precision, roles=list(found))
    for role in found:
        torch.testing.assert_close(found[role].logits, live[role].logits, rtol=1e-4, atol=1e-4)
        for tap, value in found[role].taps.items():
            torch.testing.assert_close(value, live[role].taps[tap], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["ckd", "ckd_add", "ckd_mixup", "mixup", "mixup3", "cutmix"])
def test_a_teacher_known_by_its_outputs_is_never_run(world, monkeypatch, method):
    here = world(method, recipe={"teacher_view": "fixed"})
    files = here.files("fixed", outputs=outputs_of(here))
    ran, original = set(), Team._runner
    monkeypatch.setattr(Team, "_runner", lambda self, role, *rest: ran.add(role) or original(self, role, *rest))
    train_student(here.job(), files, lambda row: None)
    assert ran == {"student"}


def test_outputs_of_other_images_are_refused(world):
    here = world("kd", recipe={"teacher_view": "fixed"})
    outputs = outputs_of(here)
    smaller = world("kd", recipe={"teacher_view": "fixed"}, dataset={"subset_size": 150})
    with pytest.raises(UserError, match="holds outputs on other training images than this run's"):
        train_student(smaller.job(), smaller.files("run", outputs=outputs), lambda row: None)
