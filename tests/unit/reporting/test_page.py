import base64
import json
import re
from html.parser import HTMLParser

import browser
import numpy as np
import pytest
from made_up import PIXEL, World

from kd.analysis.details import Example, Shown
from kd.reporting.page import is_main
from kd.tools.errors import UserError

ROOMS = ["Küche", "浴室", "<b>Flur</b>", "a very long name of a class, of many words"]


def answered(world, classes=4, images=40, seed=0, names=None):
    """Leave answers to the test and validation images in every finished run, and read them."""
    generator = np.random.default_rng(seed)
    for path in sorted(world.root.rglob("evaluation.json")):
        arrays = {}
        for split in ("test", "val"):
            labels = np.arange(images) % classes
            logits = generator.standard_normal((images, classes)).astype(np.float32)
            logits[np.arange(images), labels] += 1.0
            arrays |= {f"labels_{split}": labels, f"logits_{split}_best": logits, f"logits_{split}_last": logits}
        np.savez_compressed(path.with_name("predictions.npz"), **arrays)
    names = names or [ROOMS[label % 4] + (f" {label}" if classes > 4 else "") for label in range(classes)]
    example = Example(name=names[0], png=base64.b64encode(PIXEL).decode())
    counts = [images // classes] * classes
    world.gather({"toy": Shown(size=32, classes=names, train=counts, test=counts, examples=[example])})
    return world


class Tags(HTMLParser):
    VOID = frozenset({"meta", "img", "br", "link", "wbr"})

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
    html = answered(small).page()
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    paper = "https://example.org/x"
    own = ("data:image/png;base64,", "data:,", "#")
    assert all(source.startswith(own) or source == paper for source in tags.sources)
    assert not re.search(r"<script [^>]|@import|url\(|fetch\(|XMLHttpRequest", html)


PIECES = [
    "Which distillation method is worth it? 5 methods under one recipe",
    "A made-up experiment &amp; its &lt;table&gt;.",
    '<strong>73.83</strong> <span class="interval">± 0.76</span>',
    '<div class="answer">\n<p>kd_t8 leads with 73.87 ± 0.68 % (3 seeds), +0.03 points over kd',
    "<p>Without result: crd (1 of 3 runs) and ft (3 of 3 runs); 1 failed for this reason: loss became NaN",
    "<p>Beside kd, by each 95% interval: equal within 0.5 points: kd_t8;",
    "On &lt;kd&gt;",
    "CE + KL(p_t || p_s)",
    "&#34;temperature&#34;: 4.0",
    "No run of this method has finished.",
    "loss became NaN in epoch 3, step 17 &lt;&amp;_%&gt;",
    "4 runs without result:",
    "torch 2.14.1, timm 1.0.31",
    "<td>abc123</td>",
    "14 finished of 18 rows",
    "60 s + 100 s + 0.0 s",
    f"data:image/png;base64,{base64.b64encode(PIXEL + b'toy/big--small/cost.png').decode()}",
]


def test_the_page_shows_what_a_reader_looks_for_and_repeats_itself(small):
    html = small.page()
    assert [piece for piece in PIECES if piece not in html] == []
    assert small.page() == html


def test_the_page_names_the_classes_of_a_subset(small):
    assert "Classes of a class_subset" not in small.page()
    for path in small.root.rglob("run.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**record, "classes": ["2", "<3>"]}), encoding="utf-8")
    small.gather({})
    assert '<tr><th scope="row">Classes of a class_subset</th><td>2, &lt;3&gt;</td></tr>' in small.page()


def test_a_page_without_any_result(world):
    html = world.method("kd", [1.0], broken={0}).analyse().page()
    assert "What failed or is missing" in html
    assert "1 run without result:" in html


def test_everything_finished(world):
    assert "Nothing: every planned run has finished." in world.method("kd", [70.0, 71.0]).analyse().page()


def test_missing_figures_are_named(small):
    with pytest.raises(UserError, match=r"differences\.png does not exist"):
        small.page(figures=small.root / "none")


def test_what_matters_is_shown_first_and_the_rest_by_choice(small):
    html = small.page()
    shown = re.findall(r'<th scope="col">([^<]*)</th>', html.split("</thead>")[0])
    hidden = re.findall(r'<th scope="col" class="more">([^<]*)</th>', html)
    assert shown == ["Method", "Test top-1 (%)", "Δ kd", "Δ ce", "Training FLOPs"]
    assert {"n", "Total time", "Peak memory"} <= set(hidden)
    assert not any(map(is_main, ("n", "p_kd", "Total time", "published_last")))


# --- class by class -----------------------------------------------------------------------------


def test_a_fold_shows_classes_confusion_and_reliability(small):
    html = answered(small).page()
    for heading in ("Class by class", "What is mistaken for what", "How far its confidence is right"):
        assert html.count(f"<h4>{heading}</h4>") == 4, "of every method but the one without a result"
    assert html.count('<table class="matrix">') == 4
    assert "<td>浴室</td>" in html
    assert "<td>&lt;b&gt;Flur&lt;/b&gt;</td>" in html
    assert "the temperature fitted on validation images" in html
    assert "mean of 3 seeds, beside ce" in html
    assert "mean of 3 seeds, beside kd" in html, "the baseline itself stands beside the next reference"


@pytest.mark.parametrize(
    ("classes", "listed", "whole"), [(2, True, True), (24, True, True), (25, True, False), (201, False, False)]
)
def test_many_classes_are_told_by_their_extremes(world, classes, listed, whole):
    world.method("ce", [70.0, 71.0]).method("kd", [72.0, 73.0]).analyse()
    html = answered(world, classes, images=2 * classes).page()
    assert (f"All {classes} classes" in html) == listed
    assert ('<table class="matrix">' in html) == whole
    assert "Largest gains" in html
    assert f"largest and smallest of {classes} differences" in html


@pytest.mark.parametrize(("names", "heads"), [(["0", "1"], ["0", "1"]), (["kitchen", "bath"], ["1", "2"])])
def test_classes_of_short_names_are_not_numbered_anew(world, names, heads):
    world.method("ce", [70.0, 71.0]).method("kd", [72.0, 73.0]).analyse()
    html = answered(world, 2, images=8, names=names).page()
    table = html[html.index('<table class="matrix">') :]
    assert re.findall(r'<th scope="col">(.*?)</th>', table[: table.index("</thead>")]) == heads
    assert (f'<th scope="row">{names[0]}</th>' in table) == (names == heads)


def test_runs_whose_answers_are_gone_are_shown_without(small):
    answered(small)
    for path in small.root.rglob("predictions.npz"):
        path.unlink()
    small.gather({})
    html = small.page()
    assert "Class by class" not in html
    assert "The images of" not in html


def test_the_images_of_a_data_set_are_shown_with_their_classes(small):
    html = answered(small).page()
    assert "<h2>The images of toy</h2>" in html
    assert "4 classes, 40 training and 40 test images of 32 × 32 pixels." in html
    assert f'<img src="data:image/png;base64,{base64.b64encode(PIXEL).decode()}" alt=""><br>Küche' in html
    assert '<li>浴室 <span class="interval">10 + 10</span></li>' in html


def test_how_networks_ran_stands_in_the_folds(small):
    mode = {"precision": "bf16", "channels_last": True, "kernels": "winograd"}
    for path in small.root.rglob("run.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        ran = {"student": {"trained": mode, "frozen": {**mode, "kernels": "torch"}}, "teacher0": {"trained": mode}}
        path.write_text(json.dumps({**record, "hardware": {**record["hardware"], "kernels": ran}}), encoding="utf-8")
    small.analyse()
    html = small.page()
    assert "<tr><td>How teacher0 ran</td><td>bf16, channels last, winograd kernels</td></tr>" in html
    assert "trained: bf16, channels last, winograd kernels; frozen: bf16, channels last, torch kernels" in html


# --- in a browser -------------------------------------------------------------------------------

SCROLLS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
OPEN = "document.querySelectorAll('details').forEach(one => { one.open = true; })"
COLUMN = "[...document.querySelector('table.comparison tbody.student').rows].map(row => row.cells[{}].textContent)"
SEEN = (
    "[...document.querySelector('table.comparison').tHead.rows[0].cells]"
    ".filter(cell => cell.offsetWidth).map(cell => cell.textContent)"
)


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    program = browser.chromium()
    if program is None:
        pytest.skip("no Chromium is found")
    with browser.opened(program, tmp_path_factory.mktemp("profile")) as tab:
        yield tab


def crowded(root, classes):
    """Two pairs, one of four teachers, with a long name, failed runs and real figures."""
    world = World(root)
    generator = np.random.default_rng(1)
    for pair in ("big--small", "one+another_teacher_of_a_long_name+third+fourth--small"):
        world.pair = pair
        world.teachers(range(2)).method("ce", [70.0, 71.0]).method("kd", [72.0, 73.0], broken={1})
        world.method("a_method_of_an_uncommonly_long_name_with_many_words_and_a_number_12", [99.9, 100.0])
        for index in range(9 if pair == "big--small" else 1):
            world.method(f"m{index:02d}", (70 + generator.standard_normal(2)).tolist())
    return answered(world.analyse(), classes, images=2 * classes)


@pytest.fixture(scope="module")
def crowded_page(tmp_path_factory):
    world = crowded(tmp_path_factory.mktemp("crowded"), 30)
    world.figures(world.root / "drawn")
    world.page(figures=world.root / "drawn")
    return world.root / "report.html"


@pytest.mark.parametrize("width", [1280, 400, 320])
def test_no_screen_makes_the_page_scroll_sideways(tab, crowded_page, width):
    tab.errors.clear()
    tab.show(crowded_page, width)
    assert tab.value(SCROLLS) == 0
    tab.value(OPEN)
    assert tab.value(SCROLLS) == 0
    assert tab.errors == []


def test_a_wide_screen_shows_the_table_whole(tab, crowded_page):
    tab.show(crowded_page, 1280)
    hidden = "[...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth).length"
    assert tab.value(hidden) == 0


def test_columns_are_chosen_and_rows_sorted(tab, small):
    small.page()
    tab.errors.clear()
    tab.show(small.root / "report.html", 1280)
    assert tab.value(SEEN) == ["Method", "Test top-1 (%)", "Δ kd", "Δ ce", "Training FLOPs"]
    tab.value(
        "[...document.querySelectorAll('.columns label')].find(one => one.textContent === ' n').firstChild.click()"
    )
    assert tab.value(SEEN) == ["Method", "Test top-1 (%)", "n", "Δ kd", "Δ ce", "Training FLOPs"]
    methods = COLUMN.format(0)
    assert tab.value(methods) == ["ce", "crd", "kd_t8", "kd", "ft"], "as made: the baseline, then by mean"
    click = "document.querySelectorAll('table.comparison th button')[{}].click()"
    tab.value(click.format(1))
    assert tab.value(methods) == ["crd", "kd_t8", "kd", "ce", "ft"], "what is not known stays last"
    tab.value(click.format(1))
    assert tab.value(methods) == ["ce", "kd", "kd_t8", "crd", "ft"]
    tab.value(click.format(0))
    assert tab.value(methods) == ["ce", "crd", "ft", "kd", "kd_t8"]
    first = "document.querySelector('table.comparison').tBodies[0].className"
    assert tab.value(first) == "teacher", "teachers stay on top"
    assert tab.errors == []


def test_print_keeps_every_column_and_what_is_folded_in(tab, small, tmp_path):
    answered(small).page()
    tab.show(small.root / "report.html", 1000)
    tab.ask("Emulation.setEmulatedMedia", media="print")
    tab.value("dispatchEvent(new Event('beforeprint'))")
    assert "Total time" in tab.value(SEEN)
    assert tab.value("[...document.querySelectorAll('pre')].every(one => one.offsetHeight > 0)")
    assert tab.value(SCROLLS) == 0
    tab.value("dispatchEvent(new Event('afterprint'))")
    assert tab.value("document.querySelectorAll('details[open]').length") == 0
    tab.ask("Emulation.setEmulatedMedia", media="")
    tab.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
