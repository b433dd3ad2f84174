import subprocess
import sys

import pytest
from asib_world import method_of, settings_of

from kd.asib.recipes import half_recipe
from kd.models.freezing import Freezing
from kd.schema.cards import card
from kd.study.chain import (
    HALVES,
    STUDENT_UPDATE,
    TEACHER_UPDATE,
    stage_settings,
    stages,
)
from kd.tools.errors import UserError

PER_STAGE = sorted(key for key, setting in card("asib").settings.items() if setting.per_stage)


def dumped(**given):
    return settings_of(**given).model_dump(mode="json")


def of_stage(settings, stage, half):
    return stage_settings(settings, stage, half, epochs=9)


def of_half(*halves):
    return {key for key, setting in card("asib").settings.items() if setting.half in halves}


def test_the_card_says_whose_every_setting_is():
    assert of_half("chain") == {"form", "num_stages", "schedule_span", "epochs_span", "teacher_epochs"}
    assert {"teacher_lr", "mbm_dropout", "cccp_alpha"} < of_half("teacher")
    assert {"student_lr", "kd_alpha", "feat_layers"} < of_half("student")
    assert {"mbm_type", "tau_start", "use_ib"} < of_half("both")


def test_halves_get_single_values_of_their_stage_and_nothing_of_each_other():
    lists = {"teacher_lr": [1e-3, 2e-3, 3e-3], "student_epochs": [5, 6, 7], "tau_start": [4.0, 3.0, 2.0]}
    settings = dumped(num_stages=3, **lists)
    teacher, student = of_stage(settings, 2, TEACHER_UPDATE), of_stage(settings, 3, STUDENT_UPDATE)
    assert (teacher["teacher_lr"], teacher["tau_start"]) == (2e-3, 3.0)
    assert (student["student_epochs"], student["tau_start"]) == (7, 2.0)
    of_the_chain = of_half("chain") - {"epochs_span"}
    assert not set(teacher) & (of_half("student") | of_the_chain)
    assert not set(student) & (of_half("teacher") | of_the_chain)
    told = set(teacher) | set(student)
    assert told | of_the_chain | {"student_freeze_schedule"} == set(settings)
    of_stages = [key for key, setting in card("asib").settings.items() if setting.per_stage]
    assert not any(isinstance(half.get(key), list) for half in (teacher, student) for key in of_stages)


GIVEN = {"schedule_span": "stage", "student_epochs": 3, "use_student_proj": True}
LENGTHS = {"teacher_adapt_epochs", "student_epochs"}


@pytest.mark.parametrize("key", PER_STAGE)
def test_a_later_stage_changes_nothing_in_earlier_ones(key):
    default = settings_of().model_dump()[key]
    value = default if default is not None else 2
    other = value + 1 if key != "hybrid_beta" else 0.5
    before = dumped(num_stages=3, **{**GIVEN, key: [value, value, value]})
    after = dumped(num_stages=4, **{**GIVEN, key: [value, value, other, other]})
    for half in HALVES:
        assert all(of_stage(before, stage, half) == of_stage(after, stage, half) for stage in (1, 2))
    assert any(of_stage(before, 3, half) != of_stage(after, 3, half) for half in HALVES)


@pytest.mark.parametrize("key", sorted(set(PER_STAGE) - LENGTHS))
def test_schedules_that_span_the_chain_tie_stages_by_their_epochs_only(key):
    default = settings_of().model_dump()[key]
    value = default if default is not None else 2
    other = value + 1 if key != "hybrid_beta" else 0.5
    given = {**GIVEN, "schedule_span": "chain", "num_stages": 3}
    before, after = dumped(**{**given, key: [value] * 3}), dumped(**{**given, key: [value, value, other]})
    for half in HALVES:
        assert all(of_stage(before, stage, half) == of_stage(after, stage, half) for stage in (1, 2))


def test_a_schedule_continues_where_the_stage_before_left_it():
    settings = dumped(num_stages=3, teacher_adapt_epochs=[2, 3, 4], student_epochs=5)
    spans = [of_stage(settings, stage, TEACHER_UPDATE)["epochs_span"] for stage in (1, 2, 3)]
    assert spans == [[0.0, 9.0], [2.0, 9.0], [5.0, 9.0]]
    assert of_stage(settings, 2, STUDENT_UPDATE)["epochs_span"] == [5.0, 15.0]
    assert of_stage(dumped(num_stages=2), 2, STUDENT_UPDATE)["epochs_span"] == [5.0, 9.0]
    restarted = of_stage(dumped(schedule_span="stage"), 2, STUDENT_UPDATE)
    assert "epochs_span" not in restarted


