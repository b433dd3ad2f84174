"""What the half-stages of a chain leave in its run's folder, made up: run.json's list and predictions."""

import json
from pathlib import Path

import numpy as np

from kd.analysis.rows import RunRow

CHAIN = [(1, "teacher_update"), (1, "student_update"), (2, "teacher_update"), (2, "student_update")]


def row(folder, teachers="big+wide", method="asib", seed=0, status="ok", kind="student") -> RunRow:
    """The row of a chain's run in runs.csv."""
    identity = {"experiment": "e", "dataset": "toy", "pair": f"{teachers}--small", "teachers": teachers}
    named = {"student": "small", "method": method, "base_method": "asib", "seed": seed, "kind": kind}
    return RunRow(**identity, **named, status=status, reason="", path=str(folder))


def leave(folder: Path, halves) -> None:
    """Write the list of half-stages beside what run.json holds, and each one's predictions.

    `halves` maps stage and half to what `saved` takes.
    """
    path = folder / "run.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    listed = [{"stage": stage, "half": half} for stage, half in halves]
    path.write_text(json.dumps({**record, "half_stages": listed}), encoding="utf-8")
    for (stage, half), splits in halves.items():
        saved(folder / f"stage{stage}" / half / "predictions.npz", splits)


def saved(path: Path, splits) -> None:
    """Write predictions.npz: `splits` maps train and val to labels and logits by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {"names": np.array(list(next(iter(splits.values()))[1]))}
    for split, (labels, logits) in splits.items():
        arrays[f"{split}/positions"] = np.arange(len(labels))
        arrays[f"{split}/labels"] = np.array(labels, np.int64)
        arrays[f"{split}/logits"] = np.stack([np.asarray(one, np.float32) for one in logits.values()])
    np.savez_compressed(path, **arrays)


def chain_of(seed: int, quality=0.5, teachers=2, images=60, classes=5):
    """A chain of two stages on random images: teachers that know something, a synergy that knows `quality` more."""
    random = np.random.default_rng(seed)
    labels = {split: random.integers(0, classes, images) for split in ("train", "val")}

    def network(split, sure):
        return sure * np.eye(classes)[labels[split]] + random.standard_normal((images, classes))

    given = {split: [network(split, 1.0) for _ in range(teachers)] for split in labels}
    halves = {}
    for stage, half in CHAIN:
        splits = {}
        for split in labels:
            own = {f"teacher{k}": one + 0.1 * stage for k, one in enumerate(given[split])}
            first = {f"given{k}": one for k, one in enumerate(given[split])} if (stage, half) == CHAIN[0] else {}
            known = 1.0 + quality * (2 if split == "train" else 0.5) * stage
            splits[split] = (
                labels[split],
                {"student": network(split, 0.5 * stage), **own, "synergy": network(split, known), **first},
            )
        halves[stage, half] = splits
    return halves
