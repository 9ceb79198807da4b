from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
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
def invoke_here(command_here: Invoke, environment: dict[str, str]) -> Invoke:
    """The same in this process, for commands that run nobody's script."""
    return partial(command_here, Path(environment["ASYNCDISTIL_CACHE_DIR"]))
