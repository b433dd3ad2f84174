import csv
import json
from pathlib import Path

import numpy as np
import pytest

from kd.reporting import text
from kd.reporting.layout import table_files
from kd.reporting.tables import write_tables
from kd.schema.config import Reporting
from kd.tools.errors import UserError
from kd.tools.files import write_json

GOLDEN = """\
| Method | Test top-1 (%) | n | Δ kd | Δ ce | Training FLOPs |
| --- | ---: | ---: | ---: | ---: | ---: |
| teacher: big | 80.10 ± 0.10 | 3 |  |  | 100 T |
| ce | 71.00 ± 1.00 | 3 | −2.83 \\[−4.73, −0.94\\] |  | 50 T |
| crd | **74.50 ± 0.71** <sup>a</sup> | 2 of 3 | +1.00 \\[+1.00, +1.00\\] (n = 2) \
| +3.50 \\[−2.85, +9.85\\] (n = 2) | 600 T |
| kd_t8 | **73.87 ± 0.68** | 3 | +0.03 \\[−0.25, +0.32\\] | +2.87 \\[+1.18, +4.56\\] | 160 T |
| kd | **73.83 ± 0.76** | 3 |  | +2.83 \\[+0.94, +4.73\\] | 160 T |
| ft | — <sup>b</sup> | 0 of 3 | — | — | — |
"""


def write(world, networks=None, **meta):
    folder = world.root / "tables"
    write_tables(world.runs_csv, world.statistics, folder, world.report, world.cards, world.meta | meta, None, networks)
    return {path.suffix[1:]: path.read_text(encoding="utf-8") for path in folder.glob("comparison.*")}


def test_markdown_golden(small):
    tables = write(small)
    lines = [line for line in tables["md"].splitlines() if line.startswith("|")]
    shortened = [" |".join(line.split(" |")[:6]) + " |" for line in lines]
    assert shortened == GOLDEN.splitlines()
    assert r"<sup>a</sup> crd, seed 1 failed: loss became NaN in epoch 3, step 17 \<&\_%>" in tables["md"]
    assert "<sup>b</sup> ft, seeds 0, 1 and 2 missing" in tables["md"]


@pytest.mark.parametrize("content", ['{"groups": 3}', "[]", "{}"], ids=["other keys", "list", "empty"])
def test_statistics_that_the_workflow_did_not_write_are_refused(small, content):
    small.statistics.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"statistics\.json"):
        write(small)


def test_every_format_is_written_and_repeats_itself(small):
    first = write(small)
    assert {path.name for path in (small.root / "tables").iterdir()} == set(table_files())
    assert write(small) == first


def test_csv_holds_plain_numbers(small):
    rows = {row["method"]: row for row in csv.DictReader(write(small)["csv"].splitlines())}
    assert float(rows["kd"]["mean"]) == pytest.approx(73.8333333)
    assert float(rows["kd"]["total_seconds"]) == 160.0
    assert float(rows["kd"]["total_flops"]) == 160e12
    assert float(rows["ce"]["total_seconds"]) == 50.0
    assert rows["ft"]["mean"] == ""
    assert rows["crd"]["note"].startswith("seed 1 failed: loss became NaN")
    assert (rows["kd"]["delta_kd"], rows["crd"]["n_kd"]) == ("", "2")
    assert (rows["kd_t8"]["won_kd"], rows["kd_t8"]["verdict_kd"], rows["kd_t8"]["verdict_ce"]) == (
        *["0.6666666667", "equal", "better"],
    )


def test_published_numbers_stand_beside_like_and_name_their_source(small):
    tables = write(small)
    rows = {row["method"]: row["published"] for row in json.loads(tables["json"])["sections"][0]["rows"]}
    # kd: last epochs 72.5, 74.0, 73.5 and tracked maxima 73.3, 74.8, 74.3
    assert rows["kd"]["last"] == {"top1": 74.92, "difference": -1.586667, "source": "Paper A, table 1"}
    assert rows["kd"]["best"]["difference"] == pytest.approx(74.133333 - 75.5, abs=1e-5)
    assert rows["kd_t8"] == {}  # a variant is not what the paper ran
    assert rows["ce"]["last"]["top1"] == 73.26
    assert "kd, published (last epoch): Paper A, table 1" in tables["md"]
    assert "Published (last epoch)" in tables["md"]


