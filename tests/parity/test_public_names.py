"""Every public name of distilabel 1.5.3 is found here or says what to write; ``tox -e parity``."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from asyncdistil.compat.table import ABSENT, HOME, MODULES

pytestmark = pytest.mark.skipif(
    find_spec("distilabel") is None, reason="distilabel is not installed: tox -e parity"
)

PUBLIC = """
import importlib, json, pkgutil, warnings
import distilabel

warnings.simplefilter("ignore")
found = {}
for module in pkgutil.walk_packages(distilabel.__path__, "distilabel."):
    if module.name.endswith("__main__") or ".cli" in module.name or ".mkdocs" in module.name:
        continue
    names = getattr(importlib.import_module(module.name), "__all__", ())
    if names:
        found[module.name.removeprefix("distilabel.")] = sorted(set(names))
print(json.dumps(found))
"""


def public() -> dict[str, Any]:
    """What its modules list in ``__all__``, asked of itself in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PUBLIC], capture_output=True, text=True, timeout=100, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_every_public_name_is_in_the_table() -> None:
    found = public()
    assert {"steps", "steps.tasks", "models", "pipeline", "typing"} <= found.keys()
    missing = {
        module: [name for name in names if name not in MODULES.get(module, ())]
        for module, names in found.items()
    }
    assert {module: names for module, names in missing.items() if names} == {}


def test_steps_tasks_and_models_are_carried_over_but_for_a_few() -> None:
    found = public()
    names = {name for module in ("steps", "steps.tasks", "models") for name in found[module]}
    assert names - HOME.keys() <= ABSENT.keys()
    assert len(names & HOME.keys()) > 0.9 * len(names)
