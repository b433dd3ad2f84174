"""The teacher is asked once about one fixed view of the training images, which a training can draw again."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from told import told

from kd.engine.data import load_data
from kd.engine.fixed_view import fixed_view, read_outputs
from kd.engine.jobs.files import Files
from kd.engine.jobs.student import train_student
from kd.engine.jobs.teacher_outputs import teacher_outputs
from kd.models.build import build_model
from kd.models.weights import load_weights, read_state
from kd.study.job_settings import parse_settings
from kd.tools.errors import UserError
from kd.tools.files import read_json

PRECISE = {"precision": "fp32", "augmentation": {"padding": 1, "flip": True}}


def asked(world, folder, name="wrn_16_1"):
    """Ask a teacher; return its job, the outputs' path and the record."""
    job = parse_settings(told(world.plan, "teacher_outputs", "digits", name, 0))
    files = Files(world.packed, folder / name, teachers=[world.teacher(name)], code="test")
    teacher_outputs(job, files)
    return job, files.folder / "outputs.safetensors", read_json(files.folder / "run.json")


def test_outputs_are_the_teachers_logits_of_the_fixed_view(world, tmp_path):
    made = world("kd", recipe=PRECISE)
    job, path, record = asked(made, tmp_path)
    data = load_data(made.packed, job, torch.device("cpu"))
    view = fixed_view(data.train, data.augmenter, job.split_seed)
    teacher = build_model(job.teachers[0], data.num_classes, data.image_size)
    load_weights(teacher, made.teacher("wrn_16_1"))
    with torch.no_grad():
        expected, _ = teacher.eval()(view)
    found = read_outputs([path])
    assert found.shape == (1, 160, 10)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-4)
    assert record["images"] == {"teacher": 160}, "never the 40 validation images"
    assert record["flops"]["train"] > 160 * 1e6
    assert record["seconds"]["train"] > 0
    assert record["digests"]["split"] == data.digest
    assert not np.isclose(view.numpy(), data.augmenter.plain(data.train._resident).numpy()).all()


def test_asking_again_gives_the_same_bits(world, tmp_path):
    paths = [asked(world("kd"), tmp_path / str(k))[1] for k in range(2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_fixed_view_does_not_depend_on_how_images_are_read(world, tmp_path):
    found = [asked(world("kd", recipe={**PRECISE, "eval_batch_size": size}), tmp_path / str(size)) for size in (7, 500)]
    torch.testing.assert_close(*(read_outputs([path]) for _, path, _ in found), rtol=1e-4, atol=1e-4)


def test_several_teachers_keep_their_order(world, tmp_path):
    made = world("kd")
    paths = [asked(made, tmp_path, name)[1] for name in ("wrn_16_1", "resnet14")]
    both = read_outputs(paths)
    assert both.shape == (2, 160, 10)
    assert torch.equal(both.flip(0), read_outputs(paths[::-1]))


def test_outputs_that_do_not_fit_are_user_errors(world, tmp_path):
    _, path, _ = asked(world("kd"), tmp_path)
    split = read_state(path)[1]["split"]
    assert read_outputs([path], split).shape == (1, 160, 10)
    with pytest.raises(UserError, match="outputs on other training images"):
        read_outputs([path], "another")
    save_file({"logits": torch.zeros(3, 10)}, tmp_path / "short.safetensors")
    with pytest.raises(UserError, match=r"different shapes, found \(3, 10\) and \(160, 10\)"):
        read_outputs([path, tmp_path / "short.safetensors"])
    save_file({"weight": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="holds no teacher outputs, found weight"):
        read_outputs([tmp_path / "model.safetensors"])
    with pytest.raises(UserError, match="there is no such file"):
        read_outputs([tmp_path / "gone.safetensors"])


KD = {"method": "kd", "ce_weight": 0.0}
FEW = {"schedule": "plateau", "patience": 1, "lr_drops": 1, "teacher_view": "fixed"}


@pytest.mark.parametrize(
    "method",
    [
        *({"method": name, "max_rel_samples": 200} for name in ("ckd", "ckd_mixup", "mixup3", "cutmix")),
        *({"method": "ckd_inter", "inner": inner} for inner in ("hint", "cc", "vid")),
        {"name": "balanced", "combine": [{"method": "rkd", "embed": "logits", "per_class": 5}, KD]},
        {"name": "on_logits", "combine": [{"method": "crd", "embed": "logits", "negatives": 300}, KD]},
        {"name": "on_features", "combine": ["hint", KD]},
    ],
    ids=lambda method: "_".join(str(method.get(key)) for key in ("method", "inner", "name") if key in method),
)
def test_the_few_sample_protocol_runs_on_outputs(world, tmp_path, method):
    made = world(method, recipe={"epochs": 3, **FEW})
    _, path, _ = asked(made, tmp_path)
    result = train_student(made.job(), made.files("run", outputs=[path]), lambda row: None)
    assert 1 <= len(result.rows) <= 3
    assert all(np.isfinite(row["train_loss"]) for row in result.rows)
    assert result.best_top1 == max(row["val_top1"] for row in result.rows)


def test_a_run_without_a_teacher_needs_no_outputs(world):
    result = world("ce", recipe={"epochs": 1, **FEW}).train()
    assert np.isfinite(result.rows[-1]["train_loss"])