@pytest.mark.parametrize(
    "meta",
    [
        {"datasets": {"toy": {"source": "cifar100", "subset_size": 5000}}},
        {"datasets": {}},
        {"pretrained": ["small"]},
        {"class_shares": ["small"]},
    ],
)
def test_no_published_column_for_another_setting(small, meta):
    assert "Published" not in write(small, **meta)["md"]


def test_architectures_match_published_numbers_not_names(small):
    for card in small.cards.values():
        for entry in card.published:
            object.__setattr__(entry, "student", "wrn_16_2")
    assert "Published" not in write(small)["md"]
    assert "74.92" in write(small, archs={"small": "wrn_16_2", "big": "big"})["md"]


@pytest.mark.parametrize(
    ("meta", "sentence"),
    [
        ({"teacher_seed": 0}, "the one teacher of seed 0: the intervals are conditional on that checkpoint"),
        ({"teacher_seed": "same"}, "Each seed distils a teacher trained with that seed"),
        ({}, "weights of the epoch selected on the validation split"),
        ({}, "Mean ± standard deviation over seeds (n = 3 planned"),
        ({}, "[ ]: its 95% Student t interval, of this difference by itself"),
        ({}, "No p values: with n = 3 none can be below 0.25, 0.75 corrected for 3."),
        ({}, "Bold: not told apart from the best mean (paired t, one-sided, Bonferroni-corrected)"),
        ({}, "10,000 test images"),
        ({}, "Cross-entropy stands first, the methods below it are sorted by mean"),
    ],
)
def test_the_caption_says_what_one_must_know(small, meta, sentence):
    assert text.markdown(sentence) in write(small, **meta)["md"]


@pytest.mark.parametrize(("seeds", "told"), [(6, False), (7, True), (20, True)])
def test_p_has_a_column_where_it_can_get_small(world, seeds, told):
    """Two differences to each reference: 2 / 2^6 corrected is 0.06, 2 / 2^7 is 0.03."""
    drawn = np.random.default_rng(0).normal(0, 0.1, (3, seeds))
    for name, level, noise in zip(("ce", "kd", "x"), (70.0, 72.0, 75.0), drawn, strict=True):
        world.method(name, (level + noise).tolist())
    tables = write(world.analyse())
    assert ("p (Holm, kd)" in tables["md"]) == told
    assert ("sign-flip test, Holm-corrected over the methods of this table" in tables["md"]) == told
    assert ("No p values: with n = 6" in tables["md"]) != told
    assert "p_holm_kd" in tables["csv"]


def test_nothing_is_bold_where_nothing_is_told_apart(world):
    world.method("ce", [70.0, 71.0, 69.5]).method("kd", [70.5, 70.9, 70.0])
    tables = write(world.analyse())
    assert "**" not in tables["md"]
    assert "Nothing is bold, for no method is told apart from the best." in tables["md"]


def test_one_seed_has_no_interval_and_nothing_bold(world):
    tables = write(world.teachers([0]).method("ce", [70.0]).method("kd", [71.0]).analyse())
    assert "| kd | 71.00 | 1 |" in tables["md"]
    assert "| ce | 70.00 | 1 | −1.00 |" in tables["md"]
    assert "**" not in tables["md"]
    assert "no interval and no p value can be given" in tables["md"]


def test_links_stand_below_the_methods_and_are_compared_with_nothing(world):
    world.teachers(range(2)).method("ce", [70.0, 71.0]).method("kd", [71.0, 72.5])
    world.method("takd.hop1", [90.0, 90.0], base="takd", kind="link", student="middle")
    tables = write(world.method("takd", [72.0, 72.5], ensemble=73.0).analyse())
    rows = json.loads(tables["json"])["sections"][0]["rows"]
    assert [row["method"] for row in rows] == ["teacher", "ce", "takd", "kd", "takd.hop1"]
    link = rows[-1]
    assert (link["role"], link["student"], link["mean"]) == ("link", "middle", 90.0)
    assert (link["is_best"], link["tied_with_best"], link["differences"]) == (False, None, {})
    assert all(row["differences"]["ce"]["holm_over"] == 2 for row in rows[2:4])
    assert "| takd.hop1: middle | 90.00 ± 0.00 |" in tables["md"]
    assert "Below the methods stand the earlier links" in tables["md"]
    assert "takd: the mean of all its generations' probabilities reaches 74.00 % test top-1" in tables["md"]


