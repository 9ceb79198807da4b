"""Memory that runs out in a worker, and rows so large that it might."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.codec import rows as codec_rows
from asyncdistil.distiset import Distiset
from asyncdistil.errors import StepError, WorkerLoadFailed
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import GeneratorStep, LoadDataFromDicts, Step, StepInput
from asyncdistil.typing import StepOutput

ROWS = 20
BAD = 7
LIMIT_BYTES = 256 << 20
MORE_BYTES = 1 << 30


def limit_memory() -> None:
    """Let this process have little more address space than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def too_much() -> bytes:
    return bytes(MORE_BYTES)


class Hungry(Step):
    """Wants more than there is for one row; or while it loads, unless it was mended since."""

    @property
    def outputs(self) -> list[str]:
        return ["y", "worker"]

    def load(self) -> None:
        super().load()
        limit_memory()
        if os.environ.get("LOAD_TOO_MUCH"):
            too_much()

    def process(self, inputs: StepInput) -> StepOutput:
        for row in inputs:
            row["y"] = len(too_much()) if row["x"] == BAD else row["x"]
            row["worker"] = os.getpid()
        yield inputs


class HungryCalls(Hungry):
    """As `Hungry`, row by row on a loop."""

    row_wise: bool = True

    async def aprocess(self, row: dict[str, Any]) -> dict[str, Any]:
        size = len(too_much()) if row["x"] == BAD else row["x"]
        return row | {"y": size, "worker": os.getpid()}

    process = Step.process


def run(cache: Path, step: type[Step], **options: Any) -> Distiset:
    with Pipeline("memory", cache_dir=cache) as pipeline:
        load = LoadDataFromDicts(name="load", data=[{"x": x} for x in range(ROWS)])
        load >> step(name="step", **options)
    return pipeline.run()


def rows_of(distiset: Distiset) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = distiset.table("default").to_pylist()
    return rows


def failures(distiset: Distiset, step: str) -> list[dict[str, Any]]:
    assert distiset.report is not None
    found: list[dict[str, Any]] = distiset.report["steps"][step]["failures"]
    return found


@pytest.mark.parametrize(
    ("step", "row_wise"),
    [(Hungry, True), (Hungry, False), (HungryCalls, True)],
    ids=["row-wise", "batch-wise", "aprocess"],
)
def test_a_row_that_needs_more_memory_than_there_is_fails_alone(
    tmp_path: Path, step: type[Step], row_wise: bool
) -> None:
    distiset = run(tmp_path, step, row_wise=row_wise)
    rows = rows_of(distiset)
    assert [row["y"] for row in rows] == [None if x == BAD else x for x in range(ROWS)]
    # The worker lives on, and what it did before and after is kept.
    assert len({row["worker"] for row in rows if row["y"] is not None}) == 1
    (failure,) = failures(distiset, "step")
    assert (failure["row"][0], failure["kind"]) == (BAD, "MemoryError")


def test_memory_that_runs_out_while_a_step_loads_stops_the_run_until_it_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOAD_TOO_MUCH", "1")
    with pytest.raises(WorkerLoadFailed, match=r"(?s)'step'.*MemoryError"):
        run(tmp_path, Hungry)
    monkeypatch.delenv("LOAD_TOO_MUCH")
    distiset = run(tmp_path, Hungry)
    assert len(rows_of(distiset)) == ROWS
    assert distiset.report is not None
    assert distiset.report["resumed"]


# --- large rows -------------------------------------------------------------------------------


class Large(GeneratorStep):
    """A row of 100 MB among small ones."""

    @property
    def outputs(self) -> list[str]:
        return ["x", "text"]

    def process(self, offset: int = 0) -> Iterator[tuple[list[dict[str, Any]], bool]]:
        rows = [{"x": x, "text": "t" * (100_000_000 if x == 1 else 10)} for x in range(3)]
        yield rows, True


class Measured(Step):
    @property
    def outputs(self) -> list[str]:
        return ["length"]

    def process(self, inputs: StepInput) -> StepOutput:
        yield [{**row, "length": len(row["text"])} for row in inputs]


def test_a_row_of_a_hundred_megabytes_goes_through_a_run(tmp_path: Path) -> None:
    def whole() -> Distiset:
        with Pipeline("large", cache_dir=tmp_path) as pipeline:
            Large(name="load") >> Measured(name="measure")
        return pipeline.run()

    distiset = whole()
    lengths = [10, 100_000_000, 10]
    assert distiset.table("default").column("length").to_pylist() == lengths
    texts = distiset.table("default").column("text")
    assert [len(text.as_py()) for text in texts] == lengths
    assert failures(distiset, "measure") == []


class Inflating(Step):
    """Makes one row larger than a row may be, under a limit that is small enough to be reached."""

    row_wise: bool = True

    @property
    def outputs(self) -> list[str]:
        return ["y"]

    def load(self) -> None:
        super().load()
        codec_rows.MAX_ROW_BYTES = 1 << 17

    def process(self, inputs: StepInput) -> StepOutput:
        yield [row | {"y": "y" * (1 << (18 if row["x"] == BAD else 4))} for row in inputs]


@pytest.mark.parametrize("row_wise", [True, False], ids=["row-wise", "batch-wise"])
def test_a_row_larger_than_a_row_may_be_fails_alone_and_says_so(
    tmp_path: Path, row_wise: bool
) -> None:
    distiset = run(tmp_path, Inflating, row_wise=row_wise)
    assert [row["y"] for row in rows_of(distiset)] == [
        None if x == BAD else "y" * 16 for x in range(ROWS)
    ]
    (failure,) = failures(distiset, "step")
    assert (failure["row"][0], failure["kind"]) == (BAD, "asyncdistil.errors.UnencodableValue")
    assert "takes 262,1" in failure["message"]
    assert "131,072" in failure["message"]


class Swelling(GeneratorStep):
    @property
    def outputs(self) -> list[str]:
        return ["text"]

    def process(self, offset: int = 0) -> Iterator[tuple[list[dict[str, Any]], bool]]:
        codec_rows.MAX_ROW_BYTES = 1 << 17
        yield [{"text": "small"}], False
        yield [{"text": "t" * (1 << 18)}], True


def test_a_generator_that_yields_a_row_larger_than_a_row_may_be_is_told_so(tmp_path: Path) -> None:
    with Pipeline("large", cache_dir=tmp_path) as pipeline:
        Swelling(name="load")
    with pytest.raises(StepError, match=r"(?s)'load'.*takes 262,1.*131,072"):
        pipeline.run()
