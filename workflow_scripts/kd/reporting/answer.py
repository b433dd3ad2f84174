"""The answer in two sentences: who leads by how much, not told apart from whom; what was best for the compute."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

from kd.analysis.across import Across, Gain, Overall
from kd.analysis.frontier import worth_more
from kd.analysis.statistics import pooled_sd, seeds_needed
from kd.reporting import text
from kd.reporting.caption import BASELINE
from kd.reporting.comparison import Sources
from kd.reporting.lines import Line, Section
from kd.reporting.search import Searched, told

NAMED = 8
"""Methods that a sentence names before it counts the others."""
LONGEST = 120
"""Letters of a reason."""
NUMBERS = 5
"""Methods that a sentence gives numbers of."""
FLOPS = "total_flops"


@dataclass(frozen=True)
class Said:
    """What is said of one data set and pair."""

    dataset: str
    pair: str
    sentences: list[str]
    """The two sentences, and one on searches and one on what has no result where there is such a thing."""
    details: list[str]
    """What each reference is compared with, and how many seeds would tell more."""


@dataclass(frozen=True)
class Answer:
    """What an experiment says, in plain sentences."""

    sentences: list[str]
    """Of all data sets and pairs together, or of the only one."""
    parts: list[Said]
    """One for each data set and pair."""


@dataclass(frozen=True)
class Contender:
    """What the sentence on compute needs of a method."""

    name: str
    mean: float
    flops: float | None


def answer_of(
    sources: Sources, sections: Sequence[Section[Line]], searches: Sequence[Section[Searched]] = ()
) -> Answer:
    """Return the answer from the sections of the comparison's tables, and of those of searches."""
    tables = {(one.dataset, one.pair): one for one in searches}
    parts = [_said(one, sources, tables.get((one.dataset, one.pair))) for one in sections]
    if len(parts) == 1:
        return Answer(parts[0].sentences, parts)
    across = sources.statistics.across
    empty = [f"{one.dataset}: {one.pair}" for one in sections if not _scored(one)]
    lost = [*_empty(empty, len(parts)), *_lost([line for section in sections for line in _students(section)])]
    if across is None:
        alone = f"Fewer than two methods have results on two of the {len(parts)} combinations of data set, teachers "
        return Answer([alone + "and student, so that each of them stands by itself.", *lost], parts)
    return Answer([_lead_across(across, sections), _compute_across(across, sections, sources), *lost], parts)


def _empty(places: Sequence[str], of: int) -> list[str]:
    """Return a sentence on places where no run has a result."""
    if not places:
        return []
    verb = "have" if len(places) > 1 else "has"
    return [f"Of the {of} combinations, {_named(places)} {verb} no result at all, and nothing here speaks of that."]


# --- one data set and pair ------------------------------------------------------------------------


def _said(section: Section[Line], sources: Sources, search: Section[Searched] | None) -> Said:
    students, scored = _students(section), _scored(section)
    # among those with the most finished seeds, as the lead is: one lucky seed cannot win
    most = max((line.record.n_used for line in scored), default=0)
    steady = [_contender(line) for line in scored if line.record.n_used == most]
    searched = [told(search, NUMBERS)] if search else []
    sentences = [_lead(scored), *_compute(steady, sources), *searched, *_lost(students)]
    return Said(section.dataset, section.pair, sentences, _details(scored, sources))


def _students(section: Section[Line]) -> list[Line]:
    return [row.numbers for row in section.rows if row.numbers.role == "student"]


def _scored(section: Section[Line]) -> list[Line]:
    """Return the lines of methods with a result."""
    return [line for line in _students(section) if line.record.mean is not None]


def _contender(line: Line) -> Contender:
    assert line.record.mean is not None, "only methods with a result contend"
    return Contender(line.record.method, line.record.mean, line.means[FLOPS])


def _lead(scored: Sequence[Line]) -> str:
    """Return who leads by how much, at what cost, and what is not told apart from it."""
    if not scored:
        return "No run has a result, so that there is nothing to compare."
    best = next(line for line in scored if line.record.is_best)
    record, others = best.record, [line for line in scored if line is not best]
    reached = f"{record.method}{_alone(record.base_method)}"
    score = f"{text.spread(record.mean, record.sd)} % ({_seeds(record.n_used)})"
    over = [
        f"{text.signed(one.mean)} points over {name}{_interval(one.low, one.high)}"
        for name, one in best.differences.items()
        if one.mean is not None
    ]
    told = f"{', '.join([score, *over])}{_cost(best, scored)}"
    if not others:
        return f"Only {reached} has a result, {told}; there is nothing to compare it with."
    if record.n_used < 2:
        return (
            f"With one seed nothing can be told from chance: the highest is {reached.removesuffix(',')}, {told}; what "
            "of that another seed would repeat is not known."
        )
    return (
        f"{reached} leads with {told}; {alike([(line.record.method, line.record.tied_with_best) for line in others])}."
    )


