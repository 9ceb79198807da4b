"""Whole runs with real workers: what they called is read from a file that the steps append to.

The steps of these tests find the file by an environment variable, which is in no key.
"""

from __future__ import annotations

import fcntl
import gc
import importlib.util
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

CALLS = "ASYNCDISTIL_TEST_CALLS"
_STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "socket.sendmsg"}
"""Audit events of a start; descriptors sent to another process are an order to fork."""


class Journal:
    """What steps noted: one JSON line ``[step, [row numbers]]`` per call of ``process``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen = 0

    def calls(self) -> list[tuple[str, list[Any]]]:
        """Calls since the last look, in the order in which they were noted."""
        text = self.path.read_text() if self.path.exists() else ""
        fresh, self._seen = text[self._seen :], len(text)
        return [tuple(json.loads(line)) for line in fresh.splitlines()]

    def clear(self) -> None:
        """Empty the file, for a step that waits until another was called."""
        self.path.write_text("")
        self._seen = 0

    def rows(self) -> dict[str, list[Any]]:
        """Per step, the rows it was called with since the last look, sorted."""
        found: dict[str, list[Any]] = {}
        for step, numbers in self.calls():
            found.setdefault(step, []).extend(numbers)
        return {step: sorted(numbers) for step, numbers in found.items()}


class Starts:
    """Processes that this one started or had started, of whatever kind."""

    def __init__(self) -> None:
        self.count = 0
        sys.addaudithook(self._heard)

    def _heard(self, event: str, _: tuple[Any, ...]) -> None:
        if event in _STARTS:
            self.count += 1

    def take(self) -> int:
        """How many since the last look."""
        count, self.count = self.count, 0
        return count


@pytest.fixture(scope="session")
def _starts() -> Starts:
    return Starts()


@pytest.fixture
def starts(_starts: Starts) -> Starts:
    _starts.take()
    return _starts


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    path = tmp_path / "calls"
    monkeypatch.setenv(CALLS, str(path))
    return Journal(path)


@pytest.fixture
def load_module(tmp_path: Path) -> Iterator[Callable[..., ModuleType]]:
    """Write a source file and import it; a module of the same name is replaced."""
    loaded: list[str] = []

    def load(source: str, *, name: str = "user_steps", folder: str = "code") -> ModuleType:
        path = tmp_path / folder / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        loaded.append(name)
        # Not through the byte-code cache, which tells versions apart by whole seconds only.
        exec(compile(source, str(path), "exec"), module.__dict__)
        return module

    yield load
    for name in loaded:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module", autouse=True)
def _what_was_there_before() -> None:
    """Keep it out of the collections that follow each test: they take longer than most tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_left_behind(tmp_path: Path, journal: Journal) -> Iterator[None]:
    """No process, no thread, no lock, no temporary file, no descriptor outlives a run."""
    before = set(threading.enumerate())
    yield
    mine = [
        process.cmdline()
        for process in psutil.process_iter()
        if process.pid != os.getpid() and _environment(process).get(CALLS) == str(journal.path)
    ]
    # ``datasets`` brings a resource tracker, which ends with the process that started it.
    mine = [words for words in mine if not any("resource_tracker" in word for word in words)]
    assert mine == []
    # Models that tests use outside of workers share one loop thread, for the life of the process.
    since = [t.name for t in threading.enumerate() if t not in before]
    assert [n for n in since if n.startswith("asyncdistil") and n != "asyncdistil-models"] == []
    for lock in tmp_path.rglob("LOCK"):
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert [p for p in tmp_path.rglob("*") if p.suffix in {".tmp", ".part", ".partial"}] == []
    gc.collect()
    held = [path for path in _open_files() if str(tmp_path) in path]
    assert [path for path in held if not path.endswith(".arrow")] == []


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def _open_files() -> Iterator[str]:
    for number in os.listdir("/proc/self/fd"):
        try:
            yield os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
