"""The loop: every kind of method through the same code, roles respected, interruptions invisible."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from interrupted import Interrupted, stop_after
from safetensors.torch import load_file
from told import told

from kd.asib.gate import check_synergy
from kd.asib.method import ASIB as ASIBMethod
from kd.engine import optim
from kd.engine.evaluation import seen
from kd.engine.jobs.evaluate import FEATURE_IMAGES, evaluate_network
from kd.engine.jobs.files import Files
from kd.engine.jobs.half_stage import train_half_stage
from kd.engine.jobs.predict_team import even_sample, predict_team
from kd.engine.jobs.student import train_student
from kd.engine.jobs.trainings import train
from kd.engine.jobs.workbench import prepare
from kd.methods.contract import STUDENT, stages_of
from kd.models.build import build_model
from kd.models.weights import save_weights
from kd.schema.config import ModelSettings
from kd.study.job_settings import parse_settings
from kd.study.made import drop_progress
from kd.tools.errors import DivergenceError, UserError

METHODS = {
    "ce": "ce",
    "kd": "kd",
    "hint": "hint",
    "hint_two_stage": {"method": "hint", "two_stage": True, "hint_epochs": 1},
    "at": "at",
    "crd": {"method": "crd", "negatives": 32},
    "dml": "dml",
    "ft": {"method": "ft", "paraphraser_epochs": 1},
    "combined": {"name": "both", "combine": [{"method": "crd", "negatives": 32}, {"method": "kd", "ce_weight": 0.0}]},
    "wkd_l": "wkd_l",
    "combined_survey": {"name": "wkd_kd", "combine": [{"method": "wkd_l", "distances": "classifier"}, "kd"]},
    "combined_pre_stage": {"name": "ft_kd", "combine": [{"method": "ft", "paraphraser_epochs": 1}, "kd"]},
}


def states(folder):
    return {name: load_file(folder / "checkpoints" / f"{name}.safetensors") for name in ("best", "last")}


def assert_same(first, second):
    for name in first:
        for key, value in first[name].items():
            assert torch.equal(value, second[name][key]), f"{name}: {key} differs"


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_an_interrupted_run_ends_bit_identical(world, method):
    here = world(method)
    here.train("whole")
    with pytest.raises(Interrupted):
        here.train("broken", stop_after(1))
    assert not (here.folder / "broken" / "run.json").exists()
    here.train("broken")
    assert_same(states(here.folder / "whole"), states(here.folder / "broken"))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_a_finished_run_that_was_not_noted_is_written_again_and_not_trained(world, method):
    """Snakemake is killed between the end of the job and its own note, and deletes what the job had written."""
    here = world(method)
    here.train("run")
    before = states(here.folder / "run")
    for path in [here.folder / "run" / "run.json", *(here.folder / "run" / "checkpoints").iterdir()]:
        path.unlink()
    epochs = []
    here.train("run", epochs.append)
    assert epochs == []
    assert_same(before, states(here.folder / "run"))
    assert (here.folder / "run" / "run.json").is_file()
    drop_progress(here.folder / "run")
    assert not (here.folder / "run" / "resume.pt").exists()


def test_a_run_interrupted_twice_and_with_everything_on_ends_bit_identical(world):
    recipe = {
        "epochs": 4,
        "ema_decay": 0.9,
        "mixup_alpha": 0.2,
        "cutmix_alpha": 0.5,
        "label_smoothing": 0.1,
        "grad_clip": 1.0,
        "optimizer": "adamw",
        "lr": 1e-3,
        "augmentation": {"padding": 1, "flip": True, "cutout": 2, "randaugment": {"ops": 1, "magnitude": 5}},
    }
    here = world("kd", recipe=recipe)
    here.train("whole")
    for epoch in (1, 3):
        with pytest.raises(Interrupted):
            here.train("broken", stop_after(epoch))
    here.train("broken")
    assert_same(states(here.folder / "whole"), states(here.folder / "broken"))


def test_a_resume_file_of_other_settings_is_ignored(world, caplog):
    here, other = world("kd"), world({"method": "kd", "temperature": 2.0})
    with pytest.raises(Interrupted):
        here.train("run", stop_after(1))
    other.train("run")
    other.train("fresh")
    assert "belongs to other settings" in caplog.text
    assert_same(states(here.folder / "run"), states(here.folder / "fresh"))


def test_a_broken_resume_file_is_ignored(world, caplog):
    here = world("ce")
    folder = here.folder / "run"
    folder.mkdir()
    (folder / "resume.pt").write_bytes(b"not a state")
    here.train("run")
    assert "starting from the beginning" in caplog.text


def test_frozen_teachers_stay_bit_identical(world):
    here = world({"method": "crd", "negatives": 32})
    bench = prepare(here.job(), here.files("run"))
    before = {key: value.clone() for key, value in bench.team.models["teacher0"].state_dict().items()}
    student = {key: value.clone() for key, value in bench.team.models[STUDENT].state_dict().items()}
    train(bench, here.files("run"), stages_of(bench.method), lambda row: None)
    after = bench.team.models["teacher0"].state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    moved = [
        key for key, value in bench.team.models[STUDENT].state_dict().items() if not torch.equal(value, student[key])
    ]
    assert len(moved) == len(student), "every parameter and statistic of the student moves"


def test_students_of_a_seed_start_alike_and_see_the_same_images(world):
    starts, orders = [], []
    for method in ("ce", "kd", {"method": "crd", "negatives": 32}, "dml"):
        here = world(method)
        bench = prepare(here.job(), here.files("run"))
        starts.append({"student": {k: v.clone() for k, v in bench.team.models[STUDENT].state_dict().items()}})
        result = []
        loss = bench.method.loss
        bench.method.loss = lambda step, loss=loss, result=result: (
            result.append(step.batch.images.clone()),
            loss(step),
        )[1]
        train(bench, here.files("run"), stages_of(bench.method), lambda row: None)
        orders.append(result[:: len(stages_of(bench.method)[0].updates)])
    for start, order in zip(starts[1:], orders[1:], strict=True):
        assert_same(starts[0], start)
        assert all(torch.equal(a, b) for a, b in zip(orders[0], order, strict=True))


def test_a_run_folder_is_complete(world):
    here = world("dml", recipe={"track_test": True})
    here.train()
    folder = here.folder / "run"
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert record["status"] == "ok"
    assert record["params"]["extra_train"] == record["params"]["student"], "the peer is as large as the student"
    assert record["flops"]["train"] > 0
    assert record["settings"]["seed"] == 0
    rows = list(csv.DictReader((folder / "metrics.csv").open(encoding="utf-8")))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    expected = {"lr", "seconds", "train_loss", "train_top1", "val_top1", "val_loss", "val_top1/peer1", "test_top1"}
    assert expected <= rows[0].keys()
    assert all(float(row["val_top1"]) <= 100 for row in rows)
    assert (folder / "config.yaml").read_text(encoding="utf-8")


def test_a_training_clips_its_steps_by_the_recipe(world, monkeypatch):
    """Steps of plain SGD are as long as the learning rate times the norm that the recipe allows."""
    lengths = []
    descend = optim.descend

    def measured(optimizer, *more):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        before = [p.detach().clone() for p in parameters]
        descend(optimizer, *more)
        moved = torch.stack([(p.detach() - old).norm() for p, old in zip(parameters, before, strict=True)])
        lengths.append(moved.norm().item())

    monkeypatch.setattr("kd.engine.step.descend", measured)
    plain = {"epochs": 1, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "precision": "fp32"}
    world("ce", recipe={**plain, "grad_clip": 0.1}).train("clipped")
    assert lengths == pytest.approx([0.05 * 0.1] * len(lengths), rel=1e-3)
    clipped = lengths.copy()
    lengths.clear()
    world("ce", recipe=plain).train("free")
    assert len(lengths) == len(clipped) > 1
    assert min(lengths) > 2 * max(clipped)


def test_best_weights_are_the_earliest_best_validation_epoch(world):
    here = world("ce", recipe={"epochs": 4, "lr": 0.2, "schedule": "constant"})
    rows = []
    result = here.train(on_epoch=rows.append)
    accuracies = [row["val_top1"] for row in rows]
    assert result.best_epoch == accuracies.index(max(accuracies)) + 1
    assert "test_top1" not in rows[0]


def test_divergence_is_told_with_its_step(world):
    here = world("ce", recipe={"lr": 1e6, "epochs": 3, "schedule": "constant"})
    with pytest.raises(DivergenceError, match=r"loss ce was not finite at step \d+ of 5 in epoch \d"):
        here.train()
    assert not (here.folder / "run" / "run.json").exists()


def test_a_network_with_nothing_to_train_is_refused(world):
    here = world("ce")
    bench = prepare(here.job(), here.files("run"))
    bench.team._trainable = dict.fromkeys(bench.team._trainable, False)
    with pytest.raises(UserError, match="nothing to train"):
        train(bench, here.files("run"), stages_of(bench.method), lambda row: None)


def test_partial_freezing_trains_the_last_blocks_only(world, tmp_path):
    path = tmp_path / "pretrained.safetensors"
    save_weights(build_model(ModelSettings(arch="resnet8"), 7, 8), path)
    here = world("ce", models={"resnet8": {"arch": "resnet8", "pretrained": str(path), "freeze": 0}})
    bench = prepare(here.job(), here.files("run"))
    before = {key: value.clone() for key, value in bench.team.models[STUDENT].state_dict().items()}
    train(bench, here.files("run"), stages_of(bench.method), lambda row: None)
    after = bench.team.models[STUDENT].state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved
    assert len(moved) == 2, f"the head's weight and bias only, not {moved}"


@pytest.mark.parametrize("more", [{"freeze": 0}, {"freeze_bn": True}], ids=["layers", "norms"])
def test_layers_as_they_were_drawn_are_not_frozen(world, more):
    here = world("ce", models={"resnet8": {"arch": "resnet8", **more}})
    with pytest.raises(UserError, match=r"^freeze: resnet8 would keep .* as it was drawn at random .*: give weights"):
        here.train()


def test_a_checkpoint_of_another_architecture_is_refused(world):
    here = world("kd")
    files = here.files("run")
    wrong = Files(files.data, files.folder, teachers=[here.teacher("resnet14")], code="test")
    with pytest.raises(UserError, match="resnet14"):
        train_student(here.job(), wrong, lambda row: None)


def test_unknown_taps_are_refused_before_training(world):
    here = world({"method": "at", "student_taps": ["stage9"], "teacher_taps": ["stage1"]})
    with pytest.raises(UserError, match="stage9"):
        here.train()


def test_tap_lists_of_different_length_are_refused(world):
    here = world({"method": "at", "student_taps": ["stage1", "stage2"], "teacher_taps": ["stage1"]})
    with pytest.raises(UserError, match="one to one"):
        here.train()


def test_a_last_batch_of_one_image_is_left_out(world):
    here = world("ce", recipe={"batch_size": 53})
    assert len(prepare(here.job(), here.files("run")).data.train) % 53 == 1
    here.train()


# --- students that teach --------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["ce", "simkd"])
def test_the_selected_weights_of_a_student_teach_the_next(world, origin, tmp_path):
    before = world(origin)
    before.train("before")
    here = world(origin, beside={"method": "born_again", "origin": origin, "generations": 1})
    run = here.plan.runs[-1]
    best = before.folder / "before" / "checkpoints" / "best.safetensors"
    files = Files(here.packed, tmp_path / "next", teachers=[best])
    bench = prepare(parse_settings(told(here.plan, "train_student", run)), files)
    for key, value in load_file(best).items():
        assert torch.equal(bench.team.models["teacher0"].state_dict()[key].cpu(), value), key
    train_student(parse_settings(told(here.plan, "train_student", run)), files, lambda row: None)
    record = json.loads((tmp_path / "next" / "run.json").read_text(encoding="utf-8"))
    assert record["params"]["student"] == sum(p.numel() for p in bench.team.models[STUDENT].parameters())


# --- chains ---------------------------------------------------------------------------------------

ASIB = {
    "method": "asib",
    "form": "published",
    "num_stages": 2,
    "teacher_adapt_epochs": 2,
    "student_epochs": 2,
    "mbm_out_dim": 16,
    "teacher_lr": 3e-3,
}
CHAIN = {"recipe": {"epochs": 4}, "dataset": {"subset_size": 600}}
TEACHERS = ("teacher0", "teacher1")
HALVES = [(stage, half) for stage in (1, 2) for half in ("teacher_update", "student_update")]


def state_of(folder, stage, half):
    return folder / f"stage{stage}/{half}/state.pt"


def run_chain(here, name, halves=HALVES, previous=None, interrupted=False):
    """Run the half-stages of a chain, the first of them twice if it is interrupted; return the last one's state."""
    folder = here.folder / name
    for stage, half in halves:
        files = here.files(f"{name}/stage{stage}/{half}", previous=previous)
        if interrupted and (stage, half) == halves[0]:
            with pytest.raises(Interrupted):
                train_half_stage(here.half(stage, half), files, stop_after(1))
        train_half_stage(here.half(stage, half), files, lambda row: None)
        previous = state_of(folder, stage, half)
    return torch.load(previous, weights_only=True)


