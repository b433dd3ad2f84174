"""What searches found: of each method the settings as written beside those that validation chose, and what it cost."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kd.analysis.statistics import PairedDifference, paired_difference
from kd.analysis.trials import Trial
from kd.reporting import text
from kd.reporting.comparison import Sources
from kd.reporting.lines import Line, Row, Section
from kd.study.search import ENDING, RECIPE

SEARCHED = "pretrain_flops"
"""The measure that a searched row's trials count in, beside its pre-stage."""
COLUMNS = {
    "method": "Method",
    "accuracy": "As written (%)",
    "searched": "Searched (%)",
    "delta": "Δ searched",
    "validation": "Validation (%)",
    "finished": "Trials",
    "flops": "FLOPs of the search",
    "settings": "Chosen trial",
}


@dataclass(frozen=True, kw_only=True)
class Searched:
    """One method's search."""

    method: str
    written: Mapping[str, Any]
    """Mean and standard deviation over seeds of the method as it is written."""
    searched: Mapping[str, Any]
    """Likewise of the one with the chosen settings."""
    difference: PairedDifference
    """The second minus the first, seed by seed."""
    trials: Sequence[Trial]
    flops: float | None
    """All that its trials took; None where it is not known."""
    times: float | None
    """How many trainings as written that is."""
    role: str = "student"

    @property
    def chosen(self) -> Trial | None:
        """Return the chosen trial, None where nothing is chosen yet."""
        return next((trial for trial in self.trials if trial.chosen), None)

    def content(self) -> dict[str, Any]:
        """Return it as a JSON file has it."""
        return asdict(self)

    def value(self, key: str) -> float | None:
        """Return the number behind a cell."""
        numbers = {
            "accuracy": self.written["mean"],
            "searched": self.searched["mean"],
            "delta": self.difference.mean,
            "flops": self.flops,
        }
        return numbers.get(key)

    def flat(self, group: tuple[str, str], weights: str) -> dict[str, Any]:
        """Return its line of search.csv; accuracies in percent, differences in points."""
        first, chosen = self.trials[0], self.chosen
        return {
            **dict(zip(("dataset", "pair"), group, strict=True)),
            "method": self.method,
            **{f"written_{key}": self.written[key] for key in ("mean", "sd", "n")},
            **{f"searched_{key}": self.searched[key] for key in ("mean", "sd", "n")},
            **{f"difference_{key}": getattr(self.difference, key) for key in ("mean", "low", "high", "n")},
            "validation_written": validation(first, weights),
            "validation_chosen": chosen and validation(chosen, weights),
            "trial": chosen and chosen.trial,
            "settings": ", ".join(f"{key}={value}" for key, value in chosen.drawn.items()) if chosen else "",
            "trials": len(self.trials),
            "trials_finished": sum(trial.status == "ok" for trial in self.trials),
            "search_flops": self.flops,
            "search_in_trainings": self.times,
        }


def validation(trial: Trial, weights: str) -> float | None:
    """Return the validation accuracy that a choice compares."""
    return trial.val_top1_best if weights == "best" else trial.val_top1_last


def search_sections(sources: Sources, sections: Sequence[Section[Line]]) -> list[Section[Searched]]:
    """Return the table of searches of each section that has some, in their order."""
    found = []
    for section in sections:
        trials = [trial for trial in sources.trials if trial.group == (section.dataset, section.pair)]
        names = list(dict.fromkeys(trial.method for trial in trials))
        lines = {row.numbers.record.method: row.numbers for row in section.rows if row.numbers.role == "student"}
        rows = [
            Row(one, _cells(one, sources.report.weights), bold=False)
            for one in (
                _searched(lines[name], lines[name + ENDING], [t for t in trials if t.method == name], sources)
                for name in names
            )
        ]
        if rows:
            notes = [("", sentence) for row in rows for sentence in _lost(row.numbers)]
            found.append(Section(section.dataset, section.pair, _caption(sources), COLUMNS, rows, notes))
    return found


def _searched(written: Line, searched: Line, trials: Sequence[Trial], sources: Sources) -> Searched:
    both = [line.record for line in (written, searched)]
    costs = [line.means[SEARCHED] for line in (written, searched)]
    flops = None if costs[0] is None or costs[1] is None else costs[1] - costs[0]
    training = written.means["train_flops"]
    return Searched(
        method=written.record.method,
        written=_summary(written),
        searched=_summary(searched),
        difference=paired_difference(both[1].by_seed, both[0].by_seed, sources.report.confidence),
        trials=trials,
        flops=flops,
        times=flops / training if flops is not None and training else None,
    )


