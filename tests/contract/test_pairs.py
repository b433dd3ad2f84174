"""Every method with every pair of kinds of networks trains a step, or says in one sentence why it cannot.

Which is expected follows from what a card says about networks (`networks`), so a method that loses support fails here,
as does one that gains it while its card is silent.
"""

import copy
import functools

import pytest
import torch
from method_world import ASKED, CARDS, CLASSES, World, tiny_net

from kd.methods.contract import STUDENT, teacher
from kd.models.build import build_model
from kd.schema.config import ModelSettings
from kd.tools.errors import UserError

SIZE, ITEMS = 32, 4
KINDS = {"zoo": "resnet8", "cnn": "timm:test_resnet", "vit": "timm:test_vit"}
"""Three stages, four stages, and six blocks of 2x2 patches; every kind has widths of its own."""
PAIRS = [(student, target) for student in KINDS for target in KINDS]

WORKS, TAPS, NO = "works", "works with taps listed", "is refused"
CHOSEN = (["stage2", "stage3"], ["last"])
"""Taps that are listed where the defaults of a method do not fit a pair."""

OUTCOMES = {
    # rows: students zoo, cnn, vit; columns: teachers zoo, cnn, vit
    "any": ("yyy", "yyy", "yyy"),
    "stages": ("ytt", "tyt", "tty"),
    "equal_widths": ("ynn", "nyn", "nny"),
    "pre_activations": ("ytn", "tyn", "nnn"),
    "pooled_map": ("yyn", "yyn", "nnn"),
    "map_sizes": ("yyy", "yyy", "nty"),
    "two_heads": ("nnn", "nnn", "nnn"),
}
EXCEPTIONS = {"fsp": {("vit", "vit"): "t"}}
"""FSP begins at the stem, which transformers have no tap of."""
LETTERS = {"y": WORKS, "t": TAPS, "n": NO}


@functools.cache
def made(kind, seed):
    """Return the network of a kind and seed that copies are made of."""
    torch.manual_seed(seed)
    return build_model(ModelSettings(arch=KINDS[kind]), CLASSES, SIZE)


def step(name, pair, settings):
    """Train every update of a method once."""
    student, target = (functools.partial(copy.deepcopy, made(kind, seed)) for seed, kind in enumerate(pair))
    world = World(name, settings, nets=(student, target), size=SIZE, items=ITEMS)
    for stage, update in world.updates():
        world.team.enter(stage)
        terms = world.backward(update, world.batch())
        assert all(torch.isfinite(value) for value, _ in terms.values())
        if STUDENT in update.trains:
            assert moves(world)


def moves(world):
    """Take a step along the student's gradient and return whether it changed the student, without a NaN."""
    before = torch.cat([p.detach().flatten() for p in world.team.parameters(STUDENT)]).double()
    after = before - 0.1 * world.gradient(STUDENT)
    return bool(after.isfinite().all()) and not torch.equal(before, after)


def outcome(name, pair):
    """Return what becomes of a method and a pair, with the last refusal."""
    tries = [{}]
    if {"student_taps", "teacher_taps"} <= set(CARDS[name].settings):
        tries += [{"student_taps": taps, "teacher_taps": taps} for taps in CHOSEN]
    refusals = []
    for settings in tries:
        try:
            step(name, pair, settings)
        except UserError as error:
            refusals.append(str(error))
        else:
            return TAPS if settings else WORKS, refusals
    return NO, refusals


def one_sentence(text):
    """Whether a message is one sentence."""
    return bool(text) and "\n" not in text and ". " not in text and not text.endswith(".")


@pytest.mark.parametrize("name", CARDS)
def test_every_pair_of_networks_trains_a_step_or_is_refused_in_one_sentence(name):
    rows = dict(zip(KINDS, OUTCOMES[CARDS[name].networks], strict=True))
    pairs = PAIRS if CARDS[name].teachers != "none" else [(kind, kind) for kind in KINDS]
    letters = {(s, t): rows[s][list(KINDS).index(t)] for s, t in pairs} | EXCEPTIONS.get(name, {})
    expected = {pair: LETTERS[letter] for pair, letter in letters.items()}
    found = {pair: outcome(name, pair) for pair in pairs}
    assert {pair: result for pair, (result, _) in found.items()} == expected
    assert all(map(one_sentence, [text for _, refusals in found.values() for text in refusals]))


# --- stages of unequal number -----------------------------------------------------------------------


def pairs_stages(card):
    """Whether a method compares all stages of the student with all of the teacher unless told otherwise."""
    taps = [card.settings[key].default for key in ("student_taps", "teacher_taps") if key in card.settings]
    return len(taps) == 2 and all("stages" in (names or ()) for names in taps)


UNPAIRED = {"semckd"}
"""Methods that compare every stage of one network with every one of the other."""
CASES = [
    (name, {}, pairs_stages(card))
    for name, card in CARDS.items()
    if card.teachers != "none" and card.networks != "two_heads"
]
CASES += [("ckd_inter", {"inner": "vid"}, True)] if "ckd_inter" in CARDS else []


@pytest.mark.parametrize(("student", "target"), [(3, 4), (4, 3)])
@pytest.mark.parametrize(("name", "settings", "paired"), CASES)
def test_stages_of_unequal_number_are_a_clear_error_where_stages_are_paired(name, settings, paired, student, target):
    nets = (lambda: tiny_net(2, student), lambda: tiny_net(2, target))
    if paired:
        message = r"compares taps one to one, but the student gives \d .* and the teacher \d .*: list as many"
        with pytest.raises(UserError, match=message):
            World(name, settings, nets=nets)
        return
    world = World(name, settings, nets=nets)
    own, other = world.team.taps[STUDENT], world.team.taps[teacher(0)]
    assert name in UNPAIRED or len(own) <= 1 or own == other or not other
    for stage, update in world.updates():
        world.team.enter(stage)
        assert all(torch.isfinite(value) for value, _ in world.terms(update, world.batch()).values())


@pytest.mark.skipif(bool(ASKED), reason="other cards are tested")
def test_the_methods_that_pair_stages_are_found():
    assert {"ab", "at", "fsp", "kdsvd", "nst", "ofd", "reviewkd", "vid"} <= {n for n, _, paired in CASES if paired}
