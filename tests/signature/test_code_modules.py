"""Modules and imports inside functions, followed in this very process."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.signature import fingerprint

STEPS = """
    import json
    import sig_pack
    import sig_pack.tools as tools
    import sig_tools

    def chain(x):
        return sig_pack.tools.first(x), tools.LEVEL, tools.__name__, tools.absent, json.loads

    def whole():
        return vars(sig_tools)

    def late():
        import sig_late
        from sig_pack import deep
        from . import nothing
        import sig_absent
        import pydantic
        return sig_late.value(), deep.value(), pydantic.VERSION

    def twice():
        import sig_tools
        from sig_tools import OTHER
        return sig_tools.first(1), undefined_anywhere, __file__

    def broken():
        import sig_broken
        return sig_broken.x
"""
MODULES = {
    "sig_steps": STEPS,
    "sig_tools": "LEVEL = 1\nOTHER = 2\nimport json\ndef first(x):\n    return x\n",
    "sig_late": "def value():\n    return 3\n",
    "sig_broken": "raise RuntimeError('no GPU here')\n",
    "sig_pack__in____init__": "",
    "sig_pack__in__tools": "LEVEL = 1\ndef first(x):\n    return x\n",
    "sig_pack__in__deep": (
        "def value():\n    return 4\n\ndef near():\n    from .tools import first\n"
        "    return first\n"
    ),
}


@pytest.fixture
def steps(project: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    project.write(**MODULES)
    monkeypatch.syspath_prepend(str(project.root))
    before = set(sys.modules)
    yield importlib.import_module("sig_steps")
    for name in set(sys.modules) - before:
        if name.startswith("sig_"):
            del sys.modules[name]


def test_chains_lead_through_modules_to_what_is_used(steps: Any) -> None:
    code = fingerprint(steps.chain)
    assert {"chain", "first", "LEVEL"} <= set(code.parts)
    assert "OTHER" not in code.parts
    assert code.modules == ("sig_pack", "sig_pack.tools", "sig_steps")
    assert code.uncacheable == ()
    ignoring = fingerprint(steps.chain, ignore={"sig_pack.tools.LEVEL"})
    assert "LEVEL" not in ignoring.parts


def test_a_module_used_as_a_whole_counts_as_a_whole(steps: Any) -> None:
    code = fingerprint(steps.whole)
    assert {"module", "LEVEL", "OTHER", "first"} <= set(code.parts)
    before = code.digest
    steps.sig_tools.OTHER = 3
    assert fingerprint(steps.whole).digest != before
    assert fingerprint(steps.whole, ignore={"sig_tools"}).parts.keys() & {"module"} == set()


def test_a_late_import_counts_the_same_before_and_after_it_ran(steps: Any) -> None:
    assert "sig_late" not in sys.modules
    before = fingerprint(steps.late)
    assert "sig_late" in sys.modules
    assert "sig_pack.deep" in sys.modules
    assert fingerprint(steps.late).digest == before.digest
    assert before.uncacheable == ()
    assert {"value", "value#2", "distribution pydantic"} <= set(before.parts)
    ignoring = fingerprint(steps.late, ignore={"sig_late", "sig_pack"})
    assert "value" not in ignoring.parts


def test_a_relative_import_is_resolved_in_its_package(steps: Any) -> None:
    near = importlib.import_module("sig_pack.deep").near
    assert "first" in fingerprint(near).parts
    assert fingerprint(near).uncacheable == ()


def test_equal_ways_to_one_function_make_one_part(steps: Any) -> None:
    parts = fingerprint(steps.twice).parts
    assert "first" in parts
    assert "first#2" not in parts


def test_an_import_that_fails_is_a_reason_and_can_be_left_out(steps: Any) -> None:
    [reason] = fingerprint(steps.broken).uncacheable
    assert "the import of sig_broken inside a function failed (RuntimeError: no GPU" in reason
    assert fingerprint(steps.broken, ignore={"sig_broken"}).uncacheable == ()


def test_a_function_whose_globals_come_from_nowhere_has_no_package() -> None:
    namespace: dict[str, Any] = {"__name__": "nowhere"}
    exec("def f():\n    from . import x\n    return x\n", namespace)
    assert fingerprint(namespace["f"]).uncacheable == ()


def test_importing_a_name_a_package_lacks_is_left_to_the_call(steps: Any, tmp_path: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "nowhere"}
    exec("def f():\n    from sig_pack import lacking\n    return lacking\n", namespace)
    function: Callable[[], Any] = namespace["f"]
    assert fingerprint(function).uncacheable == ()


def test_a_module_that_answers_for_missing_names_counts_by_its_answer(
    project: Any,
) -> None:
    text = "import lazy\ndef use():\n    return lazy.LIMIT\n"
    digests = {
        project.write(uses=text, lazy=f"def __getattr__(name):\n    return {limit}\n").digest(
            "uses", "use"
        )
        for limit in (1, 2)
    }
    assert len(digests) == 2
