"""What the rehearsal says of every method and pair of kinds of networks is what becomes of their training."""

import json

import pytest
import torch
from method_world import REFERENCES
from packed_noise import pack_noise
from test_pairs import CARDS, CHOSEN, EXCEPTIONS, KINDS, LETTERS, NO, OUTCOMES, PAIRS, TAPS, WORKS, one_sentence
from told import told

from kd.continual.rehearsal import ContinualRehearsal
from kd.schema.cards import is_path
from kd.study.checks import parse_checks
from kd.study.experiment import check_experiment
from kd.study.plan import Plan

SIZE, CLASSES, IMAGES = 32, 4, 24


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A packed data set of noise."""
    return pack_noise(tmp_path_factory.mktemp("packed"), SIZE, CLASSES, IMAGES)


def variants_of(name):
    """Return the ways in which the table tries a method: as it is, then with taps listed."""
    reference = REFERENCES[name]
    what = {"card" if is_path(reference) else "method": reference}
    found = [{**what, "name": name}]
    if {"student_taps", "teacher_taps"} <= set(CARDS[name].settings):
        for k, taps in enumerate(CHOSEN):
            found.append({**what, "name": f"{name}_{k}", "student_taps": taps, "teacher_taps": taps})
    return found


def experiment(student, target, methods):
    models = {
        "pupil": {"arch": KINDS[student]},
        "first": {"arch": KINDS[target]},
        "second": {"arch": KINDS[target]},
    }
    return {
        "experiment": "unit",
        "datasets": {"noise": {"source": "digits", "validation": 0.25}},
        "models": models,
        "pairs": [{"teachers": ["first", "second"], "student": "pupil"}],
        "methods": methods,
        "seeds": [0],
        "recipe": {"epochs": 2, "batch_size": 8, "augmentation": {"crop": "none"}},
    }


def misfits(packed, content):
    torch.set_num_threads(1)
    checks = parse_checks(json.loads(told(Plan(check_experiment(content)), "check_pairs")))
    return ContinualRehearsal([check.model_copy(update={"data": str(packed)}) for check in checks]).run()


def expected(name, student, target):
    letter = dict(zip(KINDS, OUTCOMES[CARDS[name].networks], strict=True))[student][list(KINDS).index(target)]
    return LETTERS[EXCEPTIONS.get(name, {}).get((student, target), letter)]


@pytest.mark.parametrize(("student", "target"), PAIRS)
def test_all_methods_of_a_pair_are_told_at_once_and_as_they_would_train(packed, student, target):
    methods = [variant for name in CARDS if CARDS[name].links == "none" for variant in variants_of(name)]
    sentences = misfits(packed, experiment(student, target, methods))
    refused = {sentence.split(",")[0].removeprefix("methods.") for sentence in sentences}
    assert all(map(one_sentence, sentences))
    found = {}
    for name in (name for name in CARDS if CARDS[name].links == "none"):
        own, *listed = [variant["name"] not in refused for variant in variants_of(name)]
        found[name] = WORKS if own else TAPS if any(listed) else NO
    none = {name for name in found if CARDS[name].teachers == "none"}
    wanted = {name: expected(name, student, student if name in none else target) for name in found}
    assert found == wanted
