"""Settings of a data set: what a source does not read is refused, and CIFAR has a root of its own."""

import pytest

from kd.schema.config import DEFAULT_ROOTS, TAKEN_BY, DatasetSettings
from kd.study.experiment import check_experiment
from kd.tools.errors import UserError

RATIOS = {"train": 0.8, "test": 0.2}
VALUES = {
    "root": "x",
    "archives": ["x.tar"],
    "download": True,
    "class_list": "x.txt",
    "split_ratios": RATIOS,
    "split_seed": 1,
}
SOURCES = ["digits", "cifar10", "cifar100", "imagefolder", "imagenet32", "imagenet100"]
NEEDED = {"imagefolder": {"root": "x"}, "imagenet32": {"root": "x"}, "imagenet100": {"root": "x", "class_list": "x"}}
IDLE = [(source, key) for source in SOURCES for key in VALUES if source not in TAKEN_BY[key]]


def refused(**dataset) -> str:
    content = {
        "experiment": "e",
        "datasets": {"images": dataset},
        "pairs": [{"teachers": ["resnet20"], "student": "resnet8"}],
        "methods": ["ce"],
        "seeds": [0],
        "recipe": {"epochs": 1},
    }
    with pytest.raises(UserError) as told:
        check_experiment(content)
    return str(told.value)


@pytest.mark.parametrize(("source", "key"), IDLE)
def test_what_a_source_does_not_read_is_refused(source, key):
    """digits with a root, archives of another kind, ...: they would be dropped in silence."""
    sentence = refused(source=source, **NEEDED.get(source, {}) | {key: VALUES[key]})
    assert f"datasets.images: source {source} takes no {key}" in sentence
    assert all(name in sentence for name in TAKEN_BY[key])


@pytest.mark.parametrize("key", VALUES)
def test_what_is_not_given_is_not_refused(key):
    for source in SOURCES:
        default = DatasetSettings.model_fields[key].default
        if not (key in ("root", "class_list") and key in NEEDED.get(source, {})):
            DatasetSettings(source=source, **NEEDED.get(source, {}) | {key: default})


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ({"source": "imagefolder"}, "takes either root or archives, found neither"),
        ({"source": "imagefolder", "root": "x", "archives": ["x.tar"]}, "takes either root or archives, found both"),
        ({"source": "imagefolder", "archives": ["x.tar", "./x.tar"]}, "./x.tar is listed twice"),
        ({"source": "imagefolder", "archives": ["x.rar"]}, "x.rar is none of .tar, .tar.gz, .tgz, .zip"),
        ({"source": "imagefolder", "archives": ["x.gz"]}, "x.gz is none of .tar, .tar.gz, .tgz, .zip"),
        ({"source": "imagefolder", "root": "x", "split_seed": 3}, "split_seed needs split_ratios"),
        ({"source": "digits", "subset": "uniform"}, "subset uniform needs a subset_size"),
        ({"source": "imagenet32"}, "root is required for source imagenet32"),
        ({"source": "imagenet100", "root": "x"}, "class_list is required for source imagenet100"),
        ({"source": "cifar100", "archives": ["x.tar"]}, "takes no archives (its archives are found in root)"),
    ],
)
def test_settings_that_contradict_each_other(dataset, message):
    assert message in refused(**dataset)


@pytest.mark.parametrize("source", DEFAULT_ROOTS)
def test_cifar_has_a_root_of_its_own(source):
    given = DatasetSettings(source=source, root=DEFAULT_ROOTS[source])
    for settings in (DatasetSettings(source=source), DatasetSettings(source=source, root=None)):
        assert settings.root == f"data/{source}"
        assert settings.packing() == given.packing(), "the same job"
