"""Train what a method prepares on the teacher alone, such as FT's paraphraser."""

from typing import Any

from kd.console.training_script import run_training, training_parser


def work(*job: Any) -> Any:
    """Train, and leave a folder; torch is imported only now that devices are reserved."""
    from kd.engine.jobs.prestage import pretrain

    return pretrain(*job)


if __name__ == "__main__":
    run_training(work, training_parser(__doc__, "teachers"), "pretrain_method")
