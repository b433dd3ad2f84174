"""What every method card promises, tested on all of them: a new method is tested without writing a test."""

import functools
import itertools
import json
import math

import method_world
import pytest
import torch
from method_world import CARDS, MEASURED, NETS, PHASES, REFERENCES, SIZE, World

from kd.engine.resolve import build_method
from kd.methods.contract import EXTRA, STUDENT, peer, teacher
from kd.schema.cards import card as card_of
from kd.schema.config import Recipe
from kd.study.job_settings import MethodPart
from kd.tools.errors import UserError

every_card = pytest.mark.parametrize("name", CARDS)
every_phase = pytest.mark.parametrize(("name", "pretrain"), PHASES)
every_net = pytest.mark.parametrize("nets", NETS)


def whole(names):
    """Return the roles of names, 'extra' for one of the extra modules."""
    return {name.partition(".")[0] for name in names}


@every_net
@every_phase
def test_terms_are_finite_scalars_with_weights(name, pretrain, nets):
    world = World(name, nets=nets, pretrain=pretrain)
    for stage, update in world.updates():
        world.team.enter(stage)
        terms = world.terms(update, world.batch())
        assert terms
        for term, (value, weight) in terms.items():
            assert value.shape == (), term
            assert value.dtype == torch.float32, term
            assert torch.isfinite(value), term
            assert isinstance(weight, float), term
            assert math.isfinite(weight), term


@every_phase
def test_gradient_reaches_what_an_update_trains_and_nothing_else(name, pretrain):
    world = World(name, pretrain=pretrain)
    reached, trained = set(), set()
    for stage, update in world.updates():
        world.team.enter(stage)
        world.backward(update, world.batch())
        for role in world.roles():
            gradients = world.gradients(role)
            with_gradient = {(role, key) for key, gradient in gradients.items() if gradient is not None}
            if role not in whole(update.trains):
                assert not with_gradient, f"update {update.name} must not reach {role}"
                continue
            assert with_gradient or not gradients, f"update {update.name} trains {role}"
            reached |= with_gradient
            trained |= {
                (role, key) for key, p in dict(world.team.modules())[role].named_parameters() if p.requires_grad
            }
    assert {entry for entry in trained if entry[0] == EXTRA} <= reached, "an extra parameter that nothing trains"


@every_phase
def test_only_trained_roles_change(name, pretrain):
    world = World(name, pretrain=pretrain)
    for stage in world.stages():
        world.team.enter(stage)
        before = world.state()
        for update in stage.updates:
            world.backward(update, world.batch())
            with torch.no_grad():
                for role in update.trains:
                    for p in world.team.parameters(role):
                        p.sub_(0.01 * (torch.zeros_like(p) if p.grad is None else p.grad.sign()))
        after = world.state()
        for role in world.roles():
            same = all(torch.equal(before[role][key], after[role][key]) for key in before[role])
            trained = role in whole(stage.trained())
            if trained and not world.team.parameters(role):  # statistics may move or not
                continue
            assert same != trained, role


@every_phase
def test_state_of_the_extra_modules_round_trips(name, pretrain):
    first, second = World(name, pretrain=pretrain), World(name, pretrain=pretrain)
    stage, update = first.updates()[0]
    for world in (first, second):
        world.team.enter(stage)
    first.backward(update, first.batch(seed=1))  # banks and statistics move
    torch.manual_seed(1)
    for p in first.team.extra.parameters():
        p.data.add_(0.01 * torch.randn_like(p))
    second.team.load_state(first.team.state())
    values = []
    for world in (first, second):
        torch.manual_seed(2)
        values.append({term: value.item() for term, (value, _) in world.terms(update, world.batch()).items()})
    assert values[0] == values[1]


@pytest.mark.parametrize("name", MEASURED)
def test_a_survey_measures_the_teacher_alone_and_the_same_each_time(name):
    world = World(name, pretrain=True)
    before, found = world.state(), world.survey()
    assert not list(world.team.extra.parameters()), "a pre-stage that measures trains nothing"
    assert any(not torch.equal(before[EXTRA][key], value) for key, value in found.items())
    assert all(torch.isfinite(value).all() for value in found.values())
    again = World(name, pretrain=True).survey()
    assert all(torch.equal(again[key], value) for key, value in found.items())
    after = world.state()
    assert all(torch.equal(before[teacher(0)][key], value) for key, value in after[teacher(0)].items())


