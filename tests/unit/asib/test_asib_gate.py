import pytest

from kd.asib.gate import SYNERGY_GATE, check_synergy, compare_with_average, required_correct
from kd.tools.errors import UserError


@pytest.mark.parametrize(("images", "chance"), [(50, 0.5), (180, 0.1), (5000, 0.01), (5000, 0.3)])
def test_bound_is_the_exact_binomial_one(images, chance):
    from scipy.stats import binom

    needed = required_correct(images, chance)
    assert binom.sf(needed - 1, images, chance) <= SYNERGY_GATE < binom.sf(needed - 2, images, chance)


def test_far_above_chance_passes_and_chance_does_not():
    check_synergy(60.0, 10, 180)
    with pytest.raises(UserError, match=r"accuracy 10\.00 % on 180 validation images does not beat chance \(10\.00 %"):
        check_synergy(10.0, 10, 180)


def test_the_bound_itself_passes_and_one_less_does_not():
    needed = required_correct(180, 0.1)
    check_synergy(100 * needed / 180, 10, 180)
    with pytest.raises(UserError):
        check_synergy(100 * (needed - 1) / 180, 10, 180)


def test_message_names_causes_and_teachers():
    with pytest.raises(UserError) as error:
        check_synergy(0.92, 100, 5000, teachers=(71.25, 70.0), where="asib stage 2")
    message = str(error.value)
    assert message.startswith("asib stage 2: synergy accuracy 0.92 %")
    assert all(part in message for part in ("teachers 71.25 % and 70.00 %", "teacher_adapt_epochs", "synergy_ce_alpha"))


def test_a_constant_answer_does_not_pass_on_unbalanced_classes():
    check_synergy(60.0, 10, 500)
    with pytest.raises(UserError, match=r"chance \(60\.00 %"):
        check_synergy(60.0, 10, 500, majority=60.0)


@pytest.mark.parametrize("images", [0, 2])
def test_too_few_images_are_told_as_such(images):
    with pytest.raises(UserError, match="too few"):
        check_synergy(100.0, 10, images)


def test_one_class_is_told_as_such():
    with pytest.raises(UserError, match="one class"):
        check_synergy(100.0, 10, 50, majority=100.0)


@pytest.mark.parametrize(
    ("right", "average", "given", "margin", "reaches"),
    [
        (80, 80, 80, 0.0, True),
        (81, 80, 80, 0.0, True),
        (79, 80, 80, 0.0, False),
        (79, 80, 80, 1.0, True),
        (78, 80, 80, 1.0, False),
        (80, 79, 81, 0.0, False),
        (80, 81, 79, 0.0, False),
        (81, 80, 81, 0.0, True),
    ],
)
def test_the_average_is_the_bar(right, average, given, margin, reaches):
    for images in (100, 300):
        found, said = compare_with_average(float(right), float(average), float(given), images, margin)
        assert found == reaches
        assert said.startswith(f"asib teacher update: synergy accuracy {right}.00 % on {images} validation images")
        assert f"average of the teachers' logits {average}.00 %" in said
        assert (f"({given}.00 % before they adapted)" in said) == (given != average)
        assert ("below what costs no training" in said) != reaches
