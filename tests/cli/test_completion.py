"""Tab, as bash asks for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from asyncdistil.log import Store, label_store

COMMAND = Path(sys.executable).with_name("asyncdistil")


def completed(cache: Path, typed: str) -> list[str]:
    done = subprocess.run(
        [COMMAND],
        env={
            **os.environ,
            "ASYNCDISTIL_CACHE_DIR": str(cache),
            "_ASYNCDISTIL_COMPLETE": "complete_bash",
            "COMP_WORDS": typed,
            "COMP_CWORD": str(typed.count(" ")),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_commands_and_options_are_offered(tmp_path: Path) -> None:
    assert set(completed(tmp_path, "asyncdistil re")) == {"report", "retry"}
    assert "--json" in completed(tmp_path, "asyncdistil plan --j")


@pytest.mark.parametrize("command", ["report", "inspect", "failures", "cache show"])
def test_names_of_stored_pipelines_are_offered(command: str, tmp_path: Path) -> None:
    for name in ("questions", "quarrels", "answers", "que\x1b[31mer"):
        store = Store.open(tmp_path, name, mode="process")
        label_store(store.root, name)
        store.close(clean=True)
    assert set(completed(tmp_path, f"asyncdistil {command} qu")) == {"questions", "quarrels"}


def test_a_cache_directory_that_cannot_be_read_offers_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert completed(tmp_path / "file", "asyncdistil report q") == []
