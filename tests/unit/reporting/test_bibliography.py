"""The papers of a table's methods as BibTeX that parses, with keys of their own and all that an entry needs."""

import re

import pytest

from kd.reporting.bibliography import bibliography
from kd.schema.cards import Card, Paper, load_cards

CARDS = load_cards()
REQUIRED = {
    "inproceedings": {"author", "title", "booktitle", "year"},
    "article": {"author", "title", "journal", "year"},
    "misc": {"author", "title", "year"},
}


def parsed(text: str) -> dict[str, tuple[str, dict[str, str]]]:
    """Return kind and fields of every entry by key; braces are matched by counting, as BibTeX does."""
    found: dict[str, tuple[str, dict[str, str]]] = {}
    rest = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    while (start := re.match(r"\s*@(\w+)\{([^\s,{}]+),", rest)) is not None:
        kind, key = start.groups()
        assert key not in found
        fields: dict[str, str] = {}
        rest = rest[start.end() :]
        while (name := re.match(r"\s*(\w+)\s*=\s*\{", rest)) is not None:
            value, rest = braced(rest[name.end() :])
            assert name[1] not in fields
            fields[name[1]] = value
            rest = rest.removeprefix(",")
        assert rest.lstrip().startswith("}")
        rest = rest.lstrip()[1:]
        found[key] = kind, fields
    assert rest.strip() == ""
    return found


def braced(text: str) -> tuple[str, str]:
    """Return what stands before the brace that closes, and what stands behind it."""
    depth = 1
    for place, character in enumerate(text):
        escaped = place > 0 and text[place - 1] == "\\"
        depth += (character == "{" and not escaped) - (character == "}" and not escaped)
        if depth == 0:
            return text[:place], text[place + 1 :]
    raise AssertionError("a brace is never closed")


def card(name: str, **paper) -> Card:
    content = {"title": f"On {name}", "authors": "A. Author", "year": 2020, **paper}
    return CARDS["kd"].model_copy(update={"name": name, "paper": Paper(**content)})


def test_all_cards_have_complete_entries_under_keys_of_their_own():
    found = parsed(bibliography(CARDS.values()))
    papers = {(one.paper.title, one.paper.authors, one.paper.year) for one in CARDS.values()}
    assert len(found) == len(papers)
    for kind, fields in found.values():
        assert REQUIRED[kind] <= fields.keys()
        assert all(value.strip() for value in fields.values())


@pytest.mark.parametrize("name", sorted(CARDS))
def test_a_card_says_where_its_paper_appeared(name):
    """A preprint is one of arXiv; asib alone was never published."""
    paper = CARDS[name].paper
    assert paper.proceedings or paper.journal or "arxiv.org/abs/" in paper.url or name == "asib"
    assert paper.url or name == "asib"
    (entry,) = parsed(bibliography([CARDS[name]])).values()
    people = entry[1]["author"].split(" and ")
    assert len(people) == (1 if name == "asib" else len(paper.authors.split(",")))


def test_an_entry_golden():
    assert bibliography([CARDS["takd"], CARDS["kd"]]) == (
        "% The papers of the methods in comparison.*, from their cards.\n"
        "\n"
        "% kd\n"
        "@misc{hinton2015distilling,\n"
        "  author = {G. Hinton and O. Vinyals and J. Dean},\n"
        "  title = {{Distilling the Knowledge in a Neural Network}},\n"
        "  howpublished = {arXiv preprint arXiv:1503.02531},\n"
        "  year = {2015},\n"
        "  eprint = {1503.02531},\n"
        "  archiveprefix = {arXiv},\n"
        "  url = {https://arxiv.org/abs/1503.02531},\n"
        "}\n"
        "\n"
        "% takd\n"
        "@inproceedings{mirzadeh2020improved,\n"
        "  author = {S. I. Mirzadeh and M. Farajtabar and A. Li and N. Levine and A. Matsukawa and H. Ghasemzadeh},\n"
        "  title = {{Improved Knowledge Distillation via Teacher Assistant}},\n"
        "  booktitle = {AAAI Conference on Artificial Intelligence (AAAI)},\n"
        "  year = {2020},\n"
        "  eprint = {1902.03393},\n"
        "  archiveprefix = {arXiv},\n"
        "  url = {https://arxiv.org/abs/1902.03393},\n"
        "}\n"
    )


def test_methods_of_one_paper_share_an_entry():
    text = bibliography([CARDS["wttm"], CARDS["ttm"]])
    assert "% ttm, wttm\n@" in text
    assert len(parsed(text)) == 1


def test_papers_whose_keys_would_be_one_have_two():
    ones = [card("one", title="Learning well"), card("two", title="Learning badly"), card("three", title="Learning")]
    assert sorted(parsed(bibliography(ones))) == ["author2020learning", "author2020learningb", "author2020learningc"]
    assert bibliography(ones) == bibliography(ones[::-1])


def test_what_latex_reads_otherwise_is_escaped_and_what_would_end_a_field_cannot():
    own = card(
        "own",
        title="100 % of {x}_i & more\n~",
        authors="Ö. Šimić, its maintainers",
        url="https://x.org/{a}_b",
        journal="J & K",
    )
    ((key, (kind, fields)),) = parsed(bibliography([own])).items()
    assert (key, kind) == ("simic2020more", "article")
    assert fields["title"] == r"{100 \% of \{x\}\_i \& more \textasciitilde{}}"
    assert fields["author"] == "Ö. Šimić and {its maintainers}"
    assert fields["journal"] == r"J \& K"
    assert fields["url"] == "https://x.org/%7Ba%7D_b"


def test_a_doi_is_told_from_its_address():
    (kind, fields) = parsed(bibliography([CARDS["avg_kd"]])).popitem()[1]
    assert (kind, fields["doi"]) == ("inproceedings", "10.1145/3097983.3098135")
