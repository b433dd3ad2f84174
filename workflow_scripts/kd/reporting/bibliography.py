"""The papers of a table's methods as BibTeX, one entry a paper, from the methods' cards."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from kd.reporting.text import LATEX
from kd.schema.cards import Card, Paper

HEAD = "The papers of the methods in comparison.*, from their cards."
ARXIV = re.compile(r"arxiv\.org/(?:abs|pdf)/([\w.\-/]+?)(?:v\d+)?(?:\.pdf)?$")
DOI = re.compile(r"doi\.org/(10\..+)$")
INITIALS = re.compile(r"(?:\w+\.[ -]?)+ ?\S")
SHORTEST_WORD = 4
"""Letters of the word of a title that is part of a key."""


def bibliography(cards: Iterable[Card]) -> str:
    """Return one entry for each paper of some methods, in the order of their keys, with the methods' names above it."""
    methods: dict[Paper, list[str]] = {}
    for card in cards:
        methods.setdefault(card.paper, []).append(card.name)
    keys = _keys(list(methods))
    ordered = sorted(methods, key=keys.__getitem__)
    entries = [f"% {', '.join(sorted(methods[paper]))}\n{_entry(keys[paper], paper)}" for paper in ordered]
    return "\n".join([f"% {HEAD}\n", *entries])


def _keys(papers: Sequence[Paper]) -> dict[Paper, str]:
    """Return a key of each paper: hinton2015distilling, and hinton2015distillingb of a second one that would be it."""
    same: dict[str, list[Paper]] = {}
    for paper in sorted(papers, key=lambda one: (one.title, one.authors, one.year, one.url)):
        same.setdefault(_key(paper), []).append(paper)
    taken, found = set(same), {}
    for key, ones in same.items():
        found[ones[0]] = key
        for paper in ones[1:]:
            found[paper] = _free(key, taken)
    return found


def _free(key: str, taken: set[str]) -> str:
    """Return a key with the first ending that makes it one of its own, and take it."""
    number = 2
    while (free := f"{key}{chr(ord('a') + number - 1) if number <= 26 else f'-{number}'}") in taken:
        number += 1
    taken.add(free)
    return free


def _key(paper: Paper) -> str:
    """Return first author, year and first long word of the title, in small letters a to z."""
    surname = _letters(_authors(paper)[0].split(" ")[-1])
    words = [_letters(word) for word in re.split(r"[\s\-:,]+", paper.title)]
    word = next((one for one in words if len(one) >= SHORTEST_WORD), "".join(words))
    return f"{surname or 'anonymous'}{paper.year}{word}"


def _letters(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z]", "", plain.lower())


def _authors(paper: Paper) -> list[str]:
    return [name.strip() for name in paper.authors.split(",") if name.strip()] or [paper.authors.strip()]


def _entry(key: str, paper: Paper) -> str:
    """Return an entry with all that its kind asks for: a preprint is one of kind misc."""
    kind = "inproceedings" if paper.proceedings else "article" if paper.journal else "misc"
    arxiv, doi = ARXIV.search(paper.url), DOI.search(paper.url)
    fields = {
        "author": " and ".join(map(_name, _authors(paper))),
        # in braces of its own, so that no style makes its capitals small
        "title": f"{{{_escaped(paper.title)}}}",
        "booktitle": _escaped(paper.proceedings),
        "journal": _escaped(paper.journal),
        "howpublished": f"arXiv preprint arXiv:{arxiv[1]}" if arxiv and kind == "misc" else "",
        "year": str(paper.year),
        "eprint": arxiv[1] if arxiv else "",
        "archiveprefix": "arXiv" if arxiv else "",
        "doi": _plain(doi[1]) if doi else "",
        "url": _plain(paper.url),
    }
    return f"@{kind}{{{key},\n{_lines(fields)}}}\n"


def _lines(fields: Mapping[str, str]) -> str:
    return "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items() if value)


def _name(author: str) -> str:
    """Return a person as BibTeX takes names apart; what has no initials is a name as a whole."""
    if author in {"et al.", "others"}:
        return "others"
    return _escaped(author) if INITIALS.match(author) else f"{{{_escaped(author)}}}"


def _escaped(text: str) -> str:
    """Return text safe for LaTeX, whose engines read every letter today."""
    return "".join(LATEX.get(character, character) for character in " ".join(text.split()))


def _plain(address: str) -> str:
    """Return an address as it is, but for what would end a field."""
    quoted = {"{": "%7B", "}": "%7D", "\\": "%5C", " ": "%20"}
    return "".join(quoted.get(character, character) for character in address.strip())
