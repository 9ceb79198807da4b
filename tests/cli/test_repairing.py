"""`asyncdistil cache repair`: a store that is refused, mended, and run again."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.errors import CorruptRecord
from asyncdistil.log import StoreReader
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromDicts, StepInput, StepOutput, step

Invoke = Callable[..., "subprocess.CompletedProcess[str]"]


@step(inputs=["n"], outputs=["m"])
def twice(inputs: StepInput) -> StepOutput:
    for row in inputs:
        row["m"] = row["n"] * 2
    yield inputs


def pipeline(cache: Path) -> Pipeline:
    with Pipeline("numbers", cache_dir=cache) as made:
        load = LoadDataFromDicts(name="load", data=[{"n": n} for n in range(200)], batch_size=50)
        load >> twice(name="twice", input_batch_size=50)
    return made


def asked(invoke: Invoke, *arguments: str) -> dict[str, Any]:
    done = invoke(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_after_a_repair_the_run_computes_just_what_was_lost(
    invoke_here: Invoke, environment: dict[str, str]
) -> None:
    cache = Path(environment["ASYNCDISTIL_CACHE_DIR"])
    expected = pipeline(cache).run()["default"]["train"]["m"]
    reader = StoreReader.open(cache, "numbers")
    assert reader is not None
    rows = reader.reader()
    for lineage, defined in reader.step_defs().items():
        (ref,) = reader.commits(lineage)[1 if defined.step == "load" else 2][1].outputs
        path = rows.path(ref.segment)
        image = bytearray(path.read_bytes())
        image[ref.offset + ref.length // 2] ^= 1
        path.write_bytes(image)
    rows.close()
    reader.close()
    for dataset in cache.rglob("*.arrow"):
        dataset.unlink()
    with pytest.raises(CorruptRecord, match="cache repair"):
        pipeline(cache).run()

    before = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    foreseen = asked(invoke_here, "cache", "repair", "--dry-run")["pipelines"][0]
    after = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    assert before == after
    assert sorted(one["step"] for one in foreseen["batches_lost"]) == ["load", "twice"]
    told = invoke_here("cache", "repair", "numbers")
    assert told.returncode == 0
    assert "rows to compute again" in told.stdout
    assert invoke_here("cache", "verify", "numbers").returncode == 0

    again = pipeline(cache).run()
    assert again["default"]["train"]["m"] == expected
    steps = again.report["steps"]
    # The loader goes on behind its last whole row: what it then yields is compared by content.
    assert steps["load"]["rows_replayed"] == 50
    assert steps["twice"]["inputs_computed"] == 50
    assert asked(invoke_here, "cache", "repair")["pipelines"][0]["sound"]
