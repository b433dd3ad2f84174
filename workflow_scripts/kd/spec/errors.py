"""What a user reads when something they gave cannot be used."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in a configuration, a data set or a checkpoint, told in one sentence without a traceback."""


class DivergenceError(UserError):
    """A training run whose loss stopped being finite."""


def unknown(kind: str, name: object, allowed: Iterable[str]) -> UserError:
    """Return the error for a name that does not exist, with the nearest right one when there is one."""
    choices = sorted(allowed)
    near = difflib.get_close_matches(str(name), choices, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return UserError(f"unknown {kind} '{name}': {hint}allowed are {', '.join(choices) or 'none'}")