@every_phase
def test_wants_taps_and_plan_are_consistent(name, pretrain):
    world = World(name, pretrain=pretrain)
    wants, stages = world.wants, world.stages()
    known = {EXTRA, STUDENT, *map(peer, range(1, wants.peers + 1)), *map(teacher, range(world.method.teachers))}
    assert set(world.method.taps(world.context)) <= set(world.team.models)
    assert any(stage.selects for stage in stages) != pretrain
    for stage in stages:
        assert whole(stage.trained()) <= known
        assert len({update.name for update in stage.updates}) == len(stage.updates)
        assert set(stage.recipe) <= set(Recipe.model_fields)
        Recipe(**{"epochs": 3, **stage.recipe})
    trained = {role for stage in stages for role in stage.trained()}
    assert trained == {EXTRA} if pretrain else {STUDENT, *map(peer, range(1, wants.peers + 1))} <= trained


@pytest.mark.parametrize("name", [name for name, card in CARDS.items() if card.mixed_labels])
def test_mixed_batches_change_the_loss(name):
    world = World(name)
    found = []
    for mixing in (1.0, 0.3):
        values = []
        for stage, update in world.updates():
            world.team.enter(stage)
            torch.manual_seed(0)
            values += [value.item() for value, _ in world.terms(update, world.batch(mixing=mixing)).values()]
        assert all(map(math.isfinite, values))
        found.append(values)
    assert found[0] != found[1]


@pytest.mark.parametrize(
    "name", [name for name, card in CARDS.items() if {"student_taps", "teacher_taps"} <= set(card.settings)]
)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"student_taps": ["stage1", "stage2"], "teacher_taps": ["stage1"]}, "one to one"),
        ({"student_taps": [], "teacher_taps": []}, "at least one tap"),
        ({"student_taps": ["stage9"], "teacher_taps": ["stage1"]}, "'stage9': did you mean 'stage"),
    ],
)
def test_taps_that_cannot_be_compared_are_user_errors(name, settings, message):
    with pytest.raises(UserError, match=message):
        World(name, settings)


# --- few classes ------------------------------------------------------------------------------------


def switched(name):
    """Yield no settings, then each choice and flag that is not the default, and each weight at 0."""
    yield {}
    for key, setting in CARDS[name].settings.items():
        others = setting.choices or ([not setting.default] if setting.type == "bool" else [])
        weight = [0.0] if key.endswith("_weight") and setting.type == "float" and setting.min == 0 else []
        yield from ({key: value} for value in (*others, *weight) if value != setting.default)


def pulls(name, settings, pretrain):
    """Return by term how much gradient it gives all that is trained, 0 where its weight is 0."""
    world, found = World(name, settings, pretrain=pretrain), {}
    for stage, update in world.updates():
        world.team.enter(stage)
        parameters = [p for role in world.roles() for p in world.team.parameters(role) if p.requires_grad]
        for term, (value, weight) in world.terms(update, world.batch()).items():
            reached = parameters if weight and value.requires_grad else []
            gradients = torch.autograd.grad(value, reached, retain_graph=True, allow_unused=True) if reached else ()
            found[update.name, term] = sum(g.abs().sum().item() for g in gradients if g is not None)
    return found


def pulls_or_error(*asked):
    try:
        return pulls(*asked)
    except UserError as error:
        return str(error)


@every_phase
def test_every_term_teaches_two_classes_too_or_they_are_refused(name, pretrain, monkeypatch):
    for settings in switched(name):
        of_four = pulls_or_error(name, settings, pretrain)
        if isinstance(of_four, str):  # settings that need others beside them
            continue
        with monkeypatch.context() as patched:
            patched.setattr(method_world, "CLASSES", 2)
            of_two = pulls_or_error(name, settings, pretrain)
        if isinstance(of_two, str):
            assert of_two.endswith("found 2 classes in all: allowed are 3 or more"), settings
            continue
        dead = [term for term, pull in of_four.items() if of_two[term] < 1e-4 * pull]
        assert not dead, f"{settings}: no gradient from {dead}"


