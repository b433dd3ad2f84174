"""The synergy gate: what a teacher update's synergy has to reach before it teaches the student.

It must beat chance, or the chain stops. The right bar is the average of the same teachers' logits, which costs nothing:
whether the synergy reaches it is said and recorded, and stops the chain where the settings ask for that.
"""

import math
from collections.abc import Sequence

from kd.tools.errors import UserError

SYNERGY_GATE = 1e-3
"""Largest probability at which a guesser may pass the gate."""


def required_correct(images: int, chance: float, level: float = SYNERGY_GATE) -> int:
    """Return the fewest right answers k of `images` with P(X >= k) <= level for X ~ Binomial(images, chance).

    Exact, one-sided; `images + 1` if even all answers right would not do, which happens with very few images.
    """
    assert images >= 0, f"number of images {images}"
    assert 0 < chance < 1, f"chance {chance} is a probability"
    tail = 0.0
    for k in range(images, -1, -1):
        tail += math.exp(_log_probability(k, images, chance))
        if tail > level:
            return k + 1
    return 0


def check_synergy(
    accuracy: float,
    num_classes: int,
    images: int,
    teachers: Sequence[float] = (),
    majority: float | None = None,
    where: str = "asib teacher update",
) -> None:
    """Raise a UserError unless the synergy accuracy beats chance on the validation images.

    accuracy, teachers (the teachers' own accuracies, for the message) and majority (share of the most frequent class in
    the validation images, the accuracy of a constant answer) are in percent. Chance is the larger of 100 / num_classes
    and majority. The synergy beats it if a guesser with that accuracy would get as many right with probability at
    most SYNERGY_GATE (exact one-sided binomial test).
    """
    assert all(0 <= value <= 100 for value in (accuracy, *teachers)), "accuracies are in percent"
    chance = max(100 / num_classes, majority or 0.0)
    if chance >= 100:
        raise UserError(f"{where}: all {images} validation images are of one class, which tells nothing of the synergy")
    needed = required_correct(images, chance / 100)
    if needed > images:
        raise UserError(
            f"{where}: {images} validation images with chance at {chance:.2f} % are too few to tell the synergy from "
            "chance, raise the data set's validation share"
        )
    if round(accuracy / 100 * images) < needed:
        beside = f", teachers {' and '.join(f'{value:.2f} %' for value in teachers)}" if teachers else ""
        raise UserError(
            f"{where}: synergy accuracy {accuracy:.2f} % on {images} validation images does not beat chance "
            f"({chance:.2f} %, {100 * needed / images:.2f} % would be needed for p <= {SYNERGY_GATE:g}{beside}); "
            "likely causes are too few teacher_adapt_epochs, too small a teacher_lr or mbm_lr_factor, a "
            "teacher_adapt_alpha_kd, cccp_alpha or ib_beta that outweighs synergy_ce_alpha, or teachers that are at "
            "chance themselves"
        )


def compare_with_average(
    accuracy: float,
    average: float,
    given: float,
    images: int,
    margin: float = 0.0,
    where: str = "asib teacher update",
) -> tuple[bool, str]:
    """Return whether the synergy reaches the average of its teachers' logits less a margin, and a sentence on it.

    `average` is that of the teachers of the moment, `given` that of the teachers as they came; the higher one counts,
    for the other one costs nothing either. All are in percent or points, on the same validation images.
    """
    # in whole images, so that equal accuracies are equal
    apart = round((accuracy - max(average, given)) / 100 * images)
    before = f" ({given:.2f} % before they adapted)" if given != average else ""
    allowed = f", {margin:g} points below which are allowed" if margin else ""
    beside = (
        f"{where}: synergy accuracy {accuracy:.2f} % on {images} validation images, average of the teachers' logits "
        f"{average:.2f} %{before}{allowed}"
    )
    if apart >= -round(margin / 100 * images, 6):
        return True, beside
    return False, (
        f"{beside}: it is below what costs no training; synergy_base average starts from there, synergy_kd_alpha and "
        "a lower teacher_lr or mbm_lr_factor hold it there"
    )


def _log_probability(k: int, n: int, p: float) -> float:
    choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return choose + k * math.log(p) + (n - k) * math.log1p(-p)
