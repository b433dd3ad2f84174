"""The class-incremental experiment that the tests vary."""

import copy

EXPERIMENT = {
    "experiment": "unit",
    "datasets": {"digits": {"source": "digits", "image_size": 8, "subset_size": 150, "validation": 0.2}},
    "continual": {"student": "resnet8", "teacher": "resnet14", "num_tasks": 2, "strategies": [{"name": "finetune"}]},
    "seeds": [0],
    "recipe": {
        "epochs": 2,
        "batch_size": 32,
        "lr": 0.05,
        "schedule": "cosine",
        "precision": "fp32",
        "augmentation": {"padding": 1, "flip": False},
    },
}


def experiment(strategy=None, recipe=None, **section):
    content = copy.deepcopy(EXPERIMENT)
    content["continual"] |= section
    content["recipe"] |= recipe or {}
    if strategy is not None:
        content["continual"]["strategies"] = [{"name": "one", **strategy}]
    return content
