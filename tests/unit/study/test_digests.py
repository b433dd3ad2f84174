"""Digests see code and nothing else, and follow imports."""

import ast

import pytest

from kd.study import digests

FUNCTION = "def f(a, b=2):\n    {}\n    return a"


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """A folder of sources of its own."""
    monkeypatch.setattr(digests, "SCRIPTS", tmp_path)
    digests.forget()
    yield tmp_path
    digests.forget()


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
        # log lines, and what stands there for them alone
        (FUNCTION.format('log.info("%d", a)'), FUNCTION.format('log.warning("now %d", b)'), True),
        (FUNCTION.format('log.info("%d", a)'), FUNCTION.format("pass").replace("    pass\n", ""), True),
        (FUNCTION.format("if a > 1:\n        log.info(a)"), "def f(a, b=2):\n    return a", True),
        (FUNCTION.format("if g(a):\n        log.info(a)"), "def f(a, b=2):\n    return a", False),
        (FUNCTION.format("if a > 1:\n        log.info(a)\n        a = 1"), "def f(a, b=2):\n    return a", False),
        ("import logging\nlog = logging.getLogger(__name__)\nx = 1", "x = 1", True),
        ("values.log(1)", "values.log(2)", False),
        ("x = log.info(1)", "x = log.info(2)", False),
        ("math.log(2)", "math.log(3)", False),
        # texts of errors
        (FUNCTION.format('raise UserError("no")'), FUNCTION.format('raise UserError(f"no: {a}")'), True),
        (FUNCTION.format('raise UserError(told("no", a))'), FUNCTION.format('raise UserError(told("none", a))'), True),
        (FUNCTION.format('raise UserError("no")'), FUNCTION.format('raise ValueError("no")'), False),
        (FUNCTION.format('b = DivergenceError("no")'), FUNCTION.format('b = DivergenceError("not")'), True),
        (FUNCTION.format('b = Mean("no")'), FUNCTION.format('b = Mean("not")'), False),
        (FUNCTION.format('b = nn.MeanError("no")'), FUNCTION.format('b = nn.MeanError("not")'), False),
        (FUNCTION.format('assert a, "no"'), FUNCTION.format('assert a, "not"'), True),
        (FUNCTION.format("assert a"), FUNCTION.format("assert b"), False),
        # help of a command line
        ('p.add_argument("--a", help="what")', 'p.add_argument("--a", help="why")', True),
        ('p.add_argument("--a", default=1)', 'p.add_argument("--a", default=2)', False),
        # what only type checkers read
        ("if TYPE_CHECKING:\n    from kd.engine.jobs import one\nx = 1", "x = 1", True),
        ("if typing.TYPE_CHECKING:\n    x = 2\nelse:\n    x = 1", "x = 1", True),
        ("if TYPE:\n    x = 2\nelse:\n    x = 1", "x = 1", False),
    ],
)
def test_what_counts(scripts, first, second, same):
    (scripts / "one.py").write_text(first, encoding="utf-8")
    (scripts / "two.py").write_text(second, encoding="utf-8")
    ast.parse(first)
    ast.parse(second)
    assert (digests.module_digest("one") == digests.module_digest("two")) is same


def test_what_only_a_type_checker_imports_is_not_followed(scripts):
    (scripts / "one.py").write_text("if TYPE_CHECKING:\n    import two\nelse:\n    import three", encoding="utf-8")
    for name in ("two", "three"):
        (scripts / f"{name}.py").write_text("", encoding="utf-8")
    assert digests.closure(frozenset({"one"})) == ("one", "three")


def test_native_code_of_a_module_counts(scripts):
    (scripts / "native.py").write_text("x = 1", encoding="utf-8")
    found = []
    for source in ("int a = 1;", "int a = 2;"):
        digests.forget()
        (scripts / "native.c").write_text(source, encoding="utf-8")
        found.append(digests.module_digest("native"))
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
