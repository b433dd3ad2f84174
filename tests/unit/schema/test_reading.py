"""Files that YAML 1.1 reads in another way than they are meant, and files that are no experiment at all."""

import json
import os

import pytest
import yaml
from mistakes import RIGHT, assert_plain

from kd.schema.reading import plain_values, read_configuration
from kd.study.experiment import load_experiment, workflow_configuration
from kd.tools.errors import UserError

HEAD = "experiment: unit\nseeds: [0]\n"

UNREADABLE = {
    "empty": ("", "must hold keys and values, found nothing"),
    "comment": ("# nothing\n", "must hold keys and values, found nothing"),
    "list": ("- a\n- b\n", "must hold keys and values, found a list"),
    "text": ("experiment\n", "must hold keys and values, found text"),
    "number": ("3", "must hold keys and values, found a number"),
    "open": (HEAD + "recipe: [1,\n", "line 4: is not valid YAML"),
    "tab": (HEAD + "recipe:\n\tepochs: 3\n", "line 4: is not valid YAML (found character that cannot start any token)"),
    "colon": (HEAD + "description: a: b\n", "line 3: is not valid YAML"),
    "two_documents": (HEAD + "---\na: 1\n", "is not valid YAML"),
    "duplicate": (HEAD + "seeds: [1]\n", "line 3: key 'seeds' stands twice in one place"),
    "duplicate_inside": ("recipe: {epochs: 1, lr: 1, epochs: 2}\n", "line 1: key 'epochs' stands twice"),
    "duplicate_quoted": ("recipe: {epochs: 1, 'epochs': 2}\n", "key 'epochs' stands twice"),
    "duplicate_json": ('{"recipe": {"epochs": 1, "epochs": 2}}', "key 'epochs' stands twice"),
    "octal": ("recipe:\n  epochs: 010\n", "line 2: 010 is read as a number to base 8: write 10, or '010' for text"),
    "octal_class": ("class_subset: [001, 002]\n", "001 is read as a number to base 8"),
    "octal_signed": ("seeds: [-07]\n", "-07 is read as a number to base 8"),
    "sexagesimal": ("recipe: {epochs: 1:30}\n", "1:30 is read as a number to base 60"),
    "sexagesimal_float": ("recipe: {lr: 1:30.5}\n", "1:30.5 is read as a number to base 60"),
    "cycle": ("methods: &a [*a]\n", "an alias leads back"),
    "cycle_keys": ("recipe: &a {lr: 1, more: *a}\n", "an alias leads back"),
    "unknown_alias": ("methods: *nowhere\n", "is not valid YAML"),
    "tag": ("recipe: !!python/object/apply:os.system ['true']\n", "is not valid YAML"),
    "own_tag": ("recipe: !mine {a: 1}\n", "is not valid YAML"),
    "bad_tag": ("recipe: {epochs: !!int many}\n", "holds a value that cannot be read"),
    "bad_date": ("description: 2024-13-77\n", "holds a value that cannot be read"),
    "key_list": ("? [a, b]\n: 1\n", "keys must be text"),
    "deep": ("methods: " + "[" * 100 + "]" * 100, "deep in each other"),
    "very_deep": ("methods: " + "[" * 200_000, "deep in each other"),
    "deep_json": ('{"a": ' + "[" * 200_000 + "]" * 200_000 + "}", "deep in each other"),
    "template": ("__use_yte__: true\n" + HEAD, "key __use_yte__ makes Snakemake run code"),
    "template_off": ("__use_yte__: false\n" + HEAD, "key __use_yte__"),
    "nul": ("experiment: a\0b\n", "is not valid YAML"),
}


