"""What a user reads when something they gave cannot be used."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile

LONGEST_SHOWN = 60
"""Characters of a value that a sentence quotes."""


class UserError(ValueError):
    """A mistake in a configuration, a data set or a checkpoint, told in one sentence without a traceback."""


def damaged(path: object, what: str) -> UserError:
    """Return the error for a file that is not as it was written, and what is wrong in it."""
    return UserError(f"{path} is damaged: {what}")


class DivergenceError(UserError):
    """A training run whose loss stopped being finite."""


def unknown(kind: str, name: object, allowed: Iterable[str]) -> UserError:
    """Return the error for a name that does not exist, with the nearest right one when there is one."""
    choices = sorted(allowed)
    listed = ", ".join(choices) or "none"
    return UserError(f"unknown {kind} {shown(str(name))}: {did_you_mean(str(name), choices)}allowed are {listed}")


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return the question with the nearest right name, or nothing."""
    near = nearest(name, choices)
    return f"did you mean '{near}'? " if near is not None else ""


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """Return the choice that was probably meant, None where nothing is near.

    A number counts as one letter, so that resnet21 is one change away from every resnet; the nearest number wins.
    """
    if len(name) > LONGEST_SHOWN:
        return None
    parts, numbers = _tokens(name)
    found = []
    for choice in choices:
        others, theirs = _tokens(choice)
        distance = _edits(parts, others)
        begins = len(name) >= 3 and choice.lower().startswith(name.lower())
        if distance <= max(1, len(parts) // 2) or begins:
            apart = sum(abs(a - b) for a, b in zip(numbers, theirs, strict=False))
            alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(parts, others, strict=False)))
            found.append((min(distance, 2) if begins else distance, apart, -alike, choice))
    return min(found)[-1] if found else None


def _tokens(name: str) -> tuple[list[str], list[int]]:
    """Return letters, small, with every number as one token, and the numbers."""
    tokens = re.findall(r"[0-9]+|.", name.lower(), re.DOTALL)
    return tokens, [int(token) for token in tokens if token.isdecimal()]


def _edits(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many tokens must be changed, added, dropped or swapped with their neighbour."""
    rows = [list(range(len(other) + 1))]
    for i, a in enumerate(one, start=1):
        row = [i]
        for j, b in enumerate(other, start=1):
            same = a == b
            best = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (not same))
            if i > 1 and j > 1 and (a, one[i - 2]) == (other[j - 2], b):
                best = min(best, rows[-2][j - 2] + 1)
            row.append(best)
        rows.append(row)
    return rows[-1][-1]


def shown(value: object, depth: int = 3) -> str:
    """Return a value as a user writes it, on one line and no longer than a sentence can bear.

    Of lists within lists more than `depth` are not opened: hundreds are more than Python's stack bears.
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and abs(value) >= 2**63:
        return f"a whole number of {value.bit_length()} bits"
    if isinstance(value, str):
        text = f"'{printable(value)}'"
        return text if len(text) <= LONGEST_SHOWN + 2 else f"'{printable(value)[:LONGEST_SHOWN]}...'"
    if isinstance(value, list | tuple):
        if len(value) > 20 or not depth:
            return f"a list of {len(value)}"
        text = f"[{', '.join(shown(one, depth - 1) for one in value)}]"
        return text if len(text) <= LONGEST_SHOWN else f"a list of {len(value)}"
    if isinstance(value, Mapping):
        return "keys and values" if value else "{}"
    text = printable(str(value))
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def printable(text: str) -> str:
    """Return text with line breaks and all else that cannot be printed written as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_of(choices: Sequence[str]) -> str:
    """Return choices in a sentence: 'a', 'b' or 'c'."""
    return " or ".join(filter(None, [", ".join(choices[:-1]), choices[-1]]))
