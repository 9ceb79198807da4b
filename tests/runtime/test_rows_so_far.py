"""What a run has made is there to be seen while it goes on, and after it was stopped."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from asyncdistil.cli import inspected
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromDicts, RowStep, Step, StepInput
from asyncdistil.supervisor.stored_run import UnknownRun
from asyncdistil.typing import StepOutput


class Odd(RowStep):
    """Fails on odd rows."""

    @property
    def outputs(self) -> list[str]:
        return ["half"]

    def transform(self, row: dict[str, Any]) -> dict[str, Any]:
        if row["n"] % 2:
            raise ValueError("odd")
        return row | {"half": row["n"] // 2}


class Gate(Step):
    """Waits at its second batch until there is a byte in a pipe."""

    path: str

    def process(self, inputs: StepInput) -> StepOutput:
        if inputs[0]["n"] >= 4:
            with open(self.path, "rb", buffering=0) as pipe:
                pipe.read(1)
        yield [row | {"seen": True} for row in inputs]


def gated(cache: Path, gate: Path) -> Pipeline:
    with Pipeline("gated", cache_dir=cache) as pipeline:
        load = LoadDataFromDicts(name="load", data=[{"n": n} for n in range(8)], batch_size=4)
        load >> [
            Odd(name="odd", on_error="skip"),
            Gate(name="gate", path=str(gate), input_batch_size=4),
        ]
    return pipeline


LOOK = """
import json, sys
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromDicts, Map
with Pipeline("gated", cache_dir=sys.argv[1]) as pipeline:
    load = LoadDataFromDicts(name="load", data=[{"n": 0}])
    load >> [Map(name="odd", function=lambda row: row), Map(name="gate", function=lambda row: row)]
made = pipeline.partial()
rows = made.table("gate").to_pylist()
print(json.dumps([made.partial, rows, made.report["steps"]["gate"]["rows"]]))
"""


class Latch:
    """The other end of the pipe."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        # For reading too: so neither end waits for the other to be opened.
        self.number = os.open(path, os.O_RDWR)

    def let_go(self) -> None:
        os.write(self.number, b"1")


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Latch]:
    latch = Latch(tmp_path / "gate")
    yield latch
    os.close(latch.number)


def test_rows_are_seen_while_the_run_goes_on(
    cache: Path, gate: Latch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pipeline = gated(cache, gate.path)
    first = [{"n": n, "seen": True} for n in range(4)]
    halves = [{"n": n, "half": n // 2} for n in (0, 2, 4, 6)]

    def shown(*, step: str | None = "gate", **options: Any) -> Any:
        given = {"head": None, "sample": None, "schema": False, "where": None, "to": None}
        inspected.inspect("gated", step, cache, **(given | options), as_json=True)
        return json.loads(capfd.readouterr().out)

    async def watched() -> None:
        stream = pipeline.astream()
        with pytest.raises(UnknownRun, match="has not begun"):
            stream.partial()
        seen: dict[str, list[Any]] = {"odd": [], "gate": []}
        while (len(seen["odd"]), len(seen["gate"])) != (4, 4):
            batch = await anext(stream)
            seen[batch.step] += batch

        for made in (stream.partial(), await asyncio.to_thread(pipeline.partial)):
            assert made.partial
            assert "has not ended" in repr(made)
            assert made.table("gate").to_pylist() == first == seen["gate"]
            assert made.table("odd").to_pylist() == halves == seen["odd"]
            assert made.failures == {"odd": 4}
        look = [sys.executable, "-c", LOOK, str(cache)]
        elsewhere = await asyncio.to_thread(subprocess.run, look, capture_output=True, check=True)
        assert json.loads(elsewhere.stdout) == [True, first, 4]

        capfd.readouterr()
        assert [s["rows"] for s in shown(step=None)["steps"]] == [8, 8, 4]
        assert shown() == first
        assert shown(head=2) == first[:2]
        assert shown(sample=2) == shown(sample=2)
        assert len(shown(sample=2)) == 2
        assert shown(schema=True)["columns"] == {"n": {"int": 4}, "seen": {"bool": 4}}
        assert shown(where="n > 1 and seen") == first[2:]
        assert [row["n"] for row in shown(step="odd", where="failed")] == [1, 3, 5, 7]
        assert shown(to=tmp_path / "rows.parquet")["rows"] == 4
        assert pq.read_table(tmp_path / "rows.parquet").to_pylist() == first

        gate.let_go()
        assert [row async for batch in stream for row in batch] == [
            {"n": n, "seen": True} for n in range(4, 8)
        ]
        whole = stream.partial()
        assert not whole.partial
        assert stream.distiset is not None
        assert whole.table("gate").to_pylist() == stream.distiset.table("gate").to_pylist()
        assert whole.table("odd").to_pylist() == stream.distiset.table("odd").to_pylist()

    asyncio.run(watched())


def test_rows_of_a_stopped_run_are_kept_for_the_eye_too(
    cache: Path, gate: Latch, tmp_path: Path
) -> None:
    pipeline = gated(cache, gate.path)
    with pytest.raises(UnknownRun, match="run the pipeline first"):
        pipeline.partial()

    async def stopped() -> None:
        stream = pipeline.astream()
        while (await anext(stream)).step != "gate":
            pass
        closing = asyncio.create_task(stream.aclose())
        gate.let_go()
        await closing

    asyncio.run(stopped())
    made = pipeline.partial()
    assert made.partial
    assert made.table("gate").num_rows in (4, 8)
    # A last step that has no row yet has its columns all the same.
    assert set(made.table("odd").column_names) == {"n", "half"}
    made.save_to_disk(tmp_path / "saved")
    assert "had not ended" in (tmp_path / "saved/distiset_configs/README.md").read_text()