def test_a_single_method(world):
    tables = write(world.method("kd", [71.0, 72.0]).analyse())
    assert "Δ ce" not in tables["md"]
    assert "| kd | 71.50 ± 0.71 | 2 |" in tables["md"]


def test_all_failed(world):
    tables = write(world.method("kd", [1.0, 1.0], broken={0, 1}).analyse())
    assert "| kd | — <sup>a</sup> | 0 of 2 |" in tables["md"]
    assert "nan" not in tables["csv"].replace("NaN in epoch", "").lower()


def test_each_pair_has_a_section_of_its_own(world):
    world.method("kd", [71.0, 72.0])
    world.pair, world.student = "big--tiny", "tiny"
    world.method("kd", [61.0, 62.0]).analyse()
    tables = write(world)
    assert [line for line in tables["md"].splitlines() if line.startswith("## ")] == [
        *["## toy: big--small", "## toy: big--tiny"]
    ]
    assert tables["tex"].count(r"\begin{table}") == 1, "pairs are columns of one table"


def measured(world, sizes, busy=False):
    """Write networks.json, in which each method's network has the parameters that are told, and return the tables."""
    networks = [
        {"parameters": size, "flops": 40 * size, "milliseconds": {"1": 0.25, "64": 12.0}} for size in sizes.values()
    ]
    places = {method: place for place, method in enumerate(sizes)}
    runs = {run["path"]: places[run["method"]] for run in world.runs if run["method"] in places}
    file = world.root / "networks.json"
    write_json(file, {"cpu": "Some CPU", "threads": 1, "busy": busy, "networks": networks, "runs": runs})
    return write(world, networks=file)


def test_what_networks_take_stands_beside_what_they_reach(small):
    tables = measured(small, {"kd": 20_000, "ce": 20_000, "crd": 20_000})
    rows = {row["method"]: row for row in csv.DictReader(tables["csv"].splitlines())}
    found = [rows["kd"][key] for key in ("deployed_params", "inference_flops", "latency_1_ms", "latency_64_ms")]
    assert list(map(float, found)) == [20_000, 800_000, 0.25, 12]
    assert rows["kd_t8"]["deployed_params"] == rows["ft"]["latency_1_ms"] == ""
    assert "FLOPs per image" not in tables["md"], "it is the same for all"
    assert "Latency: median milliseconds of a pass in float32, on one thread of Some CPU." in tables["md"]
    assert "other programs took part of the machine" in measured(small, {"kd": 1}, busy=True)["md"]


def test_sizes_matter_where_students_differ_in_them(small):
    assert "Latency" not in write(small)["md"]
    tables = measured(small, {"kd": 20_000, "crd": 30_000})
    (heads,) = [line for line in tables["md"].splitlines() if line.startswith("| Method |")]
    assert heads.endswith("| Parameters | FLOPs per image |")
    (row,) = [line for line in tables["md"].splitlines() if line.startswith("| crd |")]
    assert row.endswith("| 30 k | 1.2 M |")


def test_last_weights_are_named_and_the_other_column_is_the_selected_epoch(world):
    world.report = Reporting(weights="last")
    tables = write(world.method("kd", [71.0, 72.0]).analyse())
    assert "weights of the last epoch" in tables["md"]
    assert "| kd | 71.00 ± 0.71 | 2 |" in tables["md"]
    assert '"mean_selected_epoch": 71.5' in tables["json"]


def test_other_devices_are_told(small):
    path = small.root / "toy" / "big--small" / "kd-small" / "seed0" / "run.json"
    path.write_text(path.read_text(encoding="utf-8").replace("Some CPU", "Other CPU"), encoding="utf-8")
    assert "different devices" in write(small.analyse())["md"]


