"""How weights and temperature move through an update, or through all updates of a kind."""

import math

from kd.methods.contract import Progress
from kd.schema.cards import MethodSettings


def clock(settings: MethodSettings, progress: Progress) -> Progress:
    """Return where the schedules of a half-stage are: in its own epochs, or in all of its kind (epochs_span)."""
    before, total = settings.epochs_span or (0.0, progress.epochs)
    epoch = math.floor(progress.epoch) if settings.kd_schedule_granularity == "epoch" else progress.epoch
    return Progress(before + epoch, total)


def warm_up(epoch: float, epochs: float) -> float:
    """Return (epoch + 1) / (epochs + 1), at most 1: a ramp over `epochs` that is above 0 before the first step."""
    return min(1.0, (epoch + 1) / (epochs + 1))


def ib_weight(settings: MethodSettings, at: Progress) -> float:
    """Return beta: a line from a to b over E epochs where beta_schedule gives them, else ib_beta with its warm-up."""
    if settings.beta_schedule is not None:
        first, last, epochs = settings.beta_schedule
        return first + (last - first) * min(1.0, at.epoch / epochs)
    return settings.ib_beta * warm_up(at.epoch, settings.ib_beta_warmup_epochs)


def kd_share(settings: MethodSettings, at: Progress) -> float:
    """Return how far kd_alpha has moved to kd_alpha_final: 0 during the warm-up, then the power of a line to 1."""
    warm = settings.kd_warmup_frac
    return max(0.0, (at.share - warm) / (1 - warm)) ** settings.kd_sched_pow


def kd_weight(settings: MethodSettings, at: Progress) -> float:
    """Return the weight of the synergy's distillation term."""
    first, last = settings.kd_alpha, settings.kd_alpha_final
    return first if last is None else first + (last - first) * kd_share(settings, at)


def temperature(settings: MethodSettings, at: Progress) -> float:
    """Return the temperature of every distillation term but cccp, between tau_start and tau_end."""
    first = settings.tau_start
    last = first if settings.tau_end is None else settings.tau_end
    if settings.temperature_schedule == "kd":
        return first + (last - first) * kd_share(settings, at)
    share = min(1.0, at.epoch / settings.tau_decay_epochs) if settings.tau_decay_epochs is not None else at.share
    if settings.temperature_schedule == "cosine":
        return last + (first - last) * 0.5 * (1 + math.cos(math.pi * share))
    return last + (first - last) * (1 - share) ** settings.tau_decay_power


def piece(values: list[float], share: float) -> float:
    """Return the value of a piecewise constant list with pieces of equal length; 0 of an empty one."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def student_pull(settings: MethodSettings, term: str, progress: Progress) -> float:
    """Return the weight of one of the terms that pull the synergy to the student: off at the start, then cccp ramps up.

    Both count the epochs of their own update.
    """
    if progress.epoch < settings.synergy_only_epochs:
        return 0.0
    if term == "teacher_kd":
        return settings.teacher_adapt_alpha_kd
    return settings.cccp_alpha * warm_up(progress.epoch - settings.synergy_only_epochs, settings.cccp_ramp_epochs)


def latent_weight(settings: MethodSettings, at: Progress) -> float:
    """Return latent_alpha, reached on a line from 0 over a share of the epochs."""
    warm = settings.latent_warmup_frac
    return settings.latent_alpha * (min(1.0, at.share / warm) if warm > 0 else 1.0)
