"""Results that are computed once: Snakemake asks the same of a job many times over."""

from collections.abc import Callable, Hashable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Remembers(Protocol):
    """An object that never changes and keeps what its methods have returned."""

    known: dict[Hashable, Any]


S = TypeVar("S", bound=Remembers)


def remembered(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Call a method once for each of its arguments, which are hashable and given by position or name alike."""

    @wraps(method)
    def once(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the method returned the first time."""
        key = (method.__name__, args, tuple(kwargs.items()))
        if key not in self.known:
            self.known[key] = method(self, *args, **kwargs)
        found: T = self.known[key]
        return found

    return once
