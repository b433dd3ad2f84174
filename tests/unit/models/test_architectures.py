"""Names of networks: what is there, where it is built, and what a mistyped one is told."""

import subprocess
import sys
from pathlib import Path

import pytest

from kd.schema.architectures import check_architecture, module_of, timm_names
from kd.tools.errors import UserError

LIBRARY = Path(__file__).parents[3] / "workflow_scripts"


@pytest.mark.parametrize(
    ("arch", "module"),
    [
        ("resnet8x4", "kd.models.resnet_cifar"),
        ("wrn_40_2", "kd.models.wrn"),
        ("timm:resnet18", "kd.models.timm_adapter"),
        ("timm:resnet18.a1_in1k", "kd.models.timm_adapter"),
    ],
)
def test_module_of(arch, module):
    assert module_of(arch) == module


@pytest.mark.parametrize(
    ("arch", "hint"),
    [
        ("resnet8x3", "did you mean 'resnet8x4'"),
        ("mobilenetv2", "did you mean 'MobileNetV2'"),
        ("resnet18", "did you mean 'timm:resnet18'.*written timm:NAME"),
        ("resnet50", "did you mean 'ResNet50' or 'timm:resnet50'"),
        ("timm:resnt18", "did you mean 'timm:resnet18'"),
        ("timm:resnet18.a1_in2k", "did you mean 'resnet18.a1_in1k'"),
        ("timm:", "allowed are the names of timm.list_models"),
        ("qqqqqqqqqqqq", "allowed are .*vgg8"),
    ],
)
def test_an_unknown_name_gets_the_nearest_right_one(arch, hint):
    with pytest.raises(UserError, match=hint):
        check_architecture(arch)


def test_names_read_from_text_are_timms_own():
    timm = pytest.importorskip("timm")
    assert set(timm.list_models()) <= timm_names()
    for name in timm.list_models(pretrained=True):  # tags too
        check_architecture(f"timm:{name}")


def test_checking_names_imports_neither_torch_nor_timm():
    code = (
        "import sys; from kd.schema.architectures import check_architecture as check; check('timm:resnet18');"
        "assert not {'torch', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(LIBRARY)})
