"""comparison.tex, a table for a paper: methods as rows, pairs as columns, teachers and the student alone on top."""

from collections.abc import Mapping, Sequence
from typing import Any

from kd.analysis import measures
from kd.reporting import text
from kd.reporting.caption import BASELINE, WEIGHTS, best_sentence, described, seeds_sentence, teacher_sentence
from kd.reporting.latex import PAGE, Cell, lines_of, pages, table, total_width
from kd.reporting.lines import Line, Row, Section
from kd.schema.config import Reporting

NAME = 100.0
"""Points after which a method's name is broken."""
NETWORK = 70.0
"""Points after which the name of a network or data set is broken."""

Sections = Sequence[Section[Line]]


def paper_table(sections: Sections, report: Reporting, meta: Mapping[str, Any]) -> str:
    """Return the table, in as many parts as columns and rows need; the document needs the package booktabs."""
    reference, methods = _reference(sections, report), _methods(sections)
    found = ["% needs \\usepackage{booktabs}; no table is wider than 345 points\n"]
    for held in _columns(sections, methods, reference):
        for number, part in enumerate(pages(_body(held, methods, reference))):
            caption = _caption(held, report, meta, reference) if number == 0 else "Continued."
            found.append(table(_head(held, reference), [_top(held, reference) if number == 0 else [], part], caption))
    return "\n".join(found)


def _reference(sections: Sections, report: Reporting) -> str | None:
    """Return the first reference that anything is compared with."""
    known = {name for section in sections for line in _students(section) for name in line.differences}
    return next((name for name in report.references if name in known), None)


def _methods(sections: Sections) -> list[str]:
    """Return all methods but the student alone, those first that stand high in the sections, where they are in them."""
    places: dict[str, list[float]] = {}
    for section in sections:
        names = [line.record.method for line in _students(section) if line.record.method != BASELINE]
        for place, name in enumerate(names):
            places.setdefault(name, []).append(place / len(names))
    return sorted(places, key=lambda name: (sum(places[name]) / len(places[name]), name))


def _columns(sections: Sections, methods: Sequence[str], reference: str | None) -> list[list[Section[Line]]]:
    """Return the pairs of each table: as many as a page is wide."""
    found: list[list[Section[Line]]] = []
    for section in sections:
        wider = [*found[-1], section] if found else [section]
        rows = [*_head(wider, reference), *_top(wider, reference), *_body(wider, methods, reference)]
        if found and total_width(rows) <= PAGE:
            found[-1].append(section)
        else:
            found.append([section])
    return found


# --- rows -----------------------------------------------------------------------------------------


def _students(section: Section[Line]) -> list[Line]:
    return [row.numbers for row in section.rows if row.numbers.role == "student"]


def _teachers(section: Section[Line]) -> list[Row[Line]]:
    return [row for row in section.rows if row.numbers.role == "teacher"]


def _head(sections: Sections, reference: str | None) -> list[list[Cell]]:
    """Return the lines of data sets where they differ, teachers, students, and what the columns are."""
    delta = [f"Δ {reference}"] if reference else []
    several = len({section.dataset for section in sections}) > 1
    rows = {
        "Data set": [[section.dataset] if several else [] for section in sections],
        "Teacher": [[row.numbers.record.student for row in _teachers(section)] for section in sections],
        "Student": [[_students(section)[0].record.student] for section in sections],
        **_sizes(sections),
    }
    return [
        *(
            [_first(name), *(_network(names, 1 + len(delta)) for names in found)]
            for name, found in rows.items()
            if any(found)
        ),
        [_first(""), *(Cell((name,)) for _ in sections for name in ("Top-1", *delta))],
    ]


