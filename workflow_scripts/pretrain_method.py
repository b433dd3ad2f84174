"""Train what a method prepares on the teacher alone, such as FT's paraphraser."""

from kd.console.training_script import run_training, training_parser

if __name__ == "__main__":
    run_training("pretrain", training_parser(__doc__, "teachers"), "pretrain_method")
