"""Targets from a chain: its synergy logits on the fixed view, read by position."""

import copy

import pytest
import torch
from continual_world import EXPERIMENT
from safetensors.torch import save_file
from told import told

from kd.continual import jobs
from kd.continual.targets import synergy_outputs
from kd.engine.checkpoint import save_state
from kd.engine.fixed_view import fixed_view, read_outputs
from kd.engine.jobs.files import Files
from kd.engine.jobs.workbench import prepare
from kd.models.build import build_model
from kd.models.weights import save_weights
from kd.schema.config import ModelSettings
from kd.study.continual import parse_continual_settings
from kd.study.experiment import check_experiment
from kd.study.job_settings import parse_settings
from kd.study.jobs.continual import target_run
from kd.study.plan import Plan


@pytest.fixture
def plan():
    content = copy.deepcopy(EXPERIMENT)
    content["pairs"] = [{"teachers": ["resnet14", "wrn_16_1"], "student": "resnet8"}]
    content["methods"] = [{"method": "asib", "num_stages": 1, "mbm_out_dim": 16}]
    content["continual"]["strategies"] = [{"name": "taught", "targets": "asib"}]
    return Plan(check_experiment(content))


@pytest.fixture
def asked(plan, digits, tmp_path):
    """A chain that nobody trained, and what it answered."""
    run = target_run(plan, plan.continual.runs[0])
    teachers = [tmp_path / f"{name}.safetensors" for name in run.teachers]
    for name, path in zip(run.teachers, teachers, strict=True):
        save_weights(build_model(ModelSettings(arch=name), 10, 8), path)
    bench = prepare(
        parse_settings(told(plan, "asib_teacher_update", run, 1)), Files(digits, tmp_path, teachers=teachers)
    )
    save_state(tmp_path / "state.pt", {"team": bench.team.state(), "optimizers": {}})
    folder = tmp_path / "synergy"
    synergy_outputs(
        parse_settings(told(plan, "synergy_outputs", run)), Files(digits, folder, previous=tmp_path / "state.pt")
    )
    return bench, folder / "outputs.safetensors"


def test_targets_are_the_synergy_of_the_fixed_view(plan, asked):
    bench, path = asked
    found = read_outputs([path], bench.data.digest)
    for _, module in bench.team.modules():
        module.eval()
    with torch.no_grad():
        view = fixed_view(bench.data.train, bench.data.augmenter, bench.job.split_seed)
        expected = bench.method.heads(bench.team.forward(view, bench.precision), bench.team.extra)["synergy"]
    torch.testing.assert_close(found[0], expected.cpu(), rtol=1e-4, atol=1e-4)


def test_each_image_is_taught_by_its_own_logits(plan, asked, digits, tmp_path):
    """Logits that say where an image stands reach the batch in which it is."""
    bench, _ = asked
    labels = bench.data.train.labels
    marked = torch.arange(len(labels), dtype=torch.float32)[:, None] + torch.zeros(1, 10)
    save_file({"logits": marked}, tmp_path / "marked.safetensors", metadata={"split": bench.data.digest})
    files = Files(digits, tmp_path / "run", outputs=[tmp_path / "marked.safetensors"])
    seen = []
    original = jobs.Incremental.loss

    def loss(self, step):
        """Note what a batch was taught, and of which classes it is."""
        positions = step.batch.teacher_logits[0, :, 0].long()
        seen.append((self.labels[step.batch.labels], labels[positions]))
        return original(self, step)

    jobs.Incremental.loss = loss
    try:
        jobs.train_run(
            parse_continual_settings(told(plan, "continual_run", plan.continual.runs[0])), files, lambda row: None
        )
    finally:
        jobs.Incremental.loss = original
    assert len(seen) > 4
    assert all(torch.equal(own, taught) for own, taught in seen)
