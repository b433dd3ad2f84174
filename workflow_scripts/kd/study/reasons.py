"""Why a job is to run: which setting, code or file is not what its result was made from, in a line."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd.schema.cards import card
from kd.study.believed import is_made, is_settled
from kd.study.job_plan import JobPlan
from kd.study.jobs.making import COMMAND
from kd.study.made import FAILURE, INTERRUPTED, KILLED, is_of_images, read_record
from kd.study.titles import TRAINED
from kd.study.user_files import APART
from kd.tools.errors import UserError

MOST = 4
"""Changes that a line names."""
LONGEST = 40
"""Characters of a value."""
SETTLED = TRAINED | {"teacher_outputs", "synergy_outputs"}
"""Rules whose jobs leave what they were told in run.json."""
Sources = Mapping[str, Mapping[str, str]]
"""By digest of code: the digest of each module in it."""


@dataclass(frozen=True)
class Reason:
    """Why a job is to run."""

    text: str
    is_new: bool = False
    """There was no result."""
    follows: bool = False
    """Its own settings and code are what they were."""


NEW = Reason("there is no result yet", is_new=True)
ASKED = Reason("")
"""Of a result that is what is asked: Snakemake knows why it is to be made, for one because its user says so."""


def reason_for(job: JobPlan, before: Sources, now: Sources) -> Reason:
    """Return why a job is to run that is to run; `before` are the sources of earlier starts, as far as known."""
    if job.parts:
        found = dict.fromkeys(reason_for(part, before, now) for part in job.parts if not is_settled(part))
        own = [one for one in found if not one.follows] or list(found)
        texts = "; ".join(one.text for one in own)
        return Reason(texts, all(one.is_new for one in own), all(one.follows for one in own)) if own else NEW
    record = read_record(job.record)
    if record is None:
        return _of_failure(read_record(Path(job.record).with_suffix(FAILURE)), job)
    changes = _changes(record, job, before, now)
    if job.rule == "check_pairs" and not is_made(job):
        return Reason("something that it goes through changed", follows=True)
    if changes:
        return Reason(_listed(changes))
    late = [one for one in job.after if not is_settled(one)]
    if late:
        return Reason(f"it follows from {late[0].title}", follows=True)
    if record.get("identity") != job.identity:
        known = "code" in record
        return Reason("what it reads was made anew" if known else "its settings, its code or what it reads changed")
    if not is_of_images(record, job.data):
        return Reason("its images are others")
    if job.contents is not None and record.get("contents") != job.contents:
        return Reason("there are other files to pack")
    return ASKED if is_made(job) else Reason("its files are not those that were written")


def _of_failure(failure: Mapping[str, Any] | None, job: JobPlan) -> Reason:
    if failure is None or failure.get("identity") != job.identity:
        return NEW
    told = str(failure.get("reason") or "no reason was recorded")
    if told in (INTERRUPTED, KILLED):
        return Reason("it was cut off" if told == KILLED else "it was interrupted")
    return Reason(f"it failed before: {_short(told, 4 * LONGEST)}")


def _changes(record: Mapping[str, Any], job: JobPlan, before: Sources, now: Sources) -> list[str]:
    """Return what of the job itself is not as its record has it."""
    (was, *files), (asked, *given) = str(record.get("identity")).split(APART), job.identity.split(APART)
    found = ["the file that it starts from"] if files != given else []
    if was == asked:
        return found
    run = read_record(Path(job.folder, "run.json")) if job.rule in SETTLED else None
    settings, digests = (run or {}).get("settings"), (run or {}).get("digests")
    # a run that is trained like the best trial of a search has the settings of that
    if isinstance(settings, dict) and not job.inputs.get("chosen"):
        found += settings_changes(settings, json.loads(job.settings))
    code = record.get("code") or (digests.get("code") if isinstance(digests, dict) else None)
    if code is not None and code != job.code:
        found.append(_code_change(before.get(str(code)), now.get(job.code)))
    return found


def _code_change(was: Mapping[str, str] | None, now: Mapping[str, str] | None) -> str:
    """Return which sources are others, as far as it is known what they were."""
    if was is None or now is None:
        return "its code"
    names = [name for name in sorted({*was, *now}) if was.get(name) != now.get(name)]
    return f"code of {_listed([_source(name) for name in names], ', ')}" if names else "its code"


def _source(module: str) -> str:
    """Return the file of a module of ours; a user's own is named by its path already."""
    plain = module == COMMAND or "/" in module or module.endswith(".py")
    return module if plain else f"{module.replace('.', '/')}.py"