@pytest.mark.parametrize(
    ("given", "levels"),
    [
        ({"student_freeze_level": 2}, [2, 1, 0, -1]),
        ({"student_freeze_level": 0}, [0, -1, -1, -1]),
        ({}, [-1, -1, -1, -1]),
        ({"student_freeze_schedule": [-1, 2, 1, 0]}, [-1, 2, 1, 0]),
    ],
)
def test_freeze_schedules_of_the_student(given, levels):
    method = method_of(2, num_stages=4, use_partial_freeze=True, student_freeze_bn="all", **given)
    stages_of = method.plan()[1::2]
    assert [stage.freeze["student"] for stage in stages_of] == [Freezing(level, "all", "blocks") for level in levels]
    assert not any(stage.freeze for stage in method_of(2, num_stages=4, **given).plan())


def test_levels_of_the_teachers_for_all_by_stage_or_one_each():
    given = {"use_partial_freeze": True, "teacher_freeze_bn": "none", "teacher_freeze_ln": "all"}
    by_stage = method_of(2, teacher_freeze_level=[2, -1], **given).plan()[::2]
    assert [stage.freeze["teacher1"] for stage in by_stage] == [Freezing(level, "none", "all") for level in (2, -1)]
    one_each = method_of(2, teacher_freeze_levels=[0, 3], **given).plan()[2]
    assert [one_each.freeze[f"teacher{k}"].level for k in (0, 1)] == [0, 3]
    with pytest.raises(UserError, match="teacher_freeze_levels lists 2 levels for 3 teachers"):
        method_of(3, teacher_freeze_levels=[0, 3], **given).plan()


@pytest.mark.parametrize("key", PER_STAGE)
def test_a_list_of_another_length_is_told(key):
    value = settings_of().model_dump()[key] or 1
    with pytest.raises(UserError, match=f"{key} lists 3 values for num_stages 2"):
        stages(dumped(num_stages=2, **{key: [value] * 3}))
    with pytest.raises(UserError, match=f"{key} lists 0 values"):
        stage_settings(dumped(**{key: []}), 1, TEACHER_UPDATE)


CONTRADICTIONS = [
    ({"mbm_type": "MLP"}, "mbm_type MLP has no bottleneck: set use_ib false"),
    ({"epochs_span": [0.0, 3.0]}, "epochs_span is filled in by the workflow"),
    ({"beta_schedule": [0.1, 0.2]}, "beta_schedule takes"),
    ({"beta_schedule": [0.1, 0.2, 0.0]}, "beta_schedule takes"),
    ({"feat_kd_key": "proj"}, "need use_student_proj true"),
    ({"latent_alpha": [0.0, 0.5]}, "need use_student_proj true"),
    ({"latent_alpha": 0.5, "use_student_proj": True, "use_ib": False}, "latent_alpha needs a bottleneck"),
    ({"mbm_type": "VIB", "feat_kd_key": "query"}, "needs a fusion that the student asks"),
    ({"feat_layers": [1]}, "feat_weights must be one for each of feat_layers"),
    ({"train_distill_adapter_only": True}, "needs use_distillation_adapter true"),
    ({"renorm_ce_kd": True, "ce_alpha": 0.0, "kd_alpha": 0.0}, "renorm_ce_kd needs"),
    ({"student_freeze_schedule": [1]}, "student_freeze_schedule lists 1 values for num_stages 2"),
    ({"cross_fit": True, "fusion_share": 0.5}, "give fusion_share or cross_fit"),
    ({"fusion_share": 0.5, "rkd_loss_weight": [0.0, 0.5]}, "fusion_share below 1 needs rkd_gamma 0"),
    ({"synergy_scale": "learned", "synergy_temp_learnable": True}, "are both a temperature"),
]


def test_contradictions_are_told():
    with pytest.raises(UserError, match="num_stages"):
        settings_of(num_stages=0)
    with pytest.raises(UserError, match="num_stages must be at least 1"):
        stages({**dumped(), "num_stages": 0})
    with pytest.raises(UserError, match="multiple of mbm_n_head"):
        stages(dumped(mbm_out_dim=10, mbm_n_head=4))
    for given, sentence in CONTRADICTIONS:
        with pytest.raises(UserError, match=sentence):
            stages(dumped(**given))
    with pytest.raises(UserError, match="stage must be 1 to 2"):
        stage_settings(dumped(), 3, TEACHER_UPDATE)
    with pytest.raises(UserError, match="did you mean 'teacher_update'"):
        stage_settings(dumped(), 1, "teacher_updat")


