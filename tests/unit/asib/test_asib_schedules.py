import math

import pytest
from asib_world import method_of, settings_of

from kd.asib import schedules
from kd.asib.schedules import clock
from kd.methods.contract import Progress


def at(share, total=10.0):
    return Progress(share * total, total)


@pytest.mark.parametrize("epochs", [0.0, 0.5, 1.0, 5.0])
def test_warm_up_is_above_zero_at_the_first_step_and_linear_to_one(epochs):
    assert 0 < schedules.warm_up(0.0, epochs) <= 1
    assert schedules.warm_up(epochs, epochs) == schedules.warm_up(epochs + 3, epochs) == 1
    middle = (schedules.warm_up(0.0, epochs) + schedules.warm_up(epochs, epochs)) / 2
    assert schedules.warm_up(epochs / 2, epochs) == pytest.approx(middle)


def test_schedules_run_over_the_chain_where_they_span_it():
    progress = Progress(1.5, 4)
    assert clock(settings_of(), progress) == Progress(1.5, 4.0)
    spanning = settings_of().model_copy(update={"epochs_span": [8.0, 16.0]})
    assert clock(spanning, progress) == Progress(9.5, 16.0)
    stepped = spanning.model_copy(update={"kd_schedule_granularity": "epoch"})
    assert clock(stepped, progress) == Progress(9.0, 16.0)


@pytest.mark.parametrize(
    ("share", "power", "expected"),
    [(0.1, 1.0, 0.3), (0.6, 1.0, 0.5), (1.0, 1.0, 0.7), (0.6, 0.5, 0.3 + 0.4 * 0.5**0.5)],
)
def test_kd_weight_waits_then_follows_a_power(share, power, expected):
    settings = settings_of(kd_alpha=0.3, kd_alpha_final=0.7, kd_warmup_frac=0.2, kd_sched_pow=power)
    assert schedules.kd_weight(settings, at(share)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("given", "share", "expected"),
    [
        ({}, 0.7, 7.0),
        ({"tau_end": 2.0}, 0.0, 7.0),
        ({"tau_end": 2.0}, 0.5, 4.5),
        ({"tau_end": 2.0, "tau_decay_power": 2.0}, 0.5, 2 + 5 * 0.25),
        ({"tau_end": 2.0, "tau_decay_epochs": 2.0}, 0.1, 4.5),
        ({"tau_end": 2.0, "tau_decay_epochs": 2.0}, 0.5, 2.0),
        ({"tau_end": 2.0, "temperature_schedule": "cosine"}, 0.25, 2 + 5 * 0.5 * (1 + math.cos(math.pi / 4))),
        ({"tau_end": 2.0, "temperature_schedule": "kd", "kd_warmup_frac": 0.2}, 0.6, 4.5),
    ],
)
def test_temperature(given, share, expected):
    settings = settings_of(tau_start=7.0, **given)
    assert schedules.temperature(settings, at(share)) == pytest.approx(expected)


def test_beta_follows_its_schedule_in_place_of_the_warm_up():
    settings = settings_of(ib_beta=0.5, beta_schedule=[0.1, 0.4, 3.0])
    found = [schedules.ib_weight(settings, Progress(epoch, 10.0)) for epoch in (0.0, 1.0, 3.0, 8.0)]
    assert found == pytest.approx([0.1, 0.2, 0.4, 0.4])


def test_cccp_ramps_up_after_the_synergys_own_epochs():
    method = method_of(2, cccp_alpha=0.8, cccp_ramp_epochs=3.0, synergy_only_epochs=1.0, teacher_adapt_alpha_kd=0.5)
    cccp = [method.weight("cccp", Progress(epoch, 6)) for epoch in (0.0, 0.9, 1.0, 2.5, 4.0, 5.0)]
    assert cccp == pytest.approx([0.0, 0.0, 0.2, 0.5, 0.8, 0.8])
    assert [method.weight("teacher_kd", Progress(epoch, 6)) for epoch in (0.9, 1.0)] == [0.0, 0.5]


def test_latent_weight_rises_from_zero():
    method = method_of(2, latent_alpha=0.5, latent_warmup_frac=0.4, latent_mse_weight=0.6, use_student_proj=True)
    found = [method.weight("latent_mse", Progress(epoch, 10)) for epoch in (0.0, 2.0, 4.0, 9.0)]
    assert found == pytest.approx([0.0, 0.15, 0.3, 0.3])


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0.2), (0.34, 0.15), (0.99, 0.1), (1.0, 0.1)])
def test_pieces_of_equal_length(share, expected):
    assert schedules.piece([0.2, 0.15, 0.1], share) == expected
    assert schedules.piece([], share) == 0


def test_hybrid_blends_and_renormalised_weights_sum_to_one():
    method = method_of(2, hybrid_beta=0.2, ce_alpha=0.6, kd_alpha=1.8, renorm_ce_kd=True, kd_ens_alpha=0.5)
    here = Progress(0.0, 2)
    assert method.weight("hybrid", here) == 0.2
    assert [method.weight(term, here) for term in ("ce", "kd", "kd_ens")] == pytest.approx([0.2, 0.6, 0.4])
    silent = method_of(2, ce_alpha=0.0, kd_alpha=0.0, kd_alpha_final=1.0, renorm_ce_kd=True)
    assert [silent.weight("kd", Progress(epoch, 2)) for epoch in (0.0, 1.0)] == [0.0, 1.0]
