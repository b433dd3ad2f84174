"""What a test may be called."""

import re

LONGEST = 120
ADDRESS = re.compile(r"0x[0-9a-f]{6,}")
ABSOLUTE = re.compile(r"[\[-]/\w")


def fit(name: str) -> bool:
    """Whether a test may be called so: short, printable everywhere, and the same on every machine and day."""
    printable = name.isascii() and name.isprintable() and "\\x" not in name and "\\u" not in name
    return printable and len(name) <= LONGEST and not ADDRESS.search(name) and not ABSOLUTE.search(f"[{name}")
