import subprocess
import sys

import pytest
from asib_world import method_of, settings_of

from kd.asib.recipes import half_recipe
from kd.spec.cards import card
from kd.spec.chain import (
    HALVES,
    STUDENT_ONLY,
    STUDENT_UPDATE,
    TEACHER_ONLY,
    TEACHER_UPDATE,
    stage_settings,
    stages,
)
from kd.spec.errors import UserError

PER_STAGE = sorted(key for key, setting in card("asib").settings.items() if setting.per_stage)


def dumped(**given):
    return settings_of(**given).model_dump(mode="json")


def of_stage(settings, stage, half):
    return stage_settings(settings, stage, half, epochs=9)


def test_every_setting_of_a_half_is_on_the_card():
    assert set(card("asib").settings) > TEACHER_ONLY | STUDENT_ONLY
    assert not TEACHER_ONLY & STUDENT_ONLY


def test_halves_get_single_values_of_their_stage_and_nothing_of_each_other():
    lists = {"teacher_lr": [1e-3, 2e-3, 3e-3], "student_epochs": [5, 6, 7], "temperature": [4.0, 3.0, 2.0]}
    settings = dumped(num_stages=3, **lists)
    teacher, student = of_stage(settings, 2, TEACHER_UPDATE), of_stage(settings, 3, STUDENT_UPDATE)
    assert (teacher["teacher_lr"], teacher["temperature"]) == (2e-3, 3.0)
    assert (student["student_epochs"], student["temperature"]) == (7, 2.0)
    assert not set(teacher) & (STUDENT_ONLY | {"num_stages"})
    assert not set(student) & (TEACHER_ONLY | {"num_stages"})
    assert set(teacher) | set(student) | {"num_stages"} == set(settings)
    assert not any(isinstance(value, list) for value in [*teacher.values(), *student.values()])


@pytest.mark.parametrize("key", PER_STAGE)
def test_a_later_stage_changes_nothing_in_earlier_ones(key):
    default = settings_of().model_dump()[key]
    value = default if default is not None else 2
    other = value + 1
    before = dumped(num_stages=3, **{key: [value, value, value]})
    after = dumped(num_stages=4, **{key: [value, value, other, other]})
    if key != "student_epochs":  # null shares the recipe's epochs, so the number of stages matters there
        before["student_epochs"] = after["student_epochs"] = 3
    for half in HALVES:
        assert all(of_stage(before, stage, half) == of_stage(after, stage, half) for stage in (1, 2))
    assert any(of_stage(before, 3, half) != of_stage(after, 3, half) for half in HALVES)


@pytest.mark.parametrize("key", PER_STAGE)
def test_a_list_of_another_length_is_told(key):
    value = settings_of().model_dump()[key] or 1
    with pytest.raises(UserError, match=f"{key} lists 3 values for num_stages 2"):
        stages(dumped(num_stages=2, **{key: [value] * 3}))
    with pytest.raises(UserError, match=f"{key} lists 0 values"):
        stage_settings(dumped(**{key: []}), 1, TEACHER_UPDATE)


def test_contradictions_are_told():
    with pytest.raises(UserError, match="num_stages"):
        settings_of(num_stages=0)
    with pytest.raises(UserError, match="num_stages must be at least 1"):
        stages({**dumped(), "num_stages": 0})
    with pytest.raises(UserError, match="multiple of n_heads"):
        stages(dumped(embed_dim=10, n_heads=4))
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


def test_plan_lists_the_half_stages_in_order():
    method = method_of(3, num_stages=2, teacher_epochs=[4, 5], student_epochs=[6, 7], teacher_freeze=[1, 0])
    plan = method.plan()
    assert [stage.name for stage in plan] == list(HALVES) * 2
    assert [stage.recipe["epochs"] for stage in plan] == [4, 6, 5, 7]
    assert [stage.selects for stage in plan] == [False, True] * 2
    teacher, student = plan[2], plan[3]
    assert teacher.updates[0].trains == ("teacher0", "teacher1", "teacher2", "extra")
    assert teacher.updates[0].lr_scale == {"extra": 10.0}
    assert teacher.freeze == {"teacher0": 0, "teacher1": 0, "teacher2": 0}
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
    from kd.spec.config import Recipe

    recipe = Recipe(epochs=20, warmup_epochs=5, min_lr=1e-3, milestones=[10], ema_decay=0.9).model_dump()
    for half in HALVES:
        settings = of_stage(dumped(teacher_epochs=1, student_epochs=12, student_lr=0.1), 1, half)
        merged = Recipe(**recipe | half_recipe(settings, half))
        assert merged.epochs == (12 if half == STUDENT_UPDATE else 1)


def test_settings_and_gate_do_not_import_torch():
    code = "import sys, kd.spec.chain, kd.asib.gate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0