# --- settings ---------------------------------------------------------------------------------------


def settings_changes(was: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Return 'recipe.epochs 12 -> 15' for each setting of a job that is not what it was."""
    old, new = dict(_flat(was)), dict(_flat(asked))
    keys = [key for key in dict.fromkeys((*new, *old)) if old.get(key, _GONE) != new.get(key, _GONE)]
    if asked.get("budget"):
        # the recipe that the record has was stretched to what the budget lasted for
        keys = [key for key in keys if not key.startswith(("recipe.", "budget."))]
    return [f"{key} {_value(old.get(key, _GONE))} -> {_value(new.get(key, _GONE))}" for key in keys]


_GONE = object()


def _flat(settings: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting by its place, as a user writes it; those of the only method stand by themselves."""
    for key, value in settings.items():
        if key == "method" and isinstance(value, list):
            several = len(value) > 1
            yield "methods", " + ".join(_method(part["card"]) for part in value)
            for part in value:
                yield from _flat(part["settings"], f"{_method(part['card'])}." if several else "")
        elif isinstance(value, dict) and value:
            yield from _flat(value, f"{place}{key}.")
        elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            for number, one in enumerate(value):
                yield from _flat(one, f"{place}{key}[{number}].")
        else:
            yield f"{place}{key}", value


def _method(reference: str) -> str:
    """Return the name of a card; the card of a result of long ago may be gone, or be none any more."""
    try:
        return card(reference).name
    except UserError:
        return Path(reference).stem


def _value(value: Any) -> str:
    return "none" if value is _GONE else _short(json.dumps(value), LONGEST)


def _short(text: str, most: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def _listed(items: Sequence[str], between: str = "; ") -> str:
    more = [f"{len(items) - MOST} more"] if len(items) > MOST else []
    return between.join([*items[:MOST], *more])


# --- all of them ------------------------------------------------------------------------------------


def told_again(reasons: Iterable[tuple[JobPlan, Reason]]) -> list[str]:
    """Return a line for each cause by which finished work is done again, with what it is; none for a first start."""
    causes: dict[str, list[JobPlan]] = {}
    follow = 0
    for job, reason in reasons:
        if reason.follows:
            follow += 1
        elif reason.text and not reason.is_new:
            causes.setdefault(reason.text, []).append(job)
    widest = sorted(causes.items(), key=lambda cause: -len(cause[1]))
    lines = [f"  {names_of(jobs)}: {text}" for text, jobs in widest]
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], f"  and {len(lines) - LINES + 1} further causes"]
    if lines and follow:
        lines.append(
            f"  and {follow} job{'s' if follow != 1 else ''} that follow{'s' if follow == 1 else ''} from these"
        )
    return ["Made again, and why:", *lines] if lines else []


LINES = 12
NAMED = 3


def names_of(jobs: Sequence[JobPlan]) -> str:
    """Return what several jobs are called, seeds together; of many the beginnings of their titles and their number."""
    seeds: dict[str, list[str]] = {}
    for job in jobs:
        name, _, rest = job.title.partition(", seed ")
        number, _, part = rest.partition(", ")
        seeds.setdefault(f"{name}, {part}" if part else name, []).append(number)
    if len(seeds) > NAMED:
        names = list(dict.fromkeys(name.partition(":")[0] for name in seeds))
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return f"{', '.join(names[:NAMED])}{more} ({len(jobs)} jobs)"
    return "; ".join(f"{name}{_seeds([one for one in found if one])}" for name, found in seeds.items())


def _seeds(numbers: Sequence[str]) -> str:
    """Return ', seed 0', ', seeds 0-2' or ', seeds 0, 2 and 5'."""
    if not numbers:
        return ""
    ordered = sorted({int(number) for number in numbers})
    if len(ordered) == 1:
        return f", seed {ordered[0]}"
    if len(ordered) > 2 and ordered[-1] - ordered[0] == len(ordered) - 1:
        return f", seeds {ordered[0]}-{ordered[-1]}"
    shown = ordered if len(ordered) <= MOST + 1 else [*ordered[:MOST], "..."]
    return f", seeds {', '.join(map(str, shown))}"