def _alone(base: str) -> str:
    return ", trained without a teacher's help," if base == BASELINE else ""


def _seeds(n: int) -> str:
    return f"{n} seed{'s' if n != 1 else ''}"


def _interval(low: float | None, high: float | None) -> str:
    return f" {text.interval(low, high)}".rstrip()


def _cost(best: Line, scored: Sequence[Line]) -> str:
    """Return what the best costs, and how many times the baseline's cost that is."""
    flops = best.means[FLOPS]
    if not flops:
        return ""
    base = next((line.means[FLOPS] for line in scored if line.record.method == BASELINE and line is not best), None)
    return f", for {text.quantity(flops, 'FLOPs')} of training" + _times(flops, base)


def _times(flops: float, base: float | None) -> str:
    return f" ({flops / base:.2g} times {BASELINE}'s)" if base and not 0.95 < flops / base < 1.05 else ""


def alike(others: Sequence[tuple[str, bool | None]]) -> str:
    """Return which other methods are not told apart from the best; None of one that cannot be compared with it.

    That all are compared at once is said, for the interval of a single difference may miss 0 where this says nothing.
    """
    names = [name for name, tied in others if tied is not False]
    if not names:
        return "every other method is told apart from it"
    if len(names) == len(others) > 1:
        return f"none of the {len(others)} others is told apart from it"
    at_once = f"of the {len(others)} others, compared all at once, " if len(others) > 1 else ""
    return f"{at_once}{_named(names)} {'are' if len(names) > 1 else 'is'} not told apart from it"


def _named(names: Sequence[str], most: int = NAMED) -> str:
    """Return the names, or the first of many and how many more there are."""
    shown = list(names) if len(names) <= most + 1 else [*names[:most], f"{len(names) - most} more"]
    return text.listing(shown)


def _compute(found: Sequence[Contender], sources: Sources) -> list[str]:
    """Return what was best for the compute; nothing where there is no choice."""
    if len(found) < 2:
        return []
    known = [one for one in found if one.flops is not None]
    if not known:
        return ["What it cost in FLOPs no finished run tells."]
    chosen = frontier(known, sources.report.rope)
    shown = [f"{one.name} ({text.decimal(one.mean)} % for {text.quantity(one.flops, 'FLOPs')})" for one in chosen]
    if len(shown) > NUMBERS:
        shown = [shown[0], *(one.name for one in chosen[1:-1]), shown[-1]]
    more = f"over {sources.report.rope:g} points more" if sources.report.rope else "more"
    given = " (their own training is not known where they were given)" if sources.meta.get("finished") else ""
    made = ", pre-stages and searches" if sources.trials else " and pre-stages"
    unknown = f"; what {_named([one.name for one in found if one.flops is None])} cost is not known"
    return [
        f"For the compute, {text.listing(shown)} {'were' if len(shown) > 1 else 'was'} best: no other method reached "
        f"{more} for as few FLOPs, teachers{given}{made} included" + (unknown if len(known) < len(found) else "") + "."
    ]


def frontier(found: Sequence[Contender], rope: float) -> list[Contender]:
    """Return, from the cheapest on, each method that adds more than `rope` points to all that cost no more."""
    ordered = sorted(found, key=lambda one: (one.flops or 0.0, -one.mean, one.name))
    return list(compress(ordered, worth_more([one.mean for one in ordered], rope)))


def _lost(students: Sequence[Line]) -> list[str]:
    """Return a sentence on runs without result."""
    lost: dict[str, list[int]] = {}
    for line in students:
        counts = lost.setdefault(line.record.method, [0, 0])
        counts[0] += len(line.record.unused)
        counts[1] += line.record.n_planned
    found = [f"{name} ({missing} of {planned} runs)" for name, (missing, planned) in lost.items() if missing]
    return [f"Without result: {_named(found)}{_why(students)}."] if found else []


def _why(students: Sequence[Line]) -> str:
    """Return the reason that most of the runs left that failed, if any did: the page has that of each."""
    reasons = Counter(one.reason for line in students for one in line.record.unused if one.status == "failed")
    if not reasons:
        return ""
    ((reason, count),) = reasons.most_common(1)
    # what Markdown would take for its own is left out
    line = " ".join(re.sub(r"[<>`*|\[\]\\]", " ", reason).split()).rstrip(".")
    shown = line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
    return f"; {count} failed for this reason: {shown}"


