"""Seeds of the streams of a run: one for each purpose."""

import hashlib


def derived_seed(seed: int, purpose: str) -> int:
    """Return a seed for one purpose, so that streams of one run never meet."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:7], "big")
