"""Write a finished run's student as files to take away, each of them read back and compared with the network.

weights: a state dict for plain timm, or for this library's own networks. torch: a torch.export program. onnx: ONNX,
which needs onnx, onnxscript and onnxruntime. Beside them student.json (classes, normalisation, accuracy, cost) and a
README with the lines that read each file.
"""

import argparse
import logging
from pathlib import Path

from kd.console.entry import run
from kd.console.training_script import start_torch
from kd.tools.errors import printable

FORMATS = ("weights", "torch", "onnx")
log = logging.getLogger("kd")


def main(arguments: argparse.Namespace) -> None:
    """Write the folder, and tell where it is."""
    start_torch(arguments.threads)
    from kd.engine.jobs.export import export

    out = arguments.out or arguments.run / "export"
    facts = export(arguments.run, arguments.weights, out, tuple(dict.fromkeys(arguments.formats)))
    files = ", ".join(facts["files"])
    log.info("%s: %s (%s)", printable(str(out)), files, printable(facts["arch"]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a finished run's folder, as results/EXPERIMENT/DATA/TEAM/METHOD/seed0")
    parser.add_argument("--weights", choices=("best", "last"), default="best", help="of which epoch")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS, help="which files")
    parser.add_argument("--out", type=Path, help="folder to write; RUN/export by default")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    run(main, parser, "export")
