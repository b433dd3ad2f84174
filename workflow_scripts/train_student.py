"""Train one student with one method (the baseline is the method ce)."""

from kd.console.training_script import run_training, training_parser

if __name__ == "__main__":
    run_training("train_student", training_parser(__doc__, "teachers", "outputs", "pretrained"), "train_student")