def test_student_epochs_null_shares_the_epochs_of_the_recipe():
    settings = dumped(num_stages=3)
    shares = [stage_settings(settings, stage, STUDENT_UPDATE, epochs=11)["student_epochs"] for stage in (1, 2, 3)]
    assert shares == [4, 4, 3]
    with pytest.raises(UserError, match="2 epochs for num_stages 3"):
        stage_settings(settings, 1, STUDENT_UPDATE, epochs=2)
    with pytest.raises(AssertionError):
        stage_settings(settings, 1, STUDENT_UPDATE)


def test_teacher_epochs_are_divided_over_the_stages():
    settings = dumped(num_stages=3, teacher_epochs=11)
    halves = [of_stage(settings, stage, TEACHER_UPDATE) for stage in (1, 2, 3)]
    assert [half["teacher_adapt_epochs"] for half in halves] == [4, 4, 3]
    assert [half["epochs_span"] for half in halves] == [[0.0, 11.0], [4.0, 11.0], [8.0, 11.0]]
    assert [stage.recipe["epochs"] for stage in method_of(2, num_stages=2, teacher_epochs=5).plan()[::2]] == [3, 2]
    with pytest.raises(UserError, match="teacher_epochs divides its epochs over the stages, but there are 2 epochs"):
        of_stage(dumped(num_stages=3, teacher_epochs=2), 1, TEACHER_UPDATE)


@pytest.mark.parametrize(("given", "mixes"), [({}, True), ({"cross_fit": True}, False), ({"fusion_share": 0.5}, False)])
def test_no_image_is_mixed_with_one_that_a_fusion_is_not_to_see(given, mixes):
    recipe = half_recipe(of_stage(dumped(**given), 1, TEACHER_UPDATE), TEACHER_UPDATE)
    assert ("mixup_alpha" not in recipe) == mixes
    assert "mixup_alpha" not in half_recipe(of_stage(dumped(**given), 1, STUDENT_UPDATE), STUDENT_UPDATE)


def test_plan_lists_the_half_stages_in_order():
    method = method_of(3, num_stages=2, teacher_adapt_epochs=[4, 5], student_epochs=[6, 7])
    plan = method.plan()
    assert [stage.name for stage in plan] == list(HALVES) * 2
    assert [stage.recipe["epochs"] for stage in plan] == [4, 6, 5, 7]
    assert [stage.selects for stage in plan] == [False, True] * 2
    assert not any(stage.keeps for stage in plan)
    assert [stage.keeps for stage in method_of(2, teacher_keeps="best").plan()] == ["synergy", ""] * 2
    teacher, student = plan[2], plan[3]
    assert teacher.updates[0].trains == ("teacher0", "teacher1", "teacher2", "extra.mbm", "extra.head")
    assert teacher.updates[0].lr_scale == {"extra.mbm": 10.0, "extra.head": 10.0}
    assert (teacher.span, student.span) == ((4.0, 9.0), (6.0, 13.0))
    assert student.trained() == {"student"}
    assert "lr" not in student.recipe


def test_plan_shares_epochs_where_they_are_known():
    method = method_of(2)
    assert "epochs" not in method.plan()[1].recipe
    method.epochs = 5
    assert [stage.recipe["epochs"] for stage in method.plan()[1::2]] == [3, 2]


@pytest.mark.parametrize("half", HALVES)
def test_a_half_stage_is_the_same_from_resolved_settings(half):
    given = {"num_stages": 2, "teacher_lr": [1e-3, 2e-3], "student_lr": [0.1, 0.2], "student_epochs": 3}
    resolved = stage_settings(dumped(**given), 2, half)
    assert method_of(2, **resolved).half_stage(half) == method_of(2, **given).plan()[2 + HALVES.index(half)]


def test_recipes_of_both_halves_are_valid():
    from kd.schema.config import Recipe

    recipe = Recipe(epochs=20, warmup_epochs=5, min_lr=1e-3, milestones=[10], ema_decay=0.9).model_dump()
    for half in HALVES:
        settings = of_stage(dumped(teacher_adapt_epochs=1, student_epochs=12, student_lr=0.1), 1, half)
        merged = Recipe(**recipe | half_recipe(settings, half))
        assert merged.epochs == (12 if half == STUDENT_UPDATE else 1)


def test_settings_and_gate_do_not_import_torch():
    code = "import sys, kd.study.chain, kd.asib.gate, kd.asib.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0
