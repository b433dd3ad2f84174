"""What a reader must know to read a table: data, weights, seeds, intervals, tests, teachers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kd.analysis.compared import Difference
from kd.analysis.networks import Networks
from kd.analysis.statistics import PairedDifference, can_tell, smallest_p
from kd.reporting import text
from kd.reporting.lines import Line
from kd.schema.config import Reporting

BASELINE = "ce"

WEIGHTS = {
    "best": "weights of the epoch selected on the validation split; the test split selects nothing",
    "last": "weights of the last epoch; the test split selects nothing",
}


def caption_of(
    dataset: str,
    report: Reporting,
    meta: Mapping[str, Any],
    lines: Sequence[Line],
    families: Sequence[Sequence[Difference]],
) -> str:
    """Return the caption of one section, from its lines and the paired comparisons that are corrected together."""
    students = [line for line in lines if line.role == "student"]
    teachers = [line.record.teachers for line in students]
    sentences = [
        f"Test top-1 accuracy (%) on {described(dataset, meta)}; {WEIGHTS[report.weights]}.",
        seeds_sentence([line.record.n_planned for line in students]),
        *paired_sentences(families, report.confidence),
        *_controls(lines),
        teacher_sentence(meta, teachers, max((line.record.n_planned for line in students), default=0)),
        *given_sentences(meta, teachers),
        *_without_reference(students, report),
        _order(students),
        best_sentence(students_apart(students), report.confidence),
        *_links(lines),
        *_searched(meta),
        "Times, memory and FLOPs are means per run; total time and FLOPs include the teachers and the pre-stage in "
        "full, and a multiply-add counts as two FLOPs.",
        *_devices(students),
        *_formats(students),
        *_published(lines),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _controls(lines: Sequence[Line]) -> list[str]:
    """Return what a control is, where methods have some."""
    named = [line.control.reference for line in lines if line.control]
    if not named:
        return []
    return [
        f"Δ control: difference to the method's own control ({text.listing(named)}), kd with as much weight of "
        "divergences between predictions (its own weights where a method has none), as many views and, to half an "
        "epoch, as many training FLOPs (teachers' training apart); p is corrected over these differences."
    ]


def _searched(meta: Mapping[str, Any]) -> list[str]:
    """Return what a searched row is, where methods have some."""
    names = list(meta.get("searched", ()))
    if not names:
        return []
    return [
        f"{text.listing(names)}: with the settings that a search of {meta['search']['trials']} trials chose on "
        "validation; total time and FLOPs include the whole search."
    ]


def latency_sentence(networks: Networks) -> str:
    """Return where latency was measured and how, nothing where it was not."""
    if not networks.networks:
        return ""
    threads = "one thread" if networks.threads == 1 else f"{networks.threads} threads"
    busy = "; other programs took part of the machine meanwhile" if networks.busy else ""
    return f"Latency: median milliseconds of a pass in float32, on {threads} of {networks.cpu or 'a CPU'}{busy}."


def described(name: str, meta: Mapping[str, Any]) -> str:
    """Return the name of the data set and the facts about it that the experiment knows."""
    known = meta["datasets"].get(name, {})
    facts = [f"source {known['source']}"] if known.get("source") else []
    if known.get("subset_size"):
        facts.append(f"{known['subset_size']:,} of the training images")
    counts = [("n_classes", "classes"), ("n_train", "training"), ("n_validation", "validation"), ("n_test", "test")]
    facts += [
        f"{known[key]:,} {what}{'' if what == 'classes' else ' images'}" for key, what in counts if known.get(key)
    ]
    return f"{name} ({', '.join(facts)})" if facts else name


def seeds_sentence(planned: Iterable[int]) -> str:
    """Return what the numbers are means of, and what ± is, by the numbers of seeds planned."""
    counts = sorted(set(planned))
    listed = text.listing([str(count) for count in counts]) or "0"
    if counts == [1]:
        return "n = 1 seed: nothing is known of how the numbers vary, no interval and no p value can be given."
    return f"Mean ± standard deviation over seeds (n = {listed} planned, n counts the finished ones)."


def paired_sentences(families: Sequence[Sequence[PairedDifference]], confidence: float) -> list[str]:
    """Return how differences were tested, and whether p can get small at all with so few seeds.

    A family is what Holm's correction is over.
    """
    tested = [one for family in families for one in family if one.p is not None]
    if not tested:
        return []
    flat = " One of no width says only that all seeds gave the same." if any(one.sd == 0 for one in tested) else ""
    return [
        f"Δ: difference paired by seed, in points; [ ]: its {100 * confidence:.6g}% Student t interval, of this "
        f"difference by itself.{flat}",
        _p_sentence(families, confidence),
    ]


def _p_sentence(families: Sequence[Sequence[PairedDifference]], confidence: float) -> str:
    """Return what p is, or why there is none."""
    tested = [one for family in families for one in family if one.p is not None]
    if any(p_is_told(family, confidence) for family in families):
        flips = max(one.flips or 0 for one in tested)
        how = "exact two-sided" if all(one.p_exact for one in tested) else f"two-sided ({flips:,} seeded random flips)"
        return f"p: {how} sign-flip test, Holm-corrected over the methods of this table."
    n, together = max(one.n for one in tested), max(map(_tests, families))
    least = smallest_p(n)
    corrected = f", {min(1.0, together * least):.3g} corrected for {together}" if together > 1 else ""
    return f"No p values: with n = {n} none can be below {least:.3g}{corrected}."


def _tests(family: Sequence[PairedDifference]) -> int:
    return sum(one.p is not None for one in family)


def p_is_told(family: Sequence[PairedDifference], confidence: float) -> bool:
    """Whether a p of these, corrected over all of them, can fall below 1 - confidence with the seeds there are."""
    return any(can_tell(one.n, _tests(family), confidence) for one in family if one.p is not None)


def teacher_sentence(meta: Mapping[str, Any], teachers: Iterable[str], planned: int = 2) -> str:
    """Return whether the intervals speak of one teacher checkpoint or of many; `teachers` are those of each method.

    With one seed `planned` there are no intervals to speak of anything.
    """
    if planned < 2 or not _names(teachers) - set(meta.get("finished", [])):
        return ""
    seed = meta.get("teacher_seed", "same")
    if seed == "same":
        return "Each seed distils a teacher trained with that seed, so the intervals include the teacher's variation."
    return f"All seeds distil the one teacher of seed {seed}: the intervals are conditional on that checkpoint."


def _names(teachers: Iterable[str]) -> set[str]:
    """Return the names of all teachers."""
    return {name for several in teachers for name in several.split("+")} - {"none", ""}


def given_sentences(meta: Mapping[str, Any], teachers: Iterable[str]) -> list[str]:
    """Return what is not known of teachers that were used as they were given."""
    taught = _names(teachers)
    names = [name for name in meta.get("finished", []) if name in taught]
    if not names:
        return []
    return [
        f"{text.listing(names)}: used as given, the same weights for every seed; what its training cost is in no time "
        "and no FLOPs, and it may have been trained on validation images."
    ]


def _order(students: Sequence[Line]) -> str:
    if any(line.record.base_method == BASELINE for line in students):
        return "Cross-entropy stands first, the methods below it are sorted by mean."
    return "Methods are sorted by mean."


def _without_reference(students: Sequence[Line], report: Reporting) -> list[str]:
    """Return whose differences are dashes because no run of what they are to has a result."""
    scores = {line.record.method: line.record.mean for line in students}
    names = [name for name in report.references if name in scores and scores[name] is None]
    if not names:
        return []
    return [f"No run of {text.listing(names)} has a result, so that no difference to {_it(names)} is known."]


def _it(names: Sequence[str]) -> str:
    return "it" if len(names) == 1 else "them"


def any_apart(students: Sequence[Line]) -> bool:
    """Whether any method is told apart from the best, which makes the others worth a bold number."""
    return any(line.record.tied_with_best is False for line in students)


def students_apart(students: Sequence[Line]) -> bool | None:
    """Return whether any method is told apart from the best; None where there are no two to compare."""
    return any_apart(students) if sum(line.record.mean is not None for line in students) > 1 else None


def best_sentence(apart: bool | None, confidence: float) -> str:
    """Return what bold says, or that nothing can be; nothing where there is no choice (None)."""
    if apart is None:
        return ""
    if not apart:
        return "Nothing is bold, for no method is told apart from the best."
    return (
        f"Bold: not told apart from the best mean (paired t, one-sided, Bonferroni-corrected), so that the truly best "
        f"is bold with {100 * confidence:.6g}%."
    )


def _links(lines: Sequence[Line]) -> list[str]:
    if not any(line.role == "link" for line in lines):
        return []
    return [
        "Below the methods stand the earlier links of chains of runs, compared with nothing; each chain's method has "
        "them all in its total time and FLOPs."
    ]


def _devices(students: Sequence[Line]) -> list[str]:
    devices = sorted({device for line in students for device in line.devices})
    if len(devices) < 2:
        return []
    return [f"Times come from different devices and do not compare across them: {text.listing(devices)}."]


FORMATS = {"fp32": "float32", "tf32": "TF32", "bf16": "bfloat16", "fp16": "float16"}


def _formats(students: Sequence[Line]) -> list[str]:
    """Return which number format and kernels made the numbers, where all of them have the same."""
    made = _made(students)
    if len(made) != 1:
        return []
    ((precision, kernels, evaluated),) = made
    where = f" and evaluated in {_format(evaluated)}" if evaluated else ""
    return [f"Students were trained in {_format(precision)} with {_kernels(kernels)}{where}."]


def mixed_formats(lines: Sequence[Line]) -> str:
    """Return a warning where rows of one table were made in different ways, empty where they were not."""
    made = _made([line for line in lines if line.role == "student"])
    if len(made) < 2:
        return ""
    parts = [
        f"{_format(precision)} with {_kernels(kernels)}"
        + (f", evaluated in {_format(evaluated)}" if evaluated else "")
        + f": {text.listing(names)}"
        for (precision, kernels, evaluated), names in made.items()
    ]
    return (
        "Attention: these numbers were made in different number formats or with different kernels, of which a part of "
        f"the differences may come ({'; '.join(parts)})."
    )


def _made(lines: Sequence[Line]) -> dict[tuple[str, str, str], list[str]]:
    """Return the methods by format and kernels of their training and format of their evaluation."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for line in lines:
        for made in line.made:
            found.setdefault(made, []).append(line.record.method)
    return found


def _format(precision: str) -> str:
    return FORMATS.get(precision, precision)


def _kernels(kernels: str) -> str:
    return {"torch": "torch's kernels", "winograd": "Winograd's convolutions"}.get(kernels, f"{kernels} kernels")


def _published(lines: Sequence[Line]) -> list[str]:
    if not any(line.published for line in lines):
        return []
    return [
        "Published numbers come from the cards and from other recipes; in brackets ours minus theirs, last epoch "
        "against last epoch and best test epoch against the tracked maximum where it was tracked."
    ]
