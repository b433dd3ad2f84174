"""The manual of experiment files and their schema say what the settings models say."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from kd.reporting.manual import ELSEWHERE, ENTRY, README, SCHEMA, SECTIONS, keys, manual, schema_text, write
from kd.schema.cards import card_names
from kd.schema.reading import read_configuration
from kd.study.experiment import ENTRY_KEYS

CONFIG = Path(README).parent
FILES = [CONFIG / "config.yaml", *sorted((CONFIG / "experiments").glob("*.yaml"))]


@pytest.fixture(scope="module")
def validator():
    schema = json.loads(schema_text())
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def test_the_committed_page_and_schema_are_in_step_with_the_models():
    # To bring them up to date: python3 envs/task.py docs
    assert README.read_text(encoding="utf-8") == manual()
    assert SCHEMA.read_text(encoding="utf-8") == schema_text()


def test_writing_gives_the_same_files(tmp_path):
    write(tmp_path / "page.md", tmp_path / "schema.json")
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == manual()
    assert (tmp_path / "schema.json").read_text(encoding="utf-8") == schema_text()


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_has_a_row_with_its_meaning(section):
    page = manual()
    start = page.index(f"# `{section}`\n")
    assert keys(section) in page[start:]
    for key, field in SECTIONS[section].model_fields.items():
        assert field.description, f"{section}.{key} has no docstring"
        assert f"| `{key}` |" in keys(section)


def test_the_keys_of_a_method_s_entry_are_those_that_the_workflow_takes():
    assert set(ENTRY) == set(ENTRY_KEYS)
    assert set(ELSEWHERE.values()) <= {*SECTIONS, "methods"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_committed_experiments_are_valid_by_the_schema_that_they_name(path, validator):
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    assert (path.parent / first.partition("=")[2]).resolve() == SCHEMA.resolve()
    assert not [error.message for error in validator.iter_errors(read_configuration(path))]


LEAST = {
    "experiment": "mine",
    "datasets": {"digits": {"source": "digits"}},
    "pairs": [{"teachers": ["resnet20"], "student": "resnet8"}],
    "methods": ["ce", "kd"],
    "seeds": [0],
    "recipe": {"epochs": 2},
}
REFUSED = {
    "key": "recip: {epochs: 3}",
    "missing": "recipe: {lr: 0.1}",
    "nested_key": "recipe: {epochs: 3, epoch: 3}",
    "type": "recipe: {epochs: many}",
    "bound": "recipe: {epochs: 0}",
    "method": "methods: [kdd]",
    "setting": "methods: [{method: kd, temprature: 2.0}]",
    "setting_of_another": "methods: [{method: kd, at_weight: 2.0}]",
    "setting_bound": "methods: [{method: kd, temperature: 0}]",
    "own_recipe": "methods: [{method: kd, recipe: {epoch: 2}}]",
    "nameless_combination": "methods: [{combine: [kd, at]}]",
    "setting_of_a_combination": "methods: [{name: both, combine: [kd, at], temperature: 2.0}]",
    "strategy": "continual: {student: resnet8, num_tasks: 2, strategies: [{name: a, replay: 3}]}",
    "model_recipe": "models: {net: {arch: resnet8, recipe: {epoch: 3}}}",
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_the_schema_sees_misspelt_keys_and_wrong_values(change, validator):
    assert validator.is_valid(LEAST)
    assert not validator.is_valid({**LEAST, **yaml.safe_load(change)})


@pytest.mark.parametrize("name", card_names())
def test_the_schema_takes_every_method(name, validator):
    entries = [name, {"method": name, "name": "mine", "recipe": {"epochs": 3}}]
    assert validator.is_valid({**LEAST, "methods": entries})
