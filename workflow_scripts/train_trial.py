"""Train one trial of a search: one student with one method and drawn settings, of which only numbers are kept."""

from typing import Any

from kd.console.training_script import run_training, training_parser


def work(*job: Any) -> Any:
    """Train, and leave a folder; torch is imported only now that devices are reserved."""
    from kd.engine.jobs.trial import train_trial

    return train_trial(*job)


if __name__ == "__main__":
    run_training(work, training_parser(__doc__, "teachers", "outputs", "pretrained"), "train_trial")
