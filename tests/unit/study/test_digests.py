"""Digests see code and nothing else, and follow imports."""

import ast

import pytest

from kd.study import digests


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("x = 1", "x = 1  # why", True),
        ("x = 1", "x=1", True),
        ('def f():\n    """Says."""\n    return 1', 'def f():\n    """Says more."""\n    return 1', True),
        ('class A:\n    a: int = 1\n    """What a is."""', "class A:\n    a: int = 1", True),
        ("x = 1", "x = 2", False),
        ('x = "text"', 'x = "other"', False),
        ("def f(a=1): return a", "def f(a=2): return a", False),
    ],
)
def test_what_counts(tmp_path, monkeypatch, first, second, same):
    monkeypatch.setattr(digests, "SCRIPTS", tmp_path)
    digests._parsed.cache_clear()
    (tmp_path / "one.py").write_text(first, encoding="utf-8")
    (tmp_path / "two.py").write_text(second, encoding="utf-8")
    ast.parse(first)
    assert (digests.module_digest("one") == digests.module_digest("two")) is same


def test_native_code_of_a_module_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "SCRIPTS", tmp_path)
    (tmp_path / "native.py").write_text("x = 1", encoding="utf-8")
    found = []
    for source in ("int a = 1;", "int a = 2;"):
        digests._parsed.cache_clear()
        (tmp_path / "native.c").write_text(source, encoding="utf-8")
        found.append(digests.module_digest("native"))
    digests._parsed.cache_clear()
    assert found[0] != found[1]


def test_closure_follows_every_import():
    modules = digests.closure(frozenset({"train_student"}))
    assert {"kd.engine.training", "kd.methods.contract", "kd.models.build", "kd.data.store"} <= set(modules)
    assert not any(name.startswith(("kd.schema", "kd.study", "kd.console", "kd.reporting")) for name in modules)
    assert "kd.methods.crd" not in modules, "methods are resolved by name, so that none makes another stale"
    assert "kd.models.vgg" not in modules
    assert not any(name.startswith("kd.asib") for name in modules)


def test_canonical_text_is_one():
    assert digests.canonical({"b": 1, "a": [1.5, None]}) == '{"a":[1.5,null],"b":1}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        digests.canonical(float("nan"))
