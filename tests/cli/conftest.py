from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("asyncdistil")

Invoke = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    return {**kept, "ASYNCDISTIL_CACHE_DIR": str(tmp_path / "cache"), "TERM": "dumb"}


@pytest.fixture
def invoke(tmp_path: Path, environment: dict[str, str]) -> Invoke:
    """Run the command in an empty directory, as a shell would."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COMMAND, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    return run


@pytest.fixture
def invoke_here(
    tmp_path: Path,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Invoke:
    """Run the command in this process: for those that look at a cache or tidy it.

    What they print is the same and costs no start of an interpreter; a command that runs
    somebody's script gets a process of its own.
    """
    from asyncdistil.cli.app import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    for name in ("ASYNCDISTIL_CACHE_DIR", "TERM"):
        monkeypatch.setenv(name, environment[name])

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            app([str(argument) for argument in arguments])
        code = ended.value.code
        assert code is None or isinstance(code, int)
        return subprocess.CompletedProcess(arguments, code or 0, *capfd.readouterr())

    return run
