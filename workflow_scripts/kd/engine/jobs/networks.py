"""What finished runs' networks take where they are deployed: parameters, operations, time."""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from kd.engine.flops import FlopCounter
from kd.engine.latency import latency
from kd.models.base import TappedModel
from kd.models.build import build_model
from kd.models.reuse import deployment, redeploy
from kd.models.weights import notes_of
from kd.record.provenance import hardware
from kd.schema.config import ModelSettings
from kd.study.digests import canonical
from kd.tools.errors import UserError

log = logging.getLogger(__name__)

THREADS = 1
"""On which time is measured: what several take depends on who else runs."""


def measure_networks(runs: Mapping[str, tuple[ModelSettings, int]], weights: str) -> dict[str, Any]:
    """Return the content of networks.json (kd.analysis.networks) for runs by folder.

    `runs` says of each how its network is built and the side of its images.

    Networks that are built and deployed alike are measured once. A run whose weights are not there, or damaged, is
    left out.
    """
    torch.set_num_threads(THREADS)
    found: dict[str, dict[str, Any]] = {}
    busy: list[bool] = []
    known: dict[str, str] = {}
    for path, (settings, side) in runs.items():
        try:
            model = deployed(Path(path) / "checkpoints" / f"{weights}.safetensors", settings, side)
        except UserError as error:
            log.warning("%s; its network is not measured", error)
            continue
        alike = canonical([settings.model_dump(mode="json"), model.num_classes, side, deployment(model)])
        if alike not in found:
            found[alike] = measured(model, side)
            busy.append(found[alike].pop("busy"))
        known[path] = alike
    places = {alike: place for place, alike in enumerate(found)}
    return {
        "cpu": hardware(torch.device("cpu"), "fp32")["cpu"],
        "threads": THREADS,
        "busy": any(busy),
        "networks": list(found.values()),
        "runs": {path: places[alike] for path, alike in known.items()},
    }


def deployed(weights: Path, settings: ModelSettings, side: int) -> TappedModel:
    """Return a network as the notes of its weights say that it is deployed, in eval mode; the weights are not loaded.

    What only its training needed (heads, adapters of features, peers, teachers) is not in them.
    """
    notes = notes_of(weights)
    model = build_model(settings.model_copy(update={"pretrained": False}), int(notes["num_classes"]), side)
    return redeploy(model, notes, side).eval()


def measured(model: TappedModel, side: int) -> dict[str, Any]:
    """Return what a network takes, and whether others took the processor away meanwhile."""
    image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), FlopCounter() as counter:
        model(image)
    parameters = sum(p.numel() for p in model.parameters())
    return {"parameters": parameters, "flops": int(counter.total), **asdict(latency(model, image))}
