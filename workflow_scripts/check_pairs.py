"""Check every network and every method of an experiment before anything is trained, and tell all misfits at once."""

import argparse
import logging
import time
from pathlib import Path

from kd.console.entry import run
from kd.console.training_script import start_torch
from kd.study.checks import parse_checks
from kd.tools.errors import UserError
from kd.tools.files import read_json, write_json

log = logging.getLogger("kd")


def main(arguments: argparse.Namespace) -> None:
    """Write checked.json, unless some training could not be made."""
    checks = parse_checks(read_json(arguments.checks))
    start_torch(arguments.threads)
    # it goes through every other training, too
    from kd.continual.rehearsal import ContinualRehearsal
    from kd.engine.outlook import Probe
    from kd.engine.precision import training_device
    from kd.record.provenance import hardware

    device, began = training_device(), time.perf_counter()
    # how each rehearsed step would run is of no use to anybody
    logging.getLogger("kd.engine.training").setLevel(logging.WARNING)
    trainings = list(dict.fromkeys(check.name for check in checks))
    # what runs on a GPU is timed there, by rule tune
    probe = Probe(timed=device.type == "cpu" and not any(check.gpus for check in checks))
    rehearsal = ContinualRehearsal(checks, probe)
    misfits = rehearsal.run()
    for misfit in misfits:
        log.error("%s", misfit)
    if misfits:
        raise UserError(
            f"{len(misfits)} of {len(trainings)} trainings cannot be made, and none was begun: correct the experiment, "
            "or take out what does not fit"
        )
    costs = {"seconds": time.perf_counter() - began, "hardware": hardware(device, "fp32"), "costs": rehearsal.costs()}
    write_json(arguments.out, {"checked": trainings, **costs})
    log.info("%d trainings checked", len(trainings))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checks", type=Path, required=True, help="what to check, as kd.study.checks writes it")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--out", type=Path, required=True, help="checked.json")
    run(main, parser, "check_pairs")