# --- combinations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, card in CARDS.items() if not card.chain and card.links == "none"])
def test_what_cannot_be_combined_says_why_in_its_card(name):
    other = "ce" if name != "ce" else "kd"
    references = [REFERENCES.get(part, part) for part in (name, other)]
    parts = [MethodPart(card=one, settings=card_of(one).resolve({}, one).model_dump()) for one in references]
    if not CARDS[name].uncombined:
        assert build_method(parts, 1)
        return
    with pytest.raises(UserError, match=f"{name} .*cannot be combined"):
        build_method(parts, 1)


# --- no inert option --------------------------------------------------------------------------------


def alternatives(setting):
    """Return other values of a setting that its card allows."""
    if setting.choices:
        return [choice for choice in setting.choices if choice != setting.default]
    if setting.type == "bool":
        return [not setting.default]
    if setting.type == "list[str]":
        return [["stage1"]]
    if isinstance(setting.default, list):
        return [setting.default[:-1] or [2 * value for value in setting.default]]
    default = setting.default if setting.default is not None else 1
    kind = int if setting.type == "int" else float
    candidates = [kind(value) for value in (default * 2, default / 2, default + 1, 0.5, default / 1000)]
    inside = [
        value
        for value in candidates
        if (setting.min is None or value >= setting.min)
        and (setting.max is None or value <= setting.max)
        and (setting.above is None or value > setting.above)
    ]
    return [value for value in dict.fromkeys(inside) if value != setting.default]


ODD = 20
"""Pixels a side with which the last maps have an odd number of them."""


def signature(name, settings, size=SIZE):
    """Return the cached `measured_signature`."""
    return measured_signature(name, json.dumps(settings, sort_keys=True), size)


@functools.cache
def measured_signature(name, settings_json, size):
    """Return all that a setting may change: plan, wants, taps, modules, terms, weights, gradients, or the error."""
    settings, parts = json.loads(settings_json), []
    try:
        for pretrain in (phase for card, phase in PHASES if card == name):
            world = World(name, settings, pretrain=pretrain, size=size)
            state = world.team.extra.state_dict()
            parts += [
                world.stages(),
                world.wants,
                world.team.taps,
                [(key, value.shape) for key, value in state.items()],
            ]
            for stage, update in world.updates():
                world.team.enter(stage)
                for step in range(2):
                    torch.manual_seed(step)
                    terms = world.backward(update, world.batch(seed=step))
                    parts.append({term: (value.item(), weight) for term, (value, weight) in terms.items()})
                    gradients = [g for role in sorted(update.trains) for g in world.gradients(role).values()]
                    parts.append(sum(g.abs().sum().item() for g in gradients if g is not None))
    except UserError as error:
        parts.append(str(error))
    return repr(parts)


def contexts(name, key):
    """Yield no companion first, then each change of one that may switch something on.

    A flag, a choice, a weight of 0, or a list of numbers such as the exponents of several terms. A number that may have
    either sign is 0 then, which is where a formula has its limits.
    """
    yield {}
    for other, setting in CARDS[name].settings.items():
        if other != key and setting.min is not None and setting.min < 0:
            yield {other: 0.0}
        switches = setting.choices or setting.type in {"bool", "list[float]"} or not setting.default
        if other != key and switches:
            for value in alternatives(setting)[:1]:
                yield {other: value}


READ_BY_LOSS = [
    (name, key) for name, card in CARDS.items() for key, s in card.settings.items() if not (s.plan or card.chain)
]
"""What decides which runs there are is tested with the plan, in tests/unit/study/test_links.py; the many settings of a
chain, each beside those that it needs, in tests/unit/asib/test_asib_method.py.
"""


@pytest.mark.parametrize(("name", "key"), READ_BY_LOSS)
def test_no_setting_is_inert(name, key):
    values = alternatives(CARDS[name].settings[key])
    assert values, f"{name}.{key} allows nothing but its default"
    for size, context in itertools.product((SIZE, ODD), contexts(name, key)):
        base = signature(name, context, size)
        if any(signature(name, {**context, key: value}, size) != base for value in values):
            return
    pytest.fail(f"{name}.{key} changes nothing")
