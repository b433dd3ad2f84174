"""Which parts of the code a job takes because its settings ask for them."""

import importlib.util
import json

import pytest

from kd.study import options
from kd.study.digests import canonical
from kd.study.job_settings import JobSettings
from kd.study.options import options_of

NAMED = {value for name, value in vars(options).items() if name.isupper() and isinstance(value, str)}


def told(method="kd", student=None, **recipe) -> str:
    content = {
        "dataset": {},
        "student": {"arch": "resnet8", **(student or {})},
        "teachers": [{"arch": "resnet20"}],
        "method": [{"card": method, "settings": {}}],
        "recipe": {"epochs": 2, **recipe},
        "seed": 0,
        "split_seed": 0,
    }
    return canonical(JobSettings.model_validate(content).model_dump(mode="json"))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (told(), set()),
        (told(schedule="plateau", patience=2), {options.PLATEAU}),
        (told(ema_decay=0.9), {options.AVERAGE}),
        (told(mixup_alpha=0.2), {options.MIXING}),
        (told(cutmix_alpha=1.0), {options.MIXING}),
        (told(teacher_view="fixed"), {options.FIXED_VIEW}),
        (told("ckd"), {options.FIXED_VIEW}),
        (told(augmentation={"randaugment": {"ops": 1}}), {options.RANDAUGMENT}),
        (told(kernels="winograd"), {options.WINOGRAD}),
        (told(student={"pretrained": "weights.pth"}), {options.TORCH_FILES}),
        (told(student={"pretrained": False}), set()),
        (canonical([{"settings": json.loads(told(ema_decay=0.9)), "seeds": [0]}]), {options.AVERAGE}),
        (canonical({"source": "digits", "recipe": "mine"}), set()),
        ("", set()),
        ("--parts speed", set()),
    ],
)
def test_settings_name_what_they_ask_for(settings, expected):
    assert options_of(settings) == expected


@pytest.mark.parametrize("module", sorted(NAMED))
def test_an_option_is_a_module(module):
    assert module in options.OPTIONS
    assert importlib.util.find_spec(module) is not None
