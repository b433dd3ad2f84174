"""Train the student half of one ASIB stage."""

from kd.console.training_script import run_training, training_parser

if __name__ == "__main__":
    run_training("train_half_stage", training_parser(__doc__, "teachers", "previous"), "asib_student_update")
