import base64
import json
import re
from html.parser import HTMLParser

import pytest

from kd.reporting.layout import figure_files
from kd.reporting.page import write_page
from kd.tools.errors import UserError

PIXEL = b"\x89PNG\r\n\x1a\nnot really"  # the page inlines figures as they are


def page(world):
    folder = world.root / "figures"
    for name in figure_files([(world.dataset, world.pair)]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(PIXEL)
    out = world.root / "report.html"
    arguments = (world.report, world.cards, world.meta, "snakemake --cores 2 <x>")
    write_page(world.runs_csv, world.statistics, folder, out, *arguments)
    return out.read_text(encoding="utf-8")


class Tags(HTMLParser):
    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self):
        super().__init__()
        self.open, self.sources = [], []

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in {"src", "href"}]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_from_outside(small):
    html = page(small)
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    paper = "https://example.org/x"
    assert all(source.startswith(("data:image/png;base64,", "#")) or source == paper for source in tags.sources)
    assert not re.search(r"<script|<link|@import|url\(", html)


PIECES = [
    "Which distillation method is worth it? 5 methods under one recipe",
    "A made-up experiment &amp; its &lt;table&gt;.",
    "<strong>73.83 ± 1.90</strong>",
    "On &lt;kd&gt;",
    "CE + KL(p_t || p_s)",
    "&#34;temperature&#34;: 4.0",
    "No run of this method has finished.",
    "loss became NaN in epoch 3, step 17 &lt;&amp;_%&gt;",
    "4 runs without result:",
    "torch 2.14.1, timm 1.0.31",
    "<td>abc123</td>",
    "snakemake --cores 2 &lt;x&gt;",
    "14 finished of 18 rows",
    "60 s + 100 s + 0.0 s",
    f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}",
]


def test_the_page_shows_what_a_reader_looks_for_and_repeats_itself(small):
    html = page(small)
    assert [piece for piece in PIECES if piece not in html] == []
    assert page(small) == html


def test_the_page_names_the_classes_of_a_subset(small):
    assert "Classes of a class_subset" not in page(small)
    for path in small.root.rglob("run.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**record, "classes": ["2", "<3>"]}), encoding="utf-8")
    assert "<tr><th>Classes of a class_subset</th><td>2, &lt;3&gt;</td></tr>" in page(small)


def test_a_page_without_any_result(world):
    html = page(world.method("kd", [1.0], broken={0}).analyse())
    assert "What failed or is missing" in html
    assert "1 run without result:" in html


def test_everything_finished(world):
    assert "Nothing: every planned run has finished." in page(world.method("kd", [70.0, 71.0]).analyse())


def test_missing_figures_are_named(small):
    with pytest.raises(UserError, match=r"accuracy\.png does not exist"):
        write_page(
            *(small.runs_csv, small.statistics, small.root / "none", small.root / "report.html"),
            *(small.report, small.cards, small.meta),
        )
