"""Below a running event loop: other work goes on, a stop leaves a state that can be taken up."""

import asyncio
import json
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import fastapi
import httpx
import pytest

from asyncdistil.errors import CorruptRecord, StoreLocked
from asyncdistil.pipeline import Pipeline
from asyncdistil.pipeline.stream import Stream
from asyncdistil.steps import GeneratorStep, LoadDataFromDicts, Step, StepInput
from asyncdistil.supervisor import shell
from asyncdistil.typing import GeneratorStepOutput, StepOutput

FOUR = [{"n": n} for n in range(4)]


def note(step: str, rows: list[dict[str, Any]]) -> None:
    with open(os.environ["ASYNCDISTIL_TEST_CALLS"], "a") as file:
        file.write(json.dumps([step, [row["n"] for row in rows]]) + "\n")


class Plus(Step):
    def process(self, inputs: StepInput) -> StepOutput:
        note(self.name, inputs)
        yield [row | {"sum": row["n"] + 1} for row in inputs]


class Gated(Plus):
    """Waits at one row until a file is there; says so by another file."""

    gate: str
    signature_ignore = {"gate"}

    def process(self, inputs: StepInput) -> StepOutput:
        if inputs[0]["n"] == 20:
            open(self.gate + ".reached", "w").close()
            while not os.path.exists(self.gate):
                os.sched_yield()
        yield from super().process(inputs)


class Count(GeneratorStep):
    reads_only_fields = True
    rows: int = 40

    def process(self, offset: int = 0) -> GeneratorStepOutput:
        for n in range(self.rows):
            yield [{"n": n}], n == self.rows - 1


def simple(cache: Path, name: str = "simple") -> Pipeline:
    with Pipeline(name, cache_dir=cache) as pipeline:
        LoadDataFromDicts(name="load", data=FOUR) >> Plus(name="plus")
    return pipeline


def gated(cache: Path, gate: Path) -> Pipeline:
    with Pipeline("gated", cache_dir=cache) as pipeline:
        count = Count(name="count")
        count >> Gated(name="gated", gate=str(gate), input_batch_size=2)
    return pipeline


async def reached(gate: Path) -> None:
    """Wait until a worker stands at the gate; the loop goes on."""
    there = Path(f"{gate}.reached").exists
    await anyio.to_thread.run_sync(lambda: _until(there))


def _until(there: Callable[[], bool]) -> None:
    while not there():
        os.sched_yield()


def sums(distiset: Any) -> list[int]:
    found: list[int] = distiset.table("default")["sum"].to_pylist()
    return found


@pytest.mark.parametrize("spelling", ["arun", "run"])
def test_a_web_handler_runs_a_pipeline(cache: Path, spelling: str) -> None:
    app = fastapi.FastAPI()

    @app.get("/arun")
    async def awaited() -> list[int]:
        return sums(await simple(cache).arun())

    @app.get("/run")
    async def blocking() -> list[int]:
        return sums(simple(cache).run())

    async def ask() -> list[Any]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return [(await client.get(f"/{spelling}")).json() for _ in range(2)]

    assert asyncio.run(ask()) == [[1, 2, 3, 4]] * 2


def test_two_runs_and_other_work_share_one_loop(cache: Path, tmp_path: Path) -> None:
    async def both() -> tuple[Any, Any, int]:
        turns = 0

        async def tick() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0.001)

        ticking = asyncio.create_task(tick())
        # The first can only go on when the second has ended.
        gate = tmp_path / "gate"

        async def second() -> Any:
            await reached(gate)
            made = await simple(cache).arun()
            gate.touch()
            return made

        first, other = await asyncio.gather(gated(cache, gate).arun(), second())
        ticking.cancel()
        return first, other, turns

    first, second, turns = asyncio.run(both())
    assert sums(first) == list(range(1, 41))
    assert sums(second) == [1, 2, 3, 4]
    assert turns > 10


def test_two_runs_of_one_name_do_not_mix(cache: Path, tmp_path: Path) -> None:
    async def both() -> list[Any]:
        gate = tmp_path / "gate"

        async def second() -> Any:
            await reached(gate)
            try:
                return await gated(cache, gate).arun()
            finally:
                gate.touch()

        runs = (gated(cache, gate).arun(), second())
        return await asyncio.gather(*runs, return_exceptions=True)

    first, refused = asyncio.run(both())
    assert sums(first) == list(range(1, 41))
    assert isinstance(refused, StoreLocked)
    assert f"pid {os.getpid()}" in str(refused)


