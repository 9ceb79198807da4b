"""What changes the fingerprint of a step's code, and what does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

HELPERS = '''
LIMIT = 10
PROMPT = """Judge this:
{text}
Answer with a number."""

def clean(text):
    return text.strip()[:LIMIT]

class Base:
    def run(self, n):
        return n + 1
'''
STEPS = '''
import re
from helpers import PROMPT, Base, clean

THRESHOLD = 3
WORDS = {"alpha", "beta", "gamma"}

def make(scale):
    def inner(x):
        return x * scale
    return inner

scaled = make(2)

class Step(Base):
    """Judges."""

    weight = 5

    def process(self, inputs, offset=0):
        """Yield the rows."""
        def score(row):
            """Score one."""
            return self.run(row["n"]) * 7 + offset
        for row in inputs:
            row["text"] = clean(row["text"])
            if score(row) > THRESHOLD and row["text"] not in {"x", "y", "z"} | WORDS:
                row["prompt"] = PROMPT.format(**row)
                row["scaled"] = scaled(self.weight)
        yield inputs
'''

CHANGES = {
    "the body of a method": ("steps", "yield inputs", "yield list(inputs)", "Step.process"),
    "the body of a helper in another module": ("helpers", ".strip()", ".lstrip()", "clean"),
    "a constant in another module": ("helpers", "LIMIT = 10", "LIMIT = 11", "LIMIT"),
    "a prompt": ("helpers", "with a number", "with a word", "PROMPT"),
    "a closure value": ("steps", "make(2)", "make(3)", "make.inner.scale"),
    "a module constant": ("steps", "THRESHOLD = 3", "THRESHOLD = 3.0", "THRESHOLD"),
    "a default argument": ("steps", "offset=0", "offset=1", "Step.process"),
    "a constant in a nested function": ("steps", "* 7", "* 8", "Step.process"),
    "a class attribute": ("steps", "weight = 5", "weight = 6", "Step.weight"),
    "a method of a base class": ("helpers", "n + 1", "n + 2", "Base.run"),
    "a word in a set": ("steps", '"gamma"', '"delta"', "WORDS"),
    "a base class": ("steps", "class Step(Base)", "class Step(object, metaclass=type)", "Step"),
}


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_change_of_behaviour_changes_the_digest_and_is_named(project: Any, change: str) -> None:
    module, old, new, component = CHANGES[change]
    texts = {"helpers": HELPERS, "steps": STEPS}
    project.write(**texts)
    before = project.report("steps", "Step")["Step"]
    assert texts[module].count(old) == 1
    project.write(**{module: texts[module].replace(old, new)})
    after = project.report("steps", "Step")["Step"]
    assert before.digest != after.digest
    assert before.parts.get(component) != after.parts.get(component)
    if change != "a base class":
        assert [n for n in before.parts if before.parts[n] != after.parts[n]] == [component]
    assert before.uncacheable == after.uncacheable == []


def test_what_does_not_change_behaviour_changes_nothing(
    new_project: Callable[[], Any],
) -> None:
    one = new_project().write(helpers=HELPERS, steps=STEPS)
    expected = one.report("steps", "Step", PYTHONHASHSEED="1")["Step"]
    variants = {
        "another directory and hash seed": (STEPS, HELPERS),
        "comments and line shifts": (
            "# shifted\n\n\n" + STEPS.replace("yield inputs", "yield inputs  # all"),
            HELPERS + "\n# end\n",
        ),
        "white space": (
            STEPS.replace("    def process", "\n\n\n    def process").replace(
                'clean(row["text"])', "clean(\n                row[\n  'text']\n )"
            ),
            HELPERS.replace("text.strip()", "text . strip( )"),
        ),
        "docstrings": (
            STEPS.replace('"""Judges."""', "")
            .replace('"""Yield the rows."""', '"""Else."""')
            # A nested docstring moves every constant of its function.
            .replace('"""Score one."""', "'x'"),
            HELPERS.replace("def clean(text):", 'def clean(text):\n    "Now described."'),
        ),
        "annotations": (
            "from __future__ import annotations\n"
            + STEPS.replace("inputs, offset=0)", "inputs: list, offset: int = 0) -> None"),
            HELPERS,
        ),
        "the order of a set": (STEPS.replace('"x", "y", "z"', '"z", "y", "x"'), HELPERS),
        "unused code": (STEPS + "\ndef unused():\n    pass\n", HELPERS + "\nOTHER = 1\n"),
    }
    for name, (steps, helpers) in variants.items():
        other = new_project().write(helpers=helpers, steps=steps)
        found = other.report("steps", "Step", PYTHONHASHSEED="77")["Step"]
        assert found.parts == expected.parts, name
        assert found.digest == expected.digest, name


def test_moving_and_renaming_modules_changes_nothing(new_project: Callable[[], Any]) -> None:
    inline = "\ndef late(x):\n    from helpers import clean\n    return clean(x)\n"
    flat = new_project().write(helpers=HELPERS, steps=STEPS + inline)
    moved = new_project().write(
        app__in____init__="",
        app__in__text="from app.deep.texts import *\n",
        app__in__deep__in____init__="",
        app__in__deep__in__texts=HELPERS,
        app__in__judge=(STEPS + inline)
        .replace("from helpers", "from .deep.texts", 1)
        .replace("from helpers", "from app.deep.texts"),
    )
    before = flat.report("steps", "Step", "late")
    after = moved.report("app.judge", "Step", "late")
    for name in before:
        assert before[name].parts == after[name].parts
        assert before[name].digest == after[name].digest
    assert before["Step"].modules == ["helpers", "steps"]
    assert after["Step"].modules == ["app.deep.texts", "app.judge"]


def test_an_import_inside_a_function_follows_what_is_used_of_the_module(project: Any) -> None:
    steps = """
        def whole():
            import tools
            return dir(tools)
        def part():
            import tools as t
            return t.first()
        def deep():
            import pack.inner
            return pack.inner.value()
        def aliased():
            import pack.inner as i
            return i.value()
        def submodule():
            from pack import inner
            return inner.value()
        def captured():
            import tools
            return lambda: tools.first()
        def missing():
            try:
                import not_there_at_all
            except ImportError:
                return None
        def installed():
            import pydantic
            from numpy import linalg
            return pydantic, linalg
        def standard():
            import json.decoder
            return json.decoder
    """
    names = [
        "whole",
        "part",
        "deep",
        "aliased",
        "submodule",
        "captured",
        "missing",
        "installed",
        "standard",
    ]
    tools = "def first():\n    return 1\n\ndef second():\n    return 2\n"
    inner = "def value():\n    return 3\n"
    project.write(steps=steps, tools=tools, pack__in____init__="", pack__in__inner=inner)
    before = project.report("steps", *names)
    project.write(tools=tools.replace("2", "22"), pack__in__inner=inner.replace("3", "33"))
    after = project.report("steps", *names)
    changed = [name for name in names if before[name].digest != after[name].digest]
    assert changed == ["whole", "deep", "aliased", "submodule", "captured"]
    assert all(report.uncacheable == [] for report in before.values())
    assert {"distribution numpy", "distribution pydantic"} <= set(before["installed"].parts)


def test_an_import_that_fails_makes_the_step_uncacheable(project: Any) -> None:
    project.write(
        steps="def f():\n    import broken\n    return broken.x\n",
        broken="raise RuntimeError('no GPU here')\n",
    )
    [reason] = project.report("steps", "f")["f"].uncacheable
    assert "the import of broken inside a function failed (RuntimeError: no GPU here)" in reason


def test_a_relative_import_outside_of_a_package_is_only_missing(project: Any) -> None:
    project.write(steps="def f():\n    from . import other\n    return other\n")
    assert project.report("steps", "f")["f"].uncacheable == []


def test_a_module_used_through_its_attributes_counts_by_those(project: Any) -> None:
    steps = """
        import pack.tools as tools
        import pack
        def f(x):
            return tools.first(x) + pack.tools.LEVEL, tools.__name__, tools.absent
        def g():
            return vars(pack.tools)
    """
    tools = "LEVEL = 1\nOTHER = 2\ndef first(x):\n    return x\n"
    project.write(steps=steps, pack__in____init__="", pack__in__tools=tools)
    before = project.report("steps", "f", "g")
    project.write(pack__in__tools=tools.replace("2", "22"))
    other = project.report("steps", "f", "g")
    project.write(pack__in__tools=tools.replace("= 1", "= 11"))
    level = project.report("steps", "f", "g")
    assert before["f"].digest == other["f"].digest != level["f"].digest
    assert len({report["g"].digest for report in (before, other, level)}) == 3
    assert before["f"].modules == ["pack", "pack.tools", "steps"]


def test_another_version_of_a_distribution_or_of_python_is_named() -> None:
    import sys

    import pydantic

    from asyncdistil.signature import fingerprint

    class Model(pydantic.BaseModel):
        pass

    parts = fingerprint(Model).parts
    assert parts["distribution pydantic"] == pydantic.VERSION
    assert parts["python version"] == f"{sys.version_info[0]}.{sys.version_info[1]}"
