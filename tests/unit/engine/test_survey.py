"""A pre-stage that measures: what it sees of the teacher, and what it leaves."""

import csv
import json

import pytest
import torch
from safetensors.torch import load_file
from told import told

from kd.engine.jobs.files import Files
from kd.engine.jobs.workbench import prepare
from kd.engine.survey import TeacherLook
from kd.methods.contract import teacher
from kd.methods.wkd_l import centred_rows, cka, cosine_distances
from kd.study.job_settings import parse_settings


@pytest.fixture
def bench(world):
    here = world("wkd_l")
    job = parse_settings(told(here.plan, "pretrain_method", "digits", "wrn_16_1", "wkd_l", 0))
    return prepare(job, Files(here.packed, here.folder / "look", teachers=[here.teacher("wrn_16_1")]))


def look_of(bench, seed=0):
    return TeacherLook(bench.team, bench.data, bench.precision, batch_size=7, seed=seed)


def test_images_are_answered_for_in_the_order_asked_and_as_they_are(bench):
    positions = torch.tensor([5, 0, 33, 12, 5, 90, 1, 2, 3, 4])
    look = look_of(bench)
    found = look(positions)
    ((images, _, _),) = bench.data.train.batches(positions, len(positions))
    model = bench.team.models[teacher(0)].eval()
    with torch.no_grad():
        logits, taps = model(bench.data.augmenter.plain(images), bench.team.taps[teacher(0)])
    torch.testing.assert_close(found.logits, logits, rtol=1e-4, atol=1e-4)
    assert list(found.taps) == list(bench.team.taps[teacher(0)]) == ["stage3"]
    torch.testing.assert_close(found.features[0], taps["stage3"], rtol=1e-4, atol=1e-4)
    assert not found.logits.requires_grad
    assert look.counter.total > 0


def test_augmented_images_are_drawn_anew_from_a_stream_of_its_own(bench):
    positions = torch.arange(20)
    before = torch.get_rng_state()
    look = look_of(bench)
    first, second = (look(positions, augmented=True).logits for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(look_of(bench)(positions, augmented=True).logits, first)
    assert not torch.equal(look_of(bench, seed=1)(positions, augmented=True).logits, first)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("method", ["wkd_l", {"method": "wkd_l", "distances": "classifier"}])
def test_the_pre_stage_leaves_distances_of_all_classes_and_what_they_cost(world, bench, method):
    here = world(method)
    path = here.pretrained([here.teacher("wrn_16_1")])
    (found,) = load_file(path).values()
    record = json.loads((path.parent / "run.json").read_text(encoding="utf-8"))
    assert (record["status"], record["epochs"], record["params"]["extra_train"]) == ("ok", 0, 0)
    assert record["flops"]["train"] > 0
    assert record["seconds"]["train"] > 0
    with (path.parent / "metrics.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == []
    torch.testing.assert_close(found, found.T)
    assert torch.equal(found.diagonal(), torch.zeros(10)) or method != "wkd_l"
    if method != "wkd_l":
        expected = cosine_distances(bench.team.models[teacher(0)].classifier.weight)
        torch.testing.assert_close(found, expected)
        return
    labels, look = bench.data.train.labels, look_of(bench)
    fewest = int(labels.bincount().min())
    rows = [centred_rows(look((labels == label).nonzero().flatten()[:fewest]).features[0]) for label in (3, 8)]
    assert found[3, 8].item() == pytest.approx(1 - cka(*rows).item(), abs=1e-4)
