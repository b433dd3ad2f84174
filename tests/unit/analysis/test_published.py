import pytest

from kd.analysis.published import published_beside
from kd.schema.cards import Published

FULL = {"source": "cifar100", "subset_size": None, "class_subset": None}
KD = [
    Published(teacher="wrn_40_2", student="wrn_16_2", top1=74.92, epoch="last", source="first"),
    Published(teacher="wrn_40_2", student="wrn_16_2", top1=75.1, epoch="last", source="second"),
    Published(teacher="wrn_40_2", student="wrn_16_2", top1=76.2, epoch="best", source="third"),
    Published(teacher="-", student="wrn_16_2", top1=73.26, epoch="last", source="alone"),
    Published(teacher="a+b", student="wrn_16_2", top1=76.0, epoch="last", source="two teachers"),
]


@pytest.mark.parametrize(
    ("teachers", "student", "sources"),
    [
        (["wrn_40_2"], "wrn_16_2", {"last": "first", "best": "third"}),
        ([], "wrn_16_2", {"last": "alone"}),
        (["a", "b"], "wrn_16_2", {"last": "two teachers"}),
        (["wrn_40_2"], "wrn_40_1", {}),
    ],
)
def test_only_the_same_pair_matches(teachers, student, sources):
    found = published_beside(KD, FULL, teachers, student)
    assert {label: entry.source for label, entry in found.items()} == sources


@pytest.mark.parametrize(
    "change", [{"source": "cifar10"}, {"subset_size": 5000}, {"class_subset": [0, 1]}, {"image_size": 16}]
)
def test_other_data_have_no_published_numbers(change):
    assert published_beside(KD, FULL | change, ["wrn_40_2"], "wrn_16_2") == {}
