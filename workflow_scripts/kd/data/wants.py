"""What a method asks of the engine before there are networks."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kd.tools.errors import UserError

if TYPE_CHECKING:
    from kd.data.randaugment import View


@dataclass(frozen=True)
class Groups:
    """What an item of a batch is where it is not one image.

    "random": `size` different images, drawn without regard to their class. "same_class": images of one class.
    "balanced": still one image, but every batch holds `size` images of each class that occurs in it.
    """

    size: int
    kind: Literal["random", "same_class", "balanced"] = "random"
    limit: int | None = None
    """At most so many different groups, drawn once before training (random only)."""


@dataclass(frozen=True)
class Wants:
    """Networks beside student and teachers, and what a batch holds beside images and labels."""

    peers: int = 0
    """Further networks of the student's kind, which are trained with it."""
    groups: Groups | None = None
    views: "tuple[View, ...]" = ()
    fixed_teacher: bool = False
    """Whether the loss reads the teachers' logits on one fixed view of every image, which are computed once."""
    live_teacher: bool = True
    """Whether the loss reads the teachers' logits on the batch itself; taps of a teacher are read live in any case."""

    def __or__(self, other: "Wants") -> "Wants":
        """Unite what two methods that are trained together ask for."""
        groups = {wants.groups for wants in (self, other) if wants.groups is not None}
        if len(groups) > 1:
            found = ", ".join(sorted(f"{group.kind} of {group.size}" for group in groups))
            raise UserError(f"methods that draw different groups of images cannot be combined, found {found}")
        views = tuple(dict.fromkeys(self.views + other.views))
        if len({view.name for view in views}) < len(views):
            found = ", ".join(
                f"{view.name} of {view.ops} at {view.magnitude}, cutout {view.cutout:g}" for view in views
            )
            raise UserError(f"methods that see different views of one name cannot be combined, found {found}")
        return Wants(
            peers=max(self.peers, other.peers),
            groups=next(iter(groups), None),
            views=views,
            fixed_teacher=self.fixed_teacher or other.fixed_teacher,
            live_teacher=self.live_teacher or other.live_teacher,
        )
