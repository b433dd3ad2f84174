"""networks.json: what each run's network takes once it is deployed; each different network is measured once."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from kd.tools.errors import UserError
from kd.tools.files import read_json


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network as it is deployed: without what only its training needed, with what its method adds to it."""

    parameters: int
    flops: int
    """Of one image."""
    milliseconds: dict[str, float]
    """Median of a forward pass by number of images."""

    def number(self, key: str) -> float:
        """Return the number at a key of `kd.analysis.measures.Deployed`."""
        name, _, size = key.partition(".")
        return self.milliseconds[size] if size else float(getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class Networks:
    """The content of networks.json; without any where nothing was measured."""

    cpu: str = ""
    """Where times were measured."""
    threads: int = 0
    busy: bool = False
    """Whether others took the processor away meanwhile."""
    networks: list[Network] = field(default_factory=list)
    runs: dict[str, int] = field(default_factory=dict)
    """By a run's folder, which of the networks it has."""

    def of(self, path: str) -> Network | None:
        """Return the network of a run, None where it is not known."""
        return self.networks[self.runs[path]] if path in self.runs else None

    def differ(self, paths: Iterable[str]) -> bool:
        """Whether runs have networks of different sizes or operations."""
        found = [one for path in paths if (one := self.of(path)) is not None]
        return len({(one.parameters, one.flops) for one in found}) > 1


def read_networks(path: str | Path | None) -> Networks:
    """Read networks.json; of none, none are known. Errors: UserError for one that its job did not write."""
    if path is None:
        return Networks()
    content = read_json(path, sealed=True)
    try:
        return Networks(**{**content, "networks": [Network(**one) for one in content["networks"]]})
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is not of this version ({error}): delete it and run again") from error