def _details(scored: Sequence[Line], sources: Sources) -> list[str]:
    """Return, for each reference, what is better, equal, worse and open, and the seeds that would tell more."""
    report = sources.report
    found = []
    for name in dict.fromkeys(name for line in scored for name in line.differences):
        compared = [line.differences[name] for line in scored if name in line.differences]
        verdicts = {one.method: one.verdict for one in compared}
        parts = [
            f"{words}: {_named([method for method, verdict in verdicts.items() if verdict == key], 100)}"
            for key, words in _words(report.rope).items()
            if key in verdicts.values()
        ]
        sd = pooled_sd(compared)
        needed = seeds_needed(sd, report.detect, report.confidence)
        if needed is not None:
            parts.append(
                f"differences vary by {text.decimal(sd)} points from seed to seed, so that {_seeds(needed)} tell "
                f"{report.detect:g} point{'s' if report.detect != 1 else ''} from none four times in five"
            )
        if parts:
            found.append(f"Beside {name}, by each {100 * report.confidence:.6g}% interval: {'; '.join(parts)}.")
    return found


def _words(rope: float) -> Mapping[str, str]:
    beyond = f" by more than {rope:g} points" if rope else ""
    return {
        "better": f"better{beyond}",
        "equal": f"equal within {rope:g} points",
        "worse": f"worse{beyond}",
        "open": "open",
    }


# --- all of them together -------------------------------------------------------------------------


def _lead_across(across: Across, sections: Sequence[Section[Line]]) -> str:
    best, others = across.methods[0], across.methods[1:]
    flops = costs_across(across, sections)
    gains = [one for one in across.gains if one.method == best.method]
    over = [_gain(one) for one in gains]
    cost = flops[best.method]
    base = flops.get(BASELINE) if best.method != BASELINE else None
    spent = f", for {text.quantity(cost, 'FLOPs')} of training a run{_times(cost, base)}" if cost else ""
    once = max((line.record.n_used for section in sections for line in _scored(section)), default=0) < 2
    warning = "With one seed of each, what of this another seed would repeat is not known. " if once else ""
    return (
        f"{warning}Over {len(across.places)} combinations of data set, teachers and student {best.method}"
        f"{_alone(best.base_method)} leads with a mean of {text.decimal(best.mean)} % and a mean rank of "
        f"{text.decimal(best.rank, 1)} among {len(across.methods)}"
        + "".join(f", {one}" for one in over)
        + f"{spent}; {_apart(others, across)}."
    )


def _gain(one: Gain) -> str:
    won = "" if one.won is None else f", ahead in {one.won:.0%} of the pairs of runs of a seed"
    return f"{text.signed(one.mean)} points over {one.reference}{_interval(one.low, one.high)}{won}"


def _apart(others: Sequence[Overall], across: Across) -> str:
    """Return what the seeds do not tell apart on these places, and what the ranks do not for others."""
    far, most = across.ranks.critical_difference, len(others)
    ranked = alike([(one.method, one.ranks_with_best) for one in others])
    apart = f"must lie {text.decimal(far, 1)} apart"
    if far > most:
        apart = f"would have to lie {text.decimal(far, 1)} apart and can lie {most} apart at most"
    ranks = f"by mean ranks, which speak of other combinations too and {apart}, {ranked}"
    if others[0].tied_with_best is None:
        return ranks
    return f"on these {alike([(one.method, one.tied_with_best) for one in others])}; {ranks}"


def costs_across(across: Across, sections: Sequence[Section[Line]]) -> dict[str, float | None]:
    """Return the mean training FLOPs of each method over the places; None where one of them does not know it."""
    places = {tuple(place) for place in across.places}
    held = [section for section in sections if (section.dataset, section.pair) in places]
    found: dict[str, list[float | None]] = {one.method: [] for one in across.methods}
    for section in held:
        for line in _students(section):
            if line.record.method in found:
                found[line.record.method].append(line.means[FLOPS])
    return {name: _mean(values) for name, values in found.items()}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _compute_across(across: Across, sections: Sequence[Section[Line]], sources: Sources) -> str:
    flops = costs_across(across, sections)
    found = [Contender(one.method, one.mean, flops[one.method]) for one in across.methods]
    return _compute(found, sources)[0]


# --- as files and terminals show it ---------------------------------------------------------------


def as_markdown(answer: Answer, experiment: str, table: str = "") -> str:
    """Return answer.md: what a terminal shows stands before its first heading of the second order.

    `table` is that of all data sets and pairs together. Names of methods, pairs and data sets hold nothing that
    Markdown would take for its own.
    """
    parts = [f"# {experiment}: the answer", *answer.sentences, "[The whole comparison](../report.html)"]
    parts += ["## Over all", table] if table else []
    for part in answer.parts:
        parts.append(f"## {part.dataset}: {part.pair}")
        parts += [*(part.sentences if len(answer.parts) > 1 else []), *part.details]
    return "\n\n".join(parts) + "\n"
