"""Rules stay short: a name, what the job of it reads and is told, its files, one command."""

import re

import pytest
from checkout import REPOSITORY

LONGEST = 20
"""Lines."""


def rules() -> dict[str, int]:
    """Return the lines of each rule by its name: all that is indented below its first line, but comments."""
    found: dict[str, int] = {}
    for path in sorted((REPOSITORY / "rules").glob("*.smk")):
        name, indent = "", 0
        for line in path.read_text(encoding="utf-8").splitlines():
            depth = len(line) - len(line.lstrip())
            if start := re.match(r" *(?:use )?(?:rule|checkpoint) (\w+)(?: as (\w+) with)?:", line):
                name, indent = start.group(2) or start.group(1), depth
                found[name] = 1
            elif name and line.strip() and depth <= indent:
                name = ""
            elif name and line.strip() and not line.lstrip().startswith("#"):
                found[name] += 1
    return found


@pytest.mark.parametrize(("name", "lines"), rules().items(), ids=rules())
def test_a_rule_fits_on_a_glance(name, lines):
    assert lines <= LONGEST, f"rule {name} has {lines} lines"


def test_all_rules_are_seen():
    assert {"train_student", "evaluate_teacher", "page", "benchmark"} <= set(rules())
