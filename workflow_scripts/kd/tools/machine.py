"""The machine that a process runs on."""

import platform
from pathlib import Path


def cpu_name() -> str:
    """Return the name of the processor, or of its kind where the machine does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
