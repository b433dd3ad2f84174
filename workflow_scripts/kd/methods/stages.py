"""First stages that train features alone, before the stage that trains on labels."""

from kd.methods.contract import Stage, Update

CONSTANT = {"schedule": "constant", "milestones": [], "warmup_epochs": 0.0}


def initial_stage(name: str, epochs: int, trains: tuple[str, ...]) -> Stage:
    """Return a stage of one update at the recipe's learning rate, held constant, whose epochs select no weights.

    What the loss of the stage does not reach, such as a classifier behind the last tap, takes no gradient and so no
    step, nor weight decay.
    """
    return Stage(name, (Update(name, trains),), recipe={**CONSTANT, "epochs": epochs}, selects=False)
