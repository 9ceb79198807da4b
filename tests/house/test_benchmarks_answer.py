"""The benchmarks ask one question a file, check what they measure, and never invent a figure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the runtime needs POSIX")


def benchmarks(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "ASYNCDISTIL_BENCHMARKS_DIR": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_question_is_one_and_has_a_name_of_its_own(tmp_path: Path) -> None:
    listed = benchmarks("--list", home=tmp_path)
    assert listed.returncode == 0, listed.stderr
    asked = dict(line.split(maxsplit=1) for line in listed.stdout.splitlines())
    assert {"chain", "cpu_bound", "killed_half_way", "one_row"} <= set(asked)
    assert all(question.endswith("?") for question in asked.values())
    assert len(set(asked.values())) == len(asked)


def test_a_fast_run_measures_our_column_and_the_floor(tmp_path: Path) -> None:
    run = benchmarks("--fast", "chain", "--output", str(tmp_path / "results"), home=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    (path,) = (tmp_path / "results").glob("*.json")
    results: dict[str, Any] = json.loads(path.read_text())
    (question,) = results["questions"]
    (case,) = question["cases"]
    assert set(case["columns"]) == {"ours", "floor"}
    assert all(len(column["samples"]) == 1 for column in case["columns"].values())
    assert {"commit", "machine", "kernel", "python", "loop", "disk", "sync_mode"} <= set(
        results["environment"]
    )
    assert "| 500 rows: seconds |" in run.stdout


def test_a_rival_that_cannot_be_installed_is_said_so_and_has_no_figure(tmp_path: Path) -> None:
    # A file where the environments belong: no rival can be installed, whatever the network does.
    (tmp_path / "environments").write_text("")
    run = benchmarks(
        *("--fast", "one_row", "--rivals", "all", "--output", str(tmp_path / "results")),
        home=tmp_path,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (path,) = (tmp_path / "results").glob("*.json")
    columns = json.loads(path.read_text())["questions"][0]["cases"][0]["columns"]
    assert columns["distilabel"]["samples"] == []
    assert columns["distilabel"]["note"].startswith("not installed: ")