@pytest.mark.parametrize(("text", "said"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_file_that_cannot_be_meant_is_told(tmp_path, text, said):
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as raised:
        read_configuration(path)
    assert str(path) in str(raised.value)
    assert said in str(raised.value)
    assert_plain(str(raised.value).replace(str(path), "x.yaml"))


BYTES = {"latin": b"description: caf\xe9\n", "utf16": "a: 1".encode("utf-16"), "binary": bytes(range(128, 256))}


@pytest.mark.parametrize("content", BYTES.values(), ids=BYTES)
def test_a_file_that_is_not_utf_8_is_told(tmp_path, content):
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(UserError, match="is not UTF-8 text: byte") as raised:
        load_experiment(tmp_path / "x.yaml")
    assert_plain(str(raised.value).replace(str(tmp_path), ""))


@pytest.mark.parametrize("name", ["absent.yaml", ".", "a\0b", "x" * 300, "a/" * 3000], ids=range(5))
def test_a_path_that_is_no_file_is_told(tmp_path, name):
    with pytest.raises(UserError, match="configuration file") as raised:
        load_experiment(os.path.join(tmp_path, name))
    assert_plain(str(raised.value).replace(str(tmp_path), ""))


def test_laughs_by_the_billion_end_soon(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    (tmp_path / "x.yaml").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UserError, match="holds more than 500000 values"):
        load_experiment(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    ("head", "tail"), [("", ""), ("\ufeff", ""), ("# \u00e9\n", "\n\n")], ids=["plain", "bom", "comment"]
)
def test_what_yaml_and_json_say_alike_is_read(tmp_path, head, tail):
    path = tmp_path / "x.yaml"
    path.write_text(head + yaml.safe_dump(RIGHT, allow_unicode=True) + tail, encoding="utf-8")
    assert read_configuration(path) == RIGHT
    if not head.startswith("#"):
        path.write_text(head + json.dumps(RIGHT, indent="\t") + tail, encoding="utf-8")
        assert read_configuration(path) == RIGHT


READ = """
base: &base {method: kd, temperature: 2.0}
methods:
  - *base
  - {<<: *base, name: other, temperature: 3.0}
numbers: [10, 0, -3, +4, 1_000, 0x10, 1e-4, 1.5e+3, .5, 0.25]
switches: [true, no, On]
texts: ["010", '1:30', "no", 08, a:b]
"""


def test_what_means_one_thing_only_is_read(tmp_path):
    (tmp_path / "x.yaml").write_text(READ, encoding="utf-8")
    found = plain_values(read_configuration(tmp_path / "x.yaml"))
    assert found["methods"][1] == {"method": "kd", "name": "other", "temperature": 3.0}
    assert found["numbers"] == [10, 0, -3, 4, 1000, 16, 1e-4, 1500.0, 0.5, 0.25]
    assert found["switches"] == [True, False, True]
    assert found["texts"] == ["010", "1:30", "no", "08", "a:b"]


@pytest.fixture
def default(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**RIGHT, "gpus": 1}), encoding="utf-8")
    return path


def test_a_file_without_a_name_is_no_quick_start(tmp_path, default):
    mine = tmp_path / "mine.yaml"
    mine.write_text("recipe: {epochs: 3}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"mine.yaml: key experiment is missing") as raised:
        workflow_configuration({"recipe": {"epochs": 3}}, default, [mine])
    assert_plain(str(raised.value).replace(str(tmp_path), ""))


def test_without_a_file_the_quick_start_begins_with_what_the_command_line_changes(default):
    assert workflow_configuration({}, default) == RIGHT
    typed = {"seeds": ["3", "4"], "gpus": 2, "recipe": {"epochs": "3", "lr": "1e-3"}, "datasets": {"a": {"root": "1"}}}
    found = workflow_configuration(typed, default, [], typed)
    assert found["seeds"] == [3, 4], "Snakemake hands over lists of text"
    changed = {"epochs": 3, "lr": "1e-3"}  # a number with an exponent is told by its key later
    assert found["recipe"] == {**RIGHT["recipe"], **changed}, "what is not named stays the quick start's"
    assert found["datasets"] == {**RIGHT["datasets"], "a": {"root": "1"}}, "a path stays text"
    assert {key: value for key, value in found.items() if key not in typed} == {
        key: value for key, value in RIGHT.items() if key not in typed
    }


def test_the_command_line_changes_a_file(tmp_path, default):
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        yaml.safe_dump({"experiment": "mine", "recipe": {"epochs": 3, "milestones": ["1"]}}), encoding="utf-8"
    )
    merged = {"experiment": "mine", "recipe": {"epochs": "5", "milestones": ["1"]}, "seed": "null"}
    found = workflow_configuration(merged, default, [mine], {"recipe": {"epochs": "5"}, "seed": "null"})
    assert found == {"experiment": "mine", "recipe": {"epochs": 5, "milestones": ["1"]}, "seed": None}


def test_what_snakemake_dropped_of_a_file_is_seen(tmp_path, default):
    mine = tmp_path / "mine.yaml"
    mine.write_text("experiment: mine\nseeds: [0]\nseeds: [1]\n", encoding="utf-8")
    with pytest.raises(UserError, match="'seeds' stands twice"):
        workflow_configuration({"experiment": "mine", "seeds": [1]}, default, [mine])
