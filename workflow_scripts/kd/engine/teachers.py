"""What the networks that a stage does not train make of its batches: run live, or remembered where that is the same."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kd.data.augment import Augmenter
from kd.data.store import ImageStore
from kd.data.wants import Wants
from kd.engine.flops import FlopCounter
from kd.engine.precision import Precision
from kd.engine.runner import uncompiled
from kd.engine.team import Taps, Team
from kd.methods.contract import Batch, Output, Outputs, Seen, is_teacher, teacher
from kd.schema.config import Recipe
from kd.tools.errors import UserError


class FrozenForward:
    """Runs the roles that a stage does not train, without gradients.

    Teachers whose every image is always the same, because the recipe fixes their view or augments nothing, are asked
    once for each image where only their logits are wanted.
    """

    def __init__(
        self,
        team: Team,
        precision: Precision,
        wants: Wants,
        store: ImageStore,
        augmenter: Augmenter,
        fixed_logits: Tensor | None = None,
        fixed_images: Tensor | None = None,
    ) -> None:
        self.team, self.precision, self.wants = team, precision, wants
        self.store, self.augmenter = store, augmenter
        self.fixed_logits = fixed_logits
        """(K,n,C) of every teacher on the fixed view, by position."""
        self.fixed_images = fixed_images
        """(n,3,H,W) the fixed view itself, where teachers' taps are needed of it."""
        self._flops: dict[int, float] = {}
        """By the number of images of a batch; known once there was one."""
        self.flops_before = 0.0
        """What asking once cost, before the first batch."""
        self._remembered: dict[str, Tensor] = {}

    def enter(self, roles: Sequence[str], recipe: Recipe) -> None:
        """Prepare for a stage that does not train these roles."""
        self.recipe, self._remembered = recipe, {}
        self._flops, self.flops_before = {}, 0.0
        self.roles = [role for role in roles if self.wants.live_teacher or self.team.taps[role] or not is_teacher(role)]
        frozen = [role for role in self.roles if is_teacher(role)]
        if recipe.teacher_view == "fixed":
            if self.wants.views and frozen:
                raise UserError(
                    "recipe.teacher_view fixed allows no further views of the images, which this method needs"
                )
            self._remembered = self._of_fixed_view(frozen)
        elif is_fixed(recipe) and self.wants.groups is None:
            wanted = [role for role in frozen if not self.team.taps[role]]
            self._remembered = self._ask_once(wanted) if self.store.resident else {}

    def sees_the_same(self, other: "FrozenForward") -> bool:
        """Whether both run the same networks live, so that one forward pass serves both."""
        live = self.roles == other.roles and not self._remembered and not other._remembered
        return live and all(self.team.models[role] is other.team.models[role] for role in self.roles)

    def shared_taps(self, all_of_them: Sequence["FrozenForward"]) -> dict[str, tuple[str, ...]]:
        """Return by role the taps that at least one of them wants."""
        wanted = [(role, tap) for each in all_of_them for role in self.roles for tap in each.team.taps[role]]
        return {role: tuple(dict.fromkeys(tap for own, tap in wanted if own == role)) for role in self.roles}

    def outputs(self, batch: Batch, taps: Taps | None = None) -> Seen:
        """Return what the roles make of a batch and of its further views, with other taps than the team's if given."""
        size = len(batch.labels)
        if size in self._flops:
            return self._outputs(batch, taps)
        self.team.make_ready(self._live(), batch.images, self.precision)
        with uncompiled(), FlopCounter() as counter:
            known = self._outputs(batch, taps)
        self._flops[size] = float(counter.total)
        # a resumed training counts at another batch than one that was not interrupted, and must not differ by it
        return self._outputs(batch, taps) if self.team.compiles else known

    def cost(self, images: int) -> float:
        """Return the operations that the live roles took for a batch of so many images, once there was one."""
        return self._flops[images]

    def _outputs(self, batch: Batch, taps: Taps | None) -> Seen:
        known = Outputs(
            {
                role: Output(logits[batch.positions], {}, self.team.models[role].classifier)
                for role, logits in self._remembered.items()
            }
        )
        live = self._live()
        if self.recipe.teacher_view == "fixed":
            taught = [role for role in live if is_teacher(role)]
            if taught:
                assert self.fixed_images is not None, "taps of the fixed view need its images"
                view = self.fixed_images[batch.positions]
                known = self.team.forward(view, self.precision, known=known, roles=taught, taps=taps)
        known = self.team.forward(batch.images, self.precision, known=known, roles=self.roles, taps=taps)
        views = {
            name: self.team.forward(view, self.precision, roles=self.roles, taps=taps)
            for name, view in batch.views.items()
        }
        return Seen(known, views)

    def _live(self) -> list[str]:
        return [role for role in self.roles if role not in self._remembered]

    def _of_fixed_view(self, roles: Sequence[str]) -> dict[str, Tensor]:
        wanted, logits = [role for role in roles if not self.team.taps[role]], self.fixed_logits
        assert logits is not None or not wanted, "a fixed view comes with the teachers' logits"
        return {} if logits is None else {teacher(k): own for k, own in enumerate(logits) if teacher(k) in wanted}

    @torch.no_grad()
    def _ask_once(self, roles: Sequence[str]) -> dict[str, Tensor]:
        """Return (n,C) logits of each role on the plain images, by position."""
        if not roles:
            return {}
        parts: dict[str, list[Tensor]] = {role: [] for role in roles}
        counter = FlopCounter()
        for batch, _, _ in self.store.batches(torch.arange(len(self.store)), self.recipe.eval_batch_size):
            images = self.augmenter.plain(batch)
            self.team.make_ready(roles, images, self.precision)
            with uncompiled(), counter:
                outputs = self.team.forward(images, self.precision, roles=roles)
            for role in roles:
                parts[role].append(outputs[role].logits)
        self.flops_before = float(counter.total)
        return {role: torch.cat(logits) for role, logits in parts.items()}


def is_fixed(recipe: Recipe) -> bool:
    """Whether a recipe shows every image the same way each time."""
    a = recipe.augmentation
    moves = a.crop == "resized" or (a.crop == "padded" and a.padding > 0) or a.flip
    return not (moves or a.randaugment or a.cutout or recipe.mixup_alpha > 0 or recipe.cutmix_alpha > 0)
