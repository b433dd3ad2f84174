"""What would stop a training in the middle of an experiment is told before the first one, all of it at once."""

import copy
import json

import pytest
import told as of_jobs
import torch
from packed_noise import pack_noise

from kd.continual.rehearsal import ContinualRehearsal
from kd.engine import rehearsal
from kd.models.build import build_model
from kd.models.weights import save_weights
from kd.schema.config import ModelSettings
from kd.study.checks import parse_checks
from kd.study.experiment import check_experiment
from kd.study.plan import Plan


def experiment(**changes):
    content = {
        "experiment": "unit",
        "datasets": {"noise": {"source": "imagefolder", "root": ".", "validation": 0.25}},
        "pairs": [{"teachers": ["resnet14", "wrn_16_1"], "student": "resnet8"}],
        "methods": ["ce"],
        "seeds": [0, 1],
        "recipe": {"epochs": 2, "batch_size": 8, "augmentation": {"crop": "none"}},
    }
    return {**content, **changes}


def rehearse(tmp_path, monkeypatch, content, **packed):
    """Return the sentences of an experiment's rehearsal; `packed` may say by data set what is packed."""
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    for name in content["datasets"]:
        pack_noise(tmp_path / "results" / "unit" / name / "data", **packed.get(name, {}))
    plan = Plan(check_experiment(content))
    return ContinualRehearsal(parse_checks(json.loads(of_jobs.told(plan, "check_pairs")))).run()


@pytest.fixture
def told(tmp_path, monkeypatch):
    def sentences(packed=None, **changes):
        return rehearse(tmp_path, monkeypatch, experiment(**changes), **(packed or {}))

    return sentences


EVERY_KIND = [
    "ce",
    {"method": "crd", "negatives": 8},
    "dml",
    "ft",
    "simkd",
    "mlkd",
    "cs_kd",
    {"name": "kd_at", "combine": ["kd", "at"]},
    {"method": "born_again", "generations": 2},
    {"method": "born_again", "name": "after_simkd", "origin": "simkd"},
    {"method": "takd", "assistants": ["resnet20"]},
    {"method": "asib", "num_stages": 2, "use_partial_freeze": True, "use_student_adapter": True},
]


def test_an_experiment_of_every_kind_of_job_has_nothing_to_tell(told):
    continual = {"student": "resnet8", "teacher": "resnet14", "num_tasks": 2}
    strategies = [
        {"name": "plain"},
        {"name": "all", "replay_capacity": 8, "balance_epochs": 1, "ewc_weight": 1.0, "prev_kd_weight": 1.0},
        {"name": "taught", "targets": "teacher"},
        {"name": "fused", "targets": "asib"},
    ]
    assert told(methods=EVERY_KIND, continual={**continual, "strategies": strategies}) == []


def test_every_misfit_is_told_at_once_with_its_pair_and_method(told):
    models = {"four": {"arch": "timm:test_resnet", "small_input": True}}
    pairs = [{"teachers": ["four"], "student": "resnet8"}, {"teachers": ["resnet14"], "student": "resnet8"}]
    found = told(models=models, pairs=pairs, methods=["ce", "kd", "at", "vid", "hint"])
    assert [sentence.split(":")[0] for sentence in found] == [
        "methods.at, four -> resnet8",
        "methods.vid, four -> resnet8",
    ]
    for sentence in found:
        assert "the student gives 3 (stage1, stage2, stage3) and the teacher 4 (stage1, " in sentence
        assert sentence.endswith("list as many in student_taps as in teacher_taps")


