"""The schedule that ends when validation says so: wait, go back to the best weights, lower the learning rate."""

from typing import Any

from kd.schema.config import Recipe


class Plateau:
    """Counts epochs without a better validation accuracy (few-sample protocol of Wilf et al. 2025).

    After `patience` of them the best state comes back and the learning rate drops by gamma, `lr_drops` times; then
    training ends.
    """

    def __init__(self, recipe: Recipe) -> None:
        assert recipe.patience is not None, "schedule plateau has a patience"
        self.patience, self.allowed = recipe.patience, recipe.lr_drops
        self.best, self.waited, self.drops = -1.0, 0, 0
        self.state: dict[str, Any] = {}
        """What training looked like at the best epoch."""

    def improved(self, top1: float) -> bool:
        """Take an epoch's validation accuracy; return whether it is the best so far, whose state is to be kept."""
        if top1 > self.best:
            self.best, self.waited = top1, 0
            return True
        self.waited += 1
        return False

    @property
    def due(self) -> bool:
        """Whether patience is at its end."""
        return self.waited >= self.patience

    @property
    def over(self) -> bool:
        """Whether training ends instead of dropping the learning rate once more."""
        return self.due and self.drops >= self.allowed

    def drop(self) -> None:
        """Count a drop and wait anew."""
        self.drops, self.waited = self.drops + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Return everything for a checkpoint."""
        return {"best": self.best, "waited": self.waited, "drops": self.drops, "state": self.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        self.best, self.waited, self.drops = state["best"], state["waited"], state["drops"]
        self.state = state["state"]