def made(world, methods, precision, kernels="torch", evaluated="fp32"):
    """Write down how some methods' runs were made, as trainings and evaluations do."""
    for run in world.runs:
        folder = Path(run["path"])
        if run["method"] in methods and (folder / "run.json").exists():
            mode = {"precision": precision, "channels_last": True, "kernels": kernels}
            record, evaluation = (
                json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("run", "evaluation")
            )
            record["hardware"]["kernels"] = {"student": {"trained": mode, "frozen": mode}}
            evaluation["made"] = {"device": "cpu", "precision": evaluated}
            (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
            (folder / "evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")


def test_a_caption_says_in_which_format_and_with_which_kernels_the_numbers_were_made(small):
    made(small, {run["method"] for run in small.runs} - {"teacher"}, "bf16", "compiled")
    made(small, {"teacher"}, "fp32")  # measured by itself, as every network is
    tables = write(small.analyse())
    assert "Students were trained in bfloat16 with compiled kernels and evaluated in float32." in tables["md"]
    assert "Attention" not in tables["md"]
    rows = list(csv.DictReader(small.runs_csv.open(encoding="utf-8")))
    assert {(row["precision"], row["kernels"], row["eval_precision"]) for row in rows if row["method"] == "kd"} == {
        ("bf16", "compiled", "fp32")
    }


def test_a_table_of_rows_made_in_different_ways_warns(small):
    made(small, {"ce"}, "fp32")
    made(small, {"kd", "crd"}, "bf16")
    tables = write(small.analyse())
    warning = (
        "Attention: these numbers were made in different number formats or with different kernels, of which a part of "
        "the differences may come (float32 with torch's kernels, evaluated in float32: ce; bfloat16 with torch's "
        "kernels, evaluated in float32: crd and kd)."
    )
    assert f"**{warning}**" in tables["md"]
    assert json.loads(tables["json"])["sections"][0]["warning"] == warning


def test_records_that_do_not_say_how_they_were_made_are_no_reason_to_warn(small):
    tables = write(small)
    assert "Attention" not in tables["md"]
    assert "Students were trained in" not in tables["md"]


def test_a_method_is_compared_with_its_control(world):
    world.teachers([0, 1, 2]).method("kd", [70.0, 71.0, 72.0]).method("dkd", [73.0, 73.5, 74.0])
    world.method("dkd_matched", [72.0, 73.0, 74.0], base="kd", kind="control")
    tables = write(world.method("at", [71.0, 71.0, 71.0]).analyse())
    lines = {row["method"]: row for row in json.loads(tables["json"])["sections"][0]["rows"]}
    found = lines["dkd"]["control"]
    assert (found["method"], found["reference"], found["n"]) == ("dkd", "dkd_matched", 3)
    assert found["mean"] == pytest.approx(0.5)
    # a t interval of the differences 1, 0.5 and 0, and the one of eight sign flips that are as far or farther, doubled
    assert (found["low"], found["high"]) == pytest.approx(
        (0.5 - 4.302653 * 0.5 / 3**0.5, 0.5 + 4.302653 * 0.5 / 3**0.5)
    )
    assert found["p"] == found["p_holm"] == 0.5
    assert all(lines[name]["control"] is None for name in ("kd", "at", "dkd_matched", "teacher"))
    heading = next(line for line in tables["md"].splitlines() if line.startswith("| Method"))
    assert "| Δ control |" in heading
    assert "p (Holm" not in heading, "three seeds give none below 0.25"
    cells = [cell.strip() for cell in next(line for line in tables["md"].splitlines() if "| dkd |" in line).split("|")]
    assert r"+0.50 \[−0.74, +1.74\]" in cells
    rows = {row["method"]: row for row in csv.DictReader(tables["csv"].splitlines())}
    assert (float(rows["dkd"]["delta_control"]), rows["at"]["delta_control"]) == (0.5, "")
    assert "Δ control: difference to the method's own control (dkd_matched)" in tables["md"]


def test_a_table_without_controls_has_no_column_for_them(small):
    tables = write(small)
    assert "control" not in tables["md"]
    assert "control" not in tables["csv"]
