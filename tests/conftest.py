"""How every test in this tree is run."""

from __future__ import annotations

import gc
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings

_PATIENCE_SECONDS = 60.0

# How long an example takes says how busy the machine is, and nothing about a promise.
settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("untimed")

# umap takes 25 s to compile what it then does in a hundredth of one; for the few points of tests
# it is interpreted. Read when numba is first imported.
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")


def pytest_collection_finish() -> None:
    """Keep what is there before the first test out of each later collection, and of each fork."""
    gc.collect()
    gc.freeze()


def _children() -> set[psutil.Process]:
    """Processes below this one; a single system call where there are none, as nearly always."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return set()
    # ``datasets`` brings a resource tracker, which ends with the process that started it.
    return {
        child
        for child in psutil.Process().children(recursive=True)
        if not any("resource_tracker" in word for word in child.cmdline())
    }


@pytest.fixture(autouse=True)
def _no_process_left() -> Iterator[None]:
    """No test leaves a process behind; what was there before it is not its own."""
    before = _children()
    yield
    left = _children() - before
    if left:
        # One that was told to end may take a moment.
        _, alive = psutil.wait_procs(left, timeout=_PATIENCE_SECONDS)
        assert not alive, f"left behind: {[(p.pid, p.cmdline()) for p in alive]}"


@pytest.fixture
def command_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command on a cache in this process: for those that look at it or tidy it.

    What they print is the same and costs no start of an interpreter; a command that runs
    somebody's script gets a process of its own.
    """
    from asyncdistil.cli.app import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("TERM", "dumb")

    def run(cache: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        monkeypatch.setenv("ASYNCDISTIL_CACHE_DIR", str(cache))
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            app([str(argument) for argument in arguments])
        code = ended.value.code
        assert code is None or isinstance(code, int)
        return subprocess.CompletedProcess(arguments, code or 0, *capfd.readouterr())

    return run
