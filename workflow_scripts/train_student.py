"""Train one student with one method (the baseline is the method ce)."""

from typing import Any

from kd.console.training_script import run_training, training_parser


def work(*job: Any) -> Any:
    """Train, and leave a folder; torch is imported only now that devices are reserved."""
    from kd.engine.jobs.student import train_student

    return train_student(*job)


if __name__ == "__main__":
    run_training(
        work, training_parser(__doc__, "teachers", "outputs", "pretrained", "budget", "chosen"), "train_student"
    )
