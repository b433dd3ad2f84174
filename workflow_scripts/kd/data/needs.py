"""What a method asks of the engine."""

from dataclasses import dataclass
from typing import Literal

from kd.tools.errors import UserError


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
class View:
    """A further view of every image: the recipe's augmentation with RandAugment of `ops` operations after it."""

    name: str
    ops: int
    magnitude: int


@dataclass(frozen=True)
class Needs:
    """Taps are names of a model's taps, or 'stages' (all spatial stages), 'last' (the last of them), 'embedding'."""

    student_taps: tuple[str, ...] = ()
    teacher_taps: tuple[str, ...] = ()
    peers: int = 0
    same_length: bool = False
    """Whether student and teacher taps are compared one to one."""
    groups: Groups | None = None
    views: tuple[View, ...] = ()
    fixed_teacher: bool = False
    """Whether the loss reads the teachers' logits on one fixed view of every image, which are computed once."""
    live_teacher: bool = True
    """Whether the loss reads what the teachers make of the batch itself."""

    def __or__(self, other: "Needs") -> "Needs":
        """Unite the needs of two methods that are trained together."""
        groups = {needs.groups for needs in (self, other) if needs.groups is not None}
        if len(groups) > 1:
            found = ", ".join(sorted(f"{group.kind} of {group.size}" for group in groups))
            raise UserError(f"methods that draw different groups of images cannot be combined, found {found}")
        return Needs(
            student_taps=tuple(dict.fromkeys(self.student_taps + other.student_taps)),
            teacher_taps=tuple(dict.fromkeys(self.teacher_taps + other.teacher_taps)),
            peers=max(self.peers, other.peers),
            groups=next(iter(groups), None),
            views=tuple(dict.fromkeys(self.views + other.views)),
            fixed_teacher=self.fixed_teacher or other.fixed_teacher,
            live_teacher=self.live_teacher or other.live_teacher,
        )