def _sizes(sections: Sections) -> dict[str, list[list[str]]]:
    """Return what the students alone take where they are deployed, if that differs from pair to pair."""
    alone = [_row_of(section, BASELINE) for section in sections]
    students = [row.numbers if row else _students(section)[0] for row, section in zip(alone, sections, strict=True)]
    found = {
        one.heading: [text.amount(line.means[one.name], one) for line in students]
        for one in measures.deployed()
        if one.counted and all(line.means[one.name] is not None for line in students)
    }
    differ = any(len(set(values)) > 1 for values in found.values())
    return {heading: [[value] for value in values] for heading, values in found.items()} if differ else {}


def _first(name: str) -> Cell:
    return Cell(tuple(lines_of(name, NAME)), left=True)


def _network(names: Sequence[str], span: int) -> Cell:
    """Return the cell of one network or several, over the columns of their pair."""
    parts = [f"{name} +" for name in names[:-1]] + list(names[-1:])
    return Cell(tuple(line for part in parts for line in lines_of(part, NETWORK)) or (text.NONE,), span=span)


def _top(sections: Sections, reference: str | None) -> list[list[Cell]]:
    """Return the rows of the teachers and of the student alone."""
    teachers = [_teachers(section) for section in sections]
    most = max(map(len, teachers))
    rows = []
    for number in range(most):
        found = [one[number] if number < len(one) else None for one in teachers]
        rows.append([_first(f"Teacher {number + 1}" if most > 1 else "Teacher"), *_cells(found, reference)])
    alone = [_row_of(section, BASELINE) for section in sections]
    return [*rows, [_first(f"Student ({BASELINE})"), *_cells(alone, reference)]] if any(alone) else rows


def _body(sections: Sections, methods: Sequence[str], reference: str | None) -> list[list[Cell]]:
    """Return the rows of the methods that any of these pairs has."""
    found = {name: [_row_of(section, name) for section in sections] for name in methods}
    return [[_first(name), *_cells(rows, reference)] for name, rows in found.items() if any(rows)]


def _row_of(section: Section[Line], method: str) -> Row[Line] | None:
    held = (row for row in section.rows if row.numbers.role == "student" and row.numbers.record.method == method)
    return next(held, None)


def _cells(rows: Sequence[Row[Line] | None], reference: str | None) -> list[Cell]:
    """Return accuracy and difference of each pair, empty where a pair has no such row."""
    cells: list[Cell] = []
    for row in rows:
        cells.append(_accuracy(row) if row else Cell())
        if reference:
            one = row.numbers.differences.get(reference) if row else None
            cells.append(Cell((text.signed(one.mean) if one else "",)))
    return cells


def _accuracy(row: Row[Line]) -> Cell:
    record = row.numbers.record
    lacking = 0 < record.n_used < record.n_planned
    return Cell((text.spread(record.mean, record.sd),), bold=row.bold, mark=f"n={record.n_used}" if lacking else "")


# --- caption --------------------------------------------------------------------------------------


def _caption(sections: Sections, report: Reporting, meta: Mapping[str, Any], reference: str | None) -> str:
    students = [line for section in sections for line in _students(section)]
    data = dict.fromkeys(described(section.dataset, meta) for section in sections)
    compared = f"Δ: difference to {reference}, paired by seed, in points." if reference else ""
    lacking = any(0 < line.record.n_used < line.record.n_planned for line in students)
    most = max((line.record.n_planned for line in students), default=0)
    sentences = [
        f"Test top-1 accuracy (%) on {text.listing(list(data))}; {WEIGHTS[report.weights]}.",
        seeds_sentence([line.record.n_planned for line in students]),
        compared,
        "Raised: the seeds that have finished where some have not." if lacking else "",
        best_sentence(_apart(sections), report.confidence),
        teacher_sentence(meta, [line.record.teachers for line in students], most),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _apart(sections: Sections) -> bool | None:
    """Return whether anything is bold; None where no section has two methods with a result to choose from."""
    scored = [sum(line.record.mean is not None for line in _students(section)) for section in sections]
    if max(scored, default=0) < 2:
        return None
    return any(row.bold for section in sections for row in section.rows)
