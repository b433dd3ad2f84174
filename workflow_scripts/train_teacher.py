"""Train one teacher, from scratch or from pretrained weights."""

from kd.console.training_script import run_training, training_parser

if __name__ == "__main__":
    run_training("train_student", training_parser(__doc__), "train_teacher")
