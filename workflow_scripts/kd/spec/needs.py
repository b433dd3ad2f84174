"""What a method asks of the engine."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Needs:
    """Taps are names of a model's taps, or 'stages' (all spatial stages), 'last' (the last of them), 'embedding'."""

    student_taps: tuple[str, ...] = ()
    teacher_taps: tuple[str, ...] = ()
    peers: int = 0
    same_length: bool = False
    """Whether student and teacher taps are compared one to one."""

    def __or__(self, other: "Needs") -> "Needs":
        """Unite the needs of two methods that are trained together."""
        return Needs(
            tuple(dict.fromkeys(self.student_taps + other.student_taps)),
            tuple(dict.fromkeys(self.teacher_taps + other.teacher_taps)),
            max(self.peers, other.peers),
        )