def go_on_after_interruption(chain, halves):
    """Run the last half-stages of a finished chain again, their first one interrupted."""
    before = HALVES[: -len(halves)]
    previous = state_of(chain.folder / "whole", *before[-1]) if before else None
    return run_chain(chain, f"broken_in_{len(halves)}", halves, previous, interrupted=True)


# What a test only reads is run once; the group keeps those tests in one worker.
of_a_chain = pytest.mark.xdist_group("chain of half-stages")


@pytest.fixture(scope="module", autouse=True)
def _gate_open():
    """Let a chain go on whatever its synergy: how much so short an update reaches hangs on a machine's last digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kd.asib.method.check_synergy", lambda *arguments, **named: None)
        yield


@pytest.fixture(scope="module")
def chain(world_in, tmp_path_factory):
    here = world_in(tmp_path_factory.mktemp("chain"), ASIB, **CHAIN)
    run_chain(here, "whole")
    return here


@pytest.fixture(scope="module")
def full_chain(world_in, tmp_path_factory):
    """A chain with everything on."""
    here = world_in(tmp_path_factory.mktemp("full"), EVERYTHING, recipe=FULL_RECIPE, dataset=CHAIN["dataset"])
    run_chain(here, "whole")
    return here


@of_a_chain
@pytest.mark.parametrize("halves", [HALVES, HALVES[3:]], ids=["first", "last"])
def test_an_interrupted_chain_ends_bit_identical(chain, halves):
    whole = torch.load(state_of(chain.folder / "whole", *HALVES[-1]), weights_only=True)
    broken = go_on_after_interruption(chain, halves)
    for role, state in whole["team"].items():
        assert_same({role: state}, {role: broken["team"][role]})


EVERYTHING = {
    **ASIB,
    "teacher_adapt_epochs": 4,
    "use_partial_freeze": True,
    "student_freeze_schedule": [1, -1],
    "teacher_freeze_level": [1, 2],
    "use_student_adapter": True,
    "use_student_proj": True,
    "proj_use_bn": True,
    "latent_alpha": 0.1,
    "use_distillation_adapter": True,
    "distill_out_dim": 16,
    "feat_loss_weight": [0.1],
    "mbm_dropout": 0.1,
    "tau_end": 2.0,
    "synergy_base": "certainty",
    "synergy_scale": "learned",
    "synergy_kd_alpha": 0.1,
    "cross_fit": True,
    "teacher_keeps": "best",
}
FULL_RECIPE = {
    "epochs": 4,
    "ema_decay": 0.9,
    "ema_start_decay": 0.5,
    "ema_warmup_epochs": 2.0,
    "grad_clip": 1.0,
    "grad_clip_final": 0.5,
    "mixup_alpha": 0.2,
    "label_smoothing": 0.1,
}


@of_a_chain
def test_an_interrupted_chain_with_everything_on_ends_bit_identical(full_chain):
    whole = torch.load(state_of(full_chain.folder / "whole", *HALVES[-1]), weights_only=True)
    assert_same(whole["team"], go_on_after_interruption(full_chain, HALVES[2:])["team"])


def assert_same_or_not(first, second, same):
    assert all(torch.equal(first[key], second[key]) for key in first) == same


@of_a_chain
def test_a_later_unfreeze_trains_and_an_adapter_always_does(full_chain):
    states = {
        stage: {
            half: torch.load(state_of(full_chain.folder / "whole", stage, half), weights_only=True)["team"][STUDENT]
            for half in ("teacher_update", "student_update")
        }
        for stage in (1, 2)
    }
    for stage, stem_moves in ((1, False), (2, True)):
        before, after = (states[stage][half] for half in ("teacher_update", "student_update"))
        stem, adapter, last = (
            {key for key in before if key.startswith(prefix) and before[key].is_floating_point()}
            for prefix in ("stem.", "stages.1.1.branch.", "stages.2.")
        )
        assert adapter, "resnet8 has its adapter as second block of its last but one stage"
        for keys, moves in ((stem, stem_moves), (adapter, True), (last, True)):
            assert_same_or_not({key: before[key] for key in keys}, {key: after[key] for key in keys}, not moves)


def test_a_later_unfreeze_trains_with_a_gpus_optimisers_too(world, monkeypatch):
    """Fused kernels, which exist on a CPU as well, get momenta of some parameters and none of those set free."""

    def fused(recipe, groups, device, momenta):
        return optim.build_optimizer(recipe, groups, True, momenta)

    monkeypatch.setattr("kd.engine.stage.build_optimizer", fused)
    short = {**ASIB, "teacher_adapt_epochs": 1, "student_epochs": 1}
    here = world({**short, "use_partial_freeze": True, "student_freeze_schedule": [1, -1]})
    after = run_chain(here, "run")["team"][STUDENT]
    before = torch.load(state_of(here.folder / "run", 2, "teacher_update"), weights_only=True)["team"][STUDENT]
    assert not torch.equal(before["stem.0.weight"], after["stem.0.weight"])


@of_a_chain
def test_a_half_stage_records_synergy_teachers_disagreement_and_the_bottlenecks_kl(chain):
    folder, given = chain.folder / "whole", {}
    for half in ("teacher_update", "student_update"):
        found = json.loads((folder / f"stage2/{half}/run.json").read_text(encoding="utf-8"))["validation"]
        roles = {"val_top1", *(f"val_top1/{name}" for name in ("synergy", "average", "teacher0", "teacher1"))}
        seen = {"val/ib_kl", *(f"val/disagreement_{name}" for name in ("pred", "both_wrong", "any_wrong"))}
        assert roles | seen <= found.keys()
        assert found["val/ib_kl"] > 0
        apart = found["val_top1/synergy"] - found["val_top1/average"]
        assert math.isclose(found["val/synergy_minus_average"], apart, abs_tol=1e-9)
        assert found["val/disagreement_any_wrong"] >= found["val/disagreement_both_wrong"]
        given[half] = {name: top for name, top in found.items() if name.startswith("val_top1/given/")}
    assert given["teacher_update"] == given["student_update"]
    assert set(given["student_update"]) == {f"val_top1/given/{name}" for name in ("synergy", "average", *TEACHERS)}
    job = parse_settings(told(chain.plan, "evaluate_teacher", "digits", "wrn_16_1", 0))
    alone = evaluate_network(job, chain.packed, chain.teacher("wrn_16_1"))["val"]
    top1 = 100 * (alone.logits.argmax(1) == alone.labels).mean()
    assert given["student_update"]["val_top1/given/teacher0"] == pytest.approx(top1), "of wrn_16_1 as it came"
    record = json.loads((folder / "stage1/student_update/run.json").read_text(encoding="utf-8"))
    row = list(csv.DictReader((folder / "stage1/student_update/metrics.csv").open(encoding="utf-8")))[
        record["best_epoch"] - 1
    ]
    assert math.isclose(record["validation"]["val_top1"], float(row["val_top1"]), rel_tol=1e-4), "of the kept weights"


@of_a_chain
@pytest.mark.parametrize("span", ["chain", "stage"])
def test_learning_rates_run_through_the_chain_or_start_anew(chain, world, span):
    here = chain
    if span != "chain":
        here = world({**ASIB, "schedule_span": span}, **CHAIN)
        run_chain(here, "whole")
    lrs = [
        float(row["lr"])
        for stage in (1, 2)
        for row in csv.DictReader(
            (here.folder / f"whole/stage{stage}/student_update/metrics.csv").open(encoding="utf-8")
        )
    ]
    steps = 15  # 480 images in batches of 32
    ends = [epoch + (steps - 1) / steps for epoch in range(4)] if span == "chain" else [14 / 15, 1 + 14 / 15] * 2
    total = 4 if span == "chain" else 2
    assert lrs == pytest.approx([0.05 * 0.5 * (1 + math.cos(math.pi * end / total)) for end in ends], rel=1e-4)


@of_a_chain
def test_the_optimisers_state_is_carried_through_the_chain(chain):
    counts = []
    for stage in (1, 2):
        state = torch.load(state_of(chain.folder / "whole", stage, "teacher_update"), weights_only=True)
        counts.append(next(iter(state["optimizers"]["teacher_update"]["state"].values()))["step"])
    assert [float(count) for count in counts] == [30.0, 60.0]


@of_a_chain
def test_a_scale_is_learned_in_the_teacher_update_and_kept_in_the_students(full_chain):
    scales = {}
    for stage, half in HALVES:
        extra = torch.load(state_of(full_chain.folder / "whole", stage, half), weights_only=True)["team"]["extra"]
        scales[stage, half] = [extra[f"{head}.scale"].item() for head in ("head", "head_second")]
        record = json.loads((full_chain.folder / f"whole/stage{stage}/{half}/run.json").read_text(encoding="utf-8"))
        assert record["validation"]["val/synergy_scale"] == pytest.approx(sum(scales[stage, half]) / 2)
    for stage in (1, 2):
        assert scales[stage, "teacher_update"] == scales[stage, "student_update"] != [1.0, 1.0]
    assert scales[1, "teacher_update"] != scales[2, "teacher_update"]


@of_a_chain
def test_halves_move_only_what_they_train(chain):
    state = {
        half: torch.load(state_of(chain.folder / "whole", 1, half), weights_only=True)["team"]
        for half in ("teacher_update", "student_update")
    }
    first, second = state["teacher_update"], state["student_update"]
    for role in ("teacher0", "teacher1", "extra"):
        assert_same({role: first[role]}, {role: second[role]})
    assert any(not torch.equal(first[STUDENT][key], second[STUDENT][key]) for key in first[STUDENT])
    record = json.loads((chain.folder / "whole/stage1/teacher_update/run.json").read_text(encoding="utf-8"))
    assert {"val_top1/synergy", "val_top1/teacher0", "val_top1/teacher1"} <= record["validation"].keys()


@of_a_chain
@pytest.mark.parametrize(("stage", "half"), HALVES)
def test_predictions_of_a_half_stage_are_what_its_record_counts(full_chain, stage, half):
    folder = full_chain.folder / "whole"
    previous = state_of(folder, stage, half)
    first = (stage, half) == HALVES[0]
    asked = (
        full_chain.files("asked", previous=previous) if first else Files(full_chain.packed, folder, previous=previous)
    )
    found = predict_team(full_chain.half(stage, half), asked)
    names = ["student", "teacher0", "teacher1", "synergy", "average"]
    assert found["names"].tolist() == names + ["given0", "given1"] * first
    made = dict(zip(found["names"], found["val/logits"], strict=True))
    record = json.loads((folder / f"stage{stage}/{half}/run.json").read_text(encoding="utf-8"))["validation"]
    for name in names:
        top1 = 100 * (made[name].argmax(1) == found["val/labels"]).mean()
        assert top1 == pytest.approx(record["val_top1" if name == STUDENT else f"val_top1/{name}"]), name
    assert made["average"].dtype == np.float32
    assert len(found["train/labels"]) == len(found["train/positions"]) == found["train/logits"].shape[1] == 480
    bench = prepare(full_chain.half(stage, half), Files(full_chain.packed, folder, previous=previous))
    assert torch.equal(
        bench.data.train.labels[torch.from_numpy(found["train/positions"])].cpu(),
        torch.from_numpy(found["train/labels"]),
    )


@of_a_chain
def test_predictions_tell_of_the_teachers_as_they_were_given_and_of_what_the_student_is_taught(full_chain):
    previous = state_of(full_chain.folder / "whole", *HALVES[0])
    files = full_chain.files("asked", previous=previous)
    found = predict_team(full_chain.half(*HALVES[0]), files)
    made = dict(zip(found["names"], found["val/logits"], strict=True))
    job = parse_settings(told(full_chain.plan, "evaluate_teacher", "digits", "wrn_16_1", 0))
    alone = evaluate_network(job, full_chain.packed, files.teachers[0])["val"].logits
    np.testing.assert_allclose(made["given0"], alone, rtol=1e-3, atol=1e-3)
    assert not np.allclose(made["teacher0"], alone, atol=1e-2), "that one adapted"
    bench = prepare(full_chain.half(*HALVES[0]), replace(files, teachers=[]))
    (outputs, _, _), *_ = seen(bench.team, bench.data.train, bench.data.augmenter, bench.precision, 480)
    with torch.no_grad():
        taught = bench.method.taught(outputs, bench.team.extra, torch.arange(480, device=bench.team.device))
    synergy = found["train/logits"][found["names"].tolist().index("synergy")]
    np.testing.assert_allclose(synergy, taught.cpu(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("images", "most"), [(100, 100), (100, 37), (99, 200)])
def test_a_sample_of_images_is_even_over_the_classes(images, most):
    labels = np.random.default_rng(0).permutation(
        np.repeat([0, 1, 2], [images // 2, images // 4, images - images // 2 - images // 4])
    )
    chosen = even_sample(labels, 7, most)
    assert len(chosen) == min(images, most)
    assert (np.diff(chosen) > 0).all()
    shares = np.bincount(labels[chosen], minlength=3) - len(chosen) * np.bincount(labels) / images
    assert (abs(shares) <= 1).all()
    assert np.array_equal(chosen, even_sample(labels, 7, most))
    assert np.array_equal(chosen, even_sample(labels, 8, most)) == (most >= images)


def test_a_synergy_at_chance_stops_the_chain(world, monkeypatch):
    monkeypatch.setattr("kd.asib.method.check_synergy", check_synergy)
    monkeypatch.setattr(ASIBMethod, "heads", lambda self, outputs, extra: {"synergy": outputs[STUDENT].logits * 0})
    here = world(ASIB, **CHAIN)
    with pytest.raises(UserError, match="does not beat chance"):
        run_chain(here, "run")


START_IS_BEST = {"synergy_base": "average", "adapt_teachers": False, "teacher_lr": 0.3, "teacher_schedule": "constant"}


@pytest.mark.parametrize("keeps", ["best", "last"])
def test_a_teacher_update_leaves_the_epoch_with_the_best_synergy_or_the_last(world, keeps, monkeypatch):
    judged = []
    monkeypatch.setattr(ASIBMethod, "accept", lambda self, stage, validation, *more: judged.append(validation))
    here = world({**ASIB, **START_IS_BEST, "teacher_keeps": keeps}, **CHAIN)
    state = run_chain(here, "run", HALVES[:1])
    folder = here.folder / "run/stage1/teacher_update"
    found = json.loads((folder / "run.json").read_text(encoding="utf-8"))["validation"]
    rows = list(csv.DictReader((folder / "metrics.csv").open(encoding="utf-8")))
    epochs = [float(row["val_top1/synergy"]) for row in rows]
    average = found["val_top1/given/average"]
    assert max(epochs) < average, "steps of that size leave nothing of the average"
    assert found["val_top1/synergy"] == pytest.approx(average if keeps == "best" else epochs[-1], rel=1e-4)
    assert judged[0]["synergy"] == pytest.approx(found["val_top1/synergy"])
    head = state["team"]["extra"]["head.net.3.weight"]
    assert (head.abs().sum() == 0) == (keeps == "best"), "the state before the first epoch"


def test_a_later_teacher_update_starts_from_the_base_where_what_was_learned_fell_behind_it(world):
    """Another student asks the fusion for something else, so that a synergy that was kept may be worth nothing now."""
    here = world({**ASIB, **START_IS_BEST, "teacher_keeps": "best"}, **CHAIN)
    run_chain(here, "run", HALVES[:2])
    path = state_of(here.folder / "run", *HALVES[1])
    state = torch.load(path, weights_only=True)
    state["team"]["extra"]["head.net.3.weight"].normal_().mul_(1e3)
    torch.save(state, path)
    state = run_chain(here, "run", HALVES[2:3], previous=path)
    assert state["team"]["extra"]["head.net.3.weight"].abs().sum() == 0
    found = json.loads((here.folder / "run/stage2/teacher_update/run.json").read_text(encoding="utf-8"))["validation"]
    assert found["val_top1/synergy"] == found["val_top1/average"]


def test_of_epochs_with_the_same_accuracy_the_later_one_is_kept(world):
    here = world({**ASIB, **START_IS_BEST, "teacher_keeps": "best", "teacher_lr": 1e-9}, **CHAIN)
    state = run_chain(here, "run", HALVES[:1])
    assert state["team"]["extra"]["head.net.3.weight"].abs().sum() > 0
    log = json.loads((here.folder / "run/stage1/teacher_update/run.json").read_text(encoding="utf-8"))["validation"]
    assert log["val_top1/synergy"] == log["val_top1/average"]


def test_teacher_freeze_of_a_stage_is_applied(world):
    here = world({**ASIB, "use_partial_freeze": True, "teacher_freeze_level": 0}, **CHAIN)
    files = here.files("run")
    bench = prepare(here.half(1, "teacher_update"), files)
    stage = bench.method.half_stage("teacher_update")
    bench.team.enter(stage)
    trained = [name for name, p in bench.team.models["teacher0"].named_parameters() if p.requires_grad]
    assert len(trained) == 2, trained


# --- evaluation -----------------------------------------------------------------------------------


def test_evaluation_reads_weights_and_gives_logits_of_every_image(world):
    here = world("ce")
    result = here.train()
    folder = here.folder / "run"
    job = parse_settings(told(here.plan, "evaluate_teacher", "digits", "resnet8", 0))
    found = evaluate_network(job, here.packed, folder / "checkpoints" / "best.safetensors")
    assert found["test"].logits.shape == (len(found["test"].labels), 10)
    assert found["test"].features.shape[0] == min(FEATURE_IMAGES, len(found["test"].labels))
    accuracy = 100 * (found["val"].logits.argmax(1) == found["val"].labels).mean()
    assert math.isclose(accuracy, result.best_top1), "evaluation and training see the same validation images"
