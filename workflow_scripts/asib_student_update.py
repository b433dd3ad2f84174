"""Train the student half of one ASIB stage."""

from typing import Any

from kd.console.training_script import run_training, training_parser


def work(*job: Any) -> Any:
    """Train, and leave a folder; torch is imported only now that devices are reserved."""
    from kd.engine.jobs.half_stage import train_half_stage

    return train_half_stage(*job)


if __name__ == "__main__":
    run_training(work, training_parser(__doc__, "teachers", "previous"), "asib_student_update")