CONTINUAL = {"student": "resnet8", "num_tasks": 2, "strategies": [{"name": "plain"}]}
TOO_MANY = {"arch": "timm:test_resnet", "freeze": 99}
REFUSED = {
    "taps": (
        {"methods": [{"method": "hint", "student_taps": ["stage7"]}]},
        "methods.hint, resnet14 -> resnet8: unknown tap of the student 'stage7': did you mean 'stages'?",
    ),
    "compared stages of a chain": (
        {
            "methods": [
                {
                    "method": "asib",
                    "num_stages": 1,
                    "feat_loss_weight": [1.0],
                    "feat_layers": [5],
                    "feat_weights": [1.0],
                }
            ]
        },
        "methods.asib, resnet14+wrn_16_1 -> resnet8: unknown tap of the student 'stage5'",
    ),
    "levels of a chain": (
        {
            "models": {"master": {"arch": "timm:test_resnet"}},
            "pairs": [{"teachers": ["master", "resnet14"], "student": "resnet8"}],
            "methods": [{"method": "asib", "use_partial_freeze": True, "teacher_freeze_levels": [99, 1]}],
        },
        "methods.asib, master+resnet14 -> resnet8: freeze: 99 does not suit timm:test_resnet, allowed are -1 to 5",
    ),
    "a student's level": (
        {"models": {"pupil": TOO_MANY}, "pairs": [{"teachers": ["resnet14"], "student": "pupil"}]},
        "methods.ce, pupil: freeze: 99 does not suit timm:test_resnet, allowed are -1 to 5",
    ),
    "a teacher's level": (
        {"models": {"master": TOO_MANY}, "pairs": [{"teachers": ["master"], "student": "resnet8"}]},
        "teacher master: freeze: 99 does not suit timm:test_resnet, allowed are -1 to 5",
    ),
    "a student's frozen draws": (
        {"models": {"resnet8": {"arch": "resnet8", "freeze": 0}}},
        "methods.ce, resnet8: freeze: resnet8 would keep stem.0.weight as it was drawn at random",
    ),
    "a teacher's frozen draws": (
        {"models": {"resnet14": {"arch": "resnet14", "freeze_bn": True}}},
        "teacher resnet14: freeze: resnet14 would keep stem.1.weight as it was drawn at random",
    ),
    "views of a fixed teacher": (
        {"methods": ["mlkd"], "recipe": {"epochs": 2, "teacher_view": "fixed"}},
        "methods.mlkd, resnet14 -> resnet8: recipe.teacher_view fixed allows no further views of the images",
    ),
    "a subset": (
        {"datasets": {"noise": {"source": "imagefolder", "root": ".", "subset_size": 5000, "validation": 0.25}}},
        "teacher resnet14: subset_size is 5000, but there are only 48 training images",
    ),
    "classes of the subset": (
        {"datasets": {"noise": {"source": "imagefolder", "root": ".", "class_subset": [0, 7], "validation": 0.25}}},
        "teacher resnet14: class_subset names class 7, allowed are 0 to 3",
    ),
    "a share of the classes": (
        {"models": {"resnet14": {"arch": "resnet14", "classes": {"overlap": 0.0, "side": "second"}}}},
        "teacher resnet14: models: classes with overlap 0, side second, leave a teacher 1 of 3 classes",
    ),
    "validation of a share of the classes": (
        {
            "datasets": {"noise": {"source": "imagefolder", "root": ".", "validation": 0.03}},
            "models": {"resnet14": {"arch": "resnet14", "classes": {"overlap": 0.0, "side": "first"}}},
            "seeds": list(range(8)),
        },
        "teacher resnet14: no validation image is left of the classes that the network learns",
    ),
    "different groups of images": (
        {"methods": [{"name": "both", "combine": ["cs_kd", "ckd"]}]},
        "methods.both, resnet14 -> resnet8: methods that draw different groups of images cannot be combined, found "
        "random of 3, same_class of 2",
    ),
    "more images a group than there are": (
        {"methods": ["ckd"], "datasets": {"noise": {"source": "imagefolder", "root": ".", "validation": 0.5}}},
        "methods.ckd, resnet14 -> resnet8: groups of 3 different images need as many training images, found 2",
    ),
    "tasks": (
        {"continual": {**CONTINUAL, "num_tasks": 3}},
        "continual.strategies plain, resnet8: continual.num_tasks: 4 classes are enough for 2 tasks of 2, found 3",
    ),
    "order of classes": (
        {"continual": {**CONTINUAL, "class_order": [0, 1, 2]}},
        "continual.strategies plain, resnet8: continual.class_order lists 3 labels, the data set has 4 classes",
    ),
}
PACKED = {
    "a share of the classes": {"noise": {"classes": 3}},
    "more images a group than there are": {"noise": {"classes": 2, "images": 4}},
    "classes of the subset": {"noise": {"classes": 4}},
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_jobs_preparation_would_refuse_is_told(told, case):
    changes, sentence = REFUSED[case]
    found = told(PACKED.get(case), **changes)
    assert len(found) == 1, found
    assert found[0].startswith(sentence)


def test_a_finished_teacher_of_other_classes_is_told(told, tmp_path):
    path = tmp_path / "seven.safetensors"
    save_weights(build_model(ModelSettings(arch="resnet14"), 7, 8), path)
    models = {"resnet14": {"arch": "resnet14", "pretrained": str(path), "train": False}}
    (sentence,) = told(models=models)
    assert sentence.startswith(
        f"teacher resnet14: train: false uses {path} as it is, but it does not give fc.bias, fc.w"
    )


@pytest.mark.parametrize(("gpus", "refused"), [(0, True), (1, False)])
def test_a_number_format_that_this_machine_lacks_is_told_where_jobs_run_here(told, monkeypatch, gpus, refused):
    monkeypatch.setattr(rehearsal, "training_device", lambda: torch.device("cpu"))
    found = told(recipe={"epochs": 1, "precision": "fp16"}, gpus=gpus)
    assert [sentence.split(": ", 1)[1].split(",")[0] for sentence in found[:1]] == (
        ["recipe.precision: fp16 needs a GPU"] if refused else []
    )


def test_images_too_small_for_a_network_are_told_once(told):
    models = {"vit": {"arch": "timm:test_vit"}}
    pairs = [{"teachers": ["resnet14"], "student": "vit"}]
    found = told({"noise": {"size": 4}}, models=models, pairs=pairs, methods=["ce", "kd", "dkd"])
    assert len(found) == 1
    assert found[0].startswith("methods.ce, vit: timm:test_vit")


def test_a_fault_that_nobody_foresaw_is_one_sentence_too(told, monkeypatch):
    def broken(self, *arguments):
        raise RuntimeError("the size of tensor a (3)\nmust match")

    monkeypatch.setattr("kd.methods.hint.Hint.loss", broken)
    assert told(methods=["ce", "hint"]) == [
        "methods.hint, resnet14 -> resnet8: a training step is not possible: RuntimeError: the size of tensor a (3) "
        "must match"
    ]


def test_each_network_is_built_once_and_let_go_after_its_last_method(told, monkeypatch):
    built, alive = [], []
    build = rehearsal.build_model

    def counted(settings, *size):
        built.append(settings.arch)
        return build(settings, *size)

    done = rehearsal.Networks.done

    def noted(self, check):
        done(self, check)
        alive.append(len(self._kept))

    monkeypatch.setattr(rehearsal, "build_model", counted)
    monkeypatch.setattr(rehearsal.Networks, "done", noted)
    pairs = [{"teachers": ["resnet14"], "student": "resnet8"}, {"teachers": ["wrn_16_1"], "student": "vgg8"}]
    assert told({"noise": {"size": 32}}, pairs=pairs, methods=["ce", "kd", "hint", "sp"]) == []
    assert sorted(built) == ["resnet14", "resnet8", "vgg8", "wrn_16_1"]
    assert alive[-1] == 0
    assert max(alive) <= 4


def test_a_method_leaves_networks_as_they_were(tmp_path, monkeypatch):
    kept = {}
    network = rehearsal.Networks.network

    def noted(self, check, settings, data):
        found = network(self, check, settings, data)
        state = [(p.requires_grad, p.grad) for p in found[0].parameters()]
        kept.setdefault(id(found[0]), (found[0], copy.deepcopy(state), found[0].training))
        return found

    monkeypatch.setattr(rehearsal.Networks, "network", noted)
    path = tmp_path / "pretrained.safetensors"
    save_weights(build_model(ModelSettings(arch="resnet8"), 4, 8), path)
    models = {"resnet8": {"arch": "resnet8", "pretrained": str(path), "freeze": 1, "freeze_bn": True}}
    assert rehearse(tmp_path, monkeypatch, experiment(methods=EVERY_KIND, models=models)) == []
    for model, state, training in kept.values():
        assert [(p.requires_grad, p.grad) for p in model.parameters()] == state
        assert model.training == training
