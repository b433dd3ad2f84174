"""Which methods are worth their compute."""

from collections.abc import Sequence


def worth_more(means: Sequence[float], rope: float) -> list[bool]:
    """Return, of means from the cheapest method on, which are over `rope` points above the last that was."""
    found, best = [], float("-inf")
    for mean in means:
        found.append(mean > best + rope)
        best = mean if found[-1] else best
    return found