def _summary(line: Line) -> dict[str, Any]:
    return {"mean": line.record.mean, "sd": line.record.sd, "n": line.record.n_used}


def _cells(one: Searched, weights: str) -> dict[str, str]:
    first, chosen, difference = one.trials[0], one.chosen, one.difference
    finished = sum(trial.status == "ok" for trial in one.trials)
    times = "" if one.times is None else f" ({one.times:.1f} trainings)"
    return {
        "method": one.method,
        "accuracy": text.spread(one.written["mean"], one.written["sd"]),
        "searched": text.spread(one.searched["mean"], one.searched["sd"]),
        "delta": f"{text.signed(difference.mean)} {text.interval(difference.low, difference.high)}".rstrip(),
        "validation": f"{text.decimal(validation(first, weights))} → "
        f"{text.decimal(validation(chosen, weights) if chosen else None)}",
        "finished": str(len(one.trials)) if finished == len(one.trials) else f"{finished} of {len(one.trials)}",
        "flops": text.quantity(one.flops) + times,
        "settings": text.NONE if chosen is None else settings(chosen),
    }


def settings(trial: Trial) -> str:
    """Return what a trial drew, in a line; the first one draws nothing."""
    if trial.trial == 1:
        return "1: as written"
    cards = {name.partition(".")[0] for name in trial.drawn} - {RECIPE}
    told = [
        f"{name.partition('.')[2] if len(cards) < 2 else name.removeprefix(f'{RECIPE}.')} {value}"
        for name, value in trial.drawn.items()
    ]
    return f"{trial.trial}: {', '.join(told)}"


def _lost(one: Searched) -> list[str]:
    """Return a sentence for each reason why trials have no result."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for trial in one.trials:
        if trial.status != "ok":
            reasons.setdefault((trial.status, trial.reason), []).append(str(trial.trial))
    return [
        f"{one.method}, trial{'s' if len(numbers) > 1 else ''} {text.listing(numbers)} {status}: {reason}"
        for (status, reason), numbers in reasons.items()
    ]


def _caption(sources: Sources) -> str:
    search, report = sources.meta["search"], sources.report
    epoch = "of the best epoch" if report.weights == "best" else "of the last epoch"
    return (
        f"{search['trials']} trials for each method, all with seed {search['seed']}, the first as the method is "
        f"written; chosen is the one with the highest validation accuracy {epoch}, of equals the earliest (Validation: "
        f"the first trial's → the chosen one's). Trained anew with {text.seed_list(list(sources.meta['seeds']))}; "
        "accuracies are on the test images, mean ± standard deviation over these seeds, and no trial read any of those "
        "images. Δ: searched minus as written, paired by seed, in points; "
        f"[ ]: its {100 * report.confidence:.6g}% interval. FLOPs: of all trials and of what was made "
        "for them alone, counted whole in the training FLOPs of NAME_searched. Every trial stands in trials.csv."
    )


def told(section: Section[Searched], most: int) -> str:
    """Return what the searches of one data set and pair gave and took, in a sentence; `most` are given with numbers."""
    found = [row.numbers for row in section.rows if row.numbers.chosen and row.numbers.difference.mean is not None]
    if not found:
        return "No search has a result yet."
    moved = sorted(
        (one for one in found if one.chosen and one.chosen.trial > 1), key=lambda one: -(one.difference.mean or 0.0)
    )
    kept = [one.method for one in found if one not in moved]
    gains = [
        f"{one.method} by {text.signed(one.difference.mean)} points"
        + f" {text.interval(one.difference.low, one.difference.high)}".rstrip()
        for one in moved[:most]
    ]
    gains += [f"{len(moved) - most} more by less"] if len(moved) > most else []
    parts = [f"changed {text.listing(gains)}"] if gains else []
    parts += [f"kept {text.listing(kept)} as written"] if kept else []
    times = [f"{one.times:.1f}" for one in found if one.times is not None]
    ends = list(dict.fromkeys([min(times, key=float), max(times, key=float)])) if times else []
    cost = f", for the FLOPs of {' to '.join(ends)} trainings," if times else ""
    return f"A search of {len(found[0].trials)} trials for each method on validation{cost} {' and '.join(parts)}."