def on(backend: str, work: Callable[[], Awaitable[Any]]) -> Any:
    if backend == "trio":
        pytest.importorskip("trio", reason="trio is not installed")
    return anyio.run(work, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_cancelled_run_leaves_nothing_running_and_is_taken_up(
    cache: Path, tmp_path: Path, journal: Any, backend: str
) -> None:
    gate = tmp_path / "gate"

    async def cancelled() -> bool:
        async with anyio.create_task_group() as group:

            async def cancel() -> None:
                await reached(gate)
                gate.touch()
                group.cancel_scope.cancel()

            group.start_soon(cancel)
            await gated(cache, gate).arun()
        return group.cancel_scope.cancel_called

    assert on(backend, cancelled)
    first = journal.rows()["gated"]

    async def again() -> Any:
        return await gated(cache, gate).arun()

    resumed = on(backend, again)
    assert resumed.report["resumed"]
    assert sums(resumed) == list(range(1, 41))
    assert sorted(first + journal.rows().get("gated", [])) == list(range(40))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_stream_gives_rows_while_the_run_goes_on_and_stops_with_its_reader(
    cache: Path, tmp_path: Path, journal: Any, backend: str
) -> None:
    gate = tmp_path / "gate"

    async def some() -> list[int]:
        stream = gated(cache, gate).astream()
        seen = []
        async for batch in stream:
            assert batch.step == "gated"
            seen += [row["n"] for row in batch]
            if len(seen) >= 10:
                break
        gate.touch()
        await stream.aclose()
        await stream.aclose()
        return seen

    seen = on(backend, some)
    assert seen == list(range(len(seen)))
    first = journal.rows()["gated"]
    assert set(seen) <= set(first)

    async def rest() -> tuple[list[int], Any]:
        stream = gated(cache, gate).astream()
        return [row["sum"] async for batch in stream for row in batch], stream.distiset

    found, distiset = on(backend, rest)
    assert found == list(range(1, 41)) == sums(distiset)
    assert distiset.report["resumed"]
    assert sorted(first + journal.rows().get("gated", [])) == list(range(40))


async def left_by_break(pipeline: Pipeline, _gate: Path) -> None:
    async for _ in pipeline.astream():
        break


async def left_by_an_error(pipeline: Pipeline, _gate: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async for batch in pipeline.astream():
            assert len(batch) / 0


async def left_by_a_cancellation(pipeline: Pipeline, gate: Path) -> None:
    async def read() -> None:
        async for _ in pipeline.astream():
            pass

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await reached(gate)
        group.cancel_scope.cancel()


async def left_to_the_collector(pipeline: Pipeline, _gate: Path) -> None:
    stream = pipeline.astream()
    await anext(stream)
    del stream


KEPT: list[Any] = []


async def left_to_the_end_of_the_loop(pipeline: Pipeline, _gate: Path) -> None:
    KEPT.append(pipeline.astream())
    await anext(KEPT[0])


async def left_by_rows_that_can_not_be_read(pipeline: Pipeline, _gate: Path) -> None:
    def refuse(*_: Any) -> Any:
        raise CorruptRecord("a disk that fails now and then")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Stream, "_read", refuse)
        KEPT.append(pipeline.astream())
        with pytest.raises(CorruptRecord):
            await anext(KEPT[0])
    with pytest.raises(StopAsyncIteration):
        await anext(KEPT[0])


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    "leave",
    [
        left_by_break,
        left_by_an_error,
        left_by_a_cancellation,
        left_to_the_collector,
        left_to_the_end_of_the_loop,
        left_by_rows_that_can_not_be_read,
    ],
)
def test_a_run_ends_with_its_stream_however_that_is_left(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, leave: Any
) -> None:
    # The gate is closed: a run that went on, or waited for what its worker holds, would not end.
    monkeypatch.setattr(shell, "DRAIN_SECONDS", 0.0)
    gate = tmp_path / "gate"
    on(backend, lambda: leave(gated(cache, gate), gate))
    KEPT.clear()
    left = [t for t in threading.enumerate() if t.name == "asyncdistil-supervisor"]
    for thread in left:
        thread.join(60)
    assert not any(thread.is_alive() for thread in left)
    gate.touch()
    distiset = gated(cache, gate).run()
    assert distiset.report["resumed"]
    assert sums(distiset) == list(range(1, 41))


def test_a_stream_of_an_unchanged_pipeline_gives_its_rows_too(
    cache: Path, journal: Any, starts: Any
) -> None:
    simple(cache).run()
    journal.calls()
    starts.take()

    async def read() -> tuple[list[int], Any]:
        stream = simple(cache).astream()
        return [row["sum"] async for batch in stream for row in batch], stream.distiset

    found, distiset = asyncio.run(read())
    assert found == [1, 2, 3, 4] == sums(distiset)
    assert journal.calls() == []


def test_a_blocking_run_works_off_the_main_thread(cache: Path) -> None:
    async def threaded() -> Any:
        return await asyncio.to_thread(simple(cache).run)

    assert sums(asyncio.run(threaded())) == [1, 2, 3, 4]
