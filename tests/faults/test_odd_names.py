"""Whole runs of pipelines and steps with names that would be trouble as paths."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.errors import AsyncDistilError
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import KeepColumns, LoadDataFromDicts

SCRIPT = """
import sys
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import KeepColumns, LoadDataFromDicts

cache, *names = sys.argv[1:]
for pipeline_name, step_name in zip(names[::2], names[1::2], strict=True):
    with Pipeline(name=pipeline_name, cache_dir=cache) as pipeline:
        load = LoadDataFromDicts(data=[{"x": x} for x in range(5)])
        load >> KeepColumns(name=step_name, columns=["x"])
    distiset = pipeline.run()
    assert [row["x"] for row in next(iter(distiset.values()))["train"]] == list(range(5))
"""
TRAVERSAL = "../../x"
# The system passes no longer argument; 10,000 characters fit.
LONG = "x" * 10_000


NAMES = {TRAVERSAL: "keep", LONG: LONG, "/etc/passwd": "-"}
"""Pipelines, each with one of its steps; all are run in one process, which is most of the time."""


def test_a_run_writes_into_its_cache_only_whatever_it_is_called(tmp_path: Path) -> None:
    top = tmp_path / "a" / "b" / "c"
    top.mkdir(parents=True)
    names = [name for pair in NAMES.items() for name in pair]
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(top / "cache"), *names],
        check=True,
        cwd=top,
        timeout=180,
    )
    assert len(list((top / "cache" / "pipelines").iterdir())) == len(NAMES)
    outside = [p for p in tmp_path.rglob("*") if p.is_file() and top / "cache" not in p.parents]
    assert outside == []
    assert not any(len(part) > 64 for path in tmp_path.rglob("*") for part in path.parts)


@pytest.mark.parametrize("name", ["", "\ud800", "a\0b"])
def test_a_pipeline_name_that_nobody_can_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(AsyncDistilError, match="name"):
        Pipeline(name=name, cache_dir=tmp_path)


@pytest.mark.parametrize("name", [TRAVERSAL, "\ud800", "a\0b", "a b"])
def test_a_step_name_with_other_than_plain_characters_is_refused(name: str) -> None:
    options: dict[str, Any] = {"data": [{"x": 1}]}
    with pytest.raises(ValueError, match="name"):
        LoadDataFromDicts(name=name, **options)
    with pytest.raises(ValueError, match="name"):
        KeepColumns(name=name, columns=["x"])
