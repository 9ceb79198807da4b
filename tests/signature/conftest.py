from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

_REPORT = """
import importlib, json, sys
from asyncdistil.signature import fingerprint
module, names = sys.argv[1], sys.argv[2:]
found = importlib.import_module(module)
codes = {name: fingerprint(getattr(found, name)) for name in names}
print(json.dumps({name: [c.digest.hex(), c.parts, list(c.modules), list(c.uncacheable)]
                  for name, c in codes.items()}))
"""

# What a sender does; the name of the object and of the file to write are put in.
SEND = """
import cloudpickle as _cloudpickle, json as _json, sys as _sys
from asyncdistil.signature import fingerprint as _fingerprint
def _send(objects, path):
    _codes = {name: _fingerprint(obj) for name, obj in objects.items()}
    for module in {m for code in _codes.values() for m in code.modules}:
        _cloudpickle.register_pickle_by_value(_sys.modules[module])
    _digests = {name: code.digest.hex() for name, code in _codes.items()}
    _parts = {name: code.parts for name, code in _codes.items()}
    _reasons = {name: code.uncacheable for name, code in _codes.items()}
    _payloads = {name: _cloudpickle.dumps(obj).hex() for name, obj in objects.items()}
    with open(path, "w") as file:
        _json.dump([_digests, _parts, _reasons, _payloads, _sys.path], file)
"""

_RECEIVE = """
import json, pickle, sys
digests, parts, reasons, payloads, path = json.load(open(sys.argv[1]))
sys.path[:] = path
from asyncdistil.signature import fingerprint
found = {name: fingerprint(pickle.loads(bytes.fromhex(p))) for name, p in payloads.items()}
print(json.dumps({name: [c.digest.hex(), c.parts] for name, c in found.items()}))
"""


@dataclass
class Report:
    """What a fresh process says about one object."""

    digest: str
    parts: dict[str, str]
    modules: list[str]
    uncacheable: list[str]


def run(arguments: list[str], *, cwd: Path, environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        arguments,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass
class Project:
    """User code on disk, looked at by fresh processes."""

    root: Path
    sender: str = SEND

    def run(self, *arguments: str, **environment: str) -> str:
        return run([sys.executable, *arguments], cwd=self.root, environment=environment)

    def write(self, **modules: str) -> Project:
        for name, text in modules.items():
            path = self.root / (name.replace("__in__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text))
        return self

    def report(self, module: str, *names: str, **environment: str) -> dict[str, Report]:
        output = run(
            [sys.executable, "-c", _REPORT, module, *names],
            cwd=self.root,
            # Two versions of a file written within a second must not share a .pyc.
            environment={"PYTHONDONTWRITEBYTECODE": "1", **environment},
        )
        return {name: Report(*entry) for name, entry in json.loads(output).items()}

    def digest(self, module: str, name: str, **environment: str) -> str:
        return self.report(module, name, **environment)[name].digest

    def received(self, message: Path) -> dict[str, tuple[str, dict[str, str]]]:
        """What a process that knows only ``sys.path`` makes of what was sent."""
        output = run([sys.executable, "-P", "-c", _RECEIVE, str(message)], cwd=self.root)
        return {name: (digest, parts) for name, (digest, parts) in json.loads(output).items()}

    def assert_rebuilt_equal(self, message: Path) -> dict[str, Any]:
        """Rebuild what was sent and compare every part."""
        digests, parts, reasons, _, _ = json.loads(message.read_text())
        received = self.received(message)
        differing = {
            (name, part): (parts[name].get(part), entry[1].get(part))
            for name, entry in received.items()
            for part in {*parts[name], *entry[1]}
            if parts[name].get(part) != entry[1].get(part)
        }
        assert differing == {}
        assert {name: entry[0] for name, entry in received.items()} == digests
        return {"digests": digests, "parts": parts, "reasons": reasons}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def new_project(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Project]:
    return lambda: Project(tmp_path_factory.mktemp("project"))
