"""asyncdistil's column: pipelines as a user would write them."""

import asyncio
import time
from pathlib import Path
from typing import Any, ClassVar

from logging_alone import log_batches, recovery
from workload import (
    cpu_seconds,
    high_water_mb,
    main,
    note_calls,
    question,
    rows,
    since_start,
    spin,
)
from xxhash import xxh3_128_digest

from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import GeneratorStep, GeneratorStepOutput, Step, StepInput, StepResources


class Numbers(GeneratorStep):
    """Rows made on the spot; which ones is data, as the content of a file would be."""

    resumable: ClassVar[bool] = True
    signature_ignore: ClassVar[set[str]] = {"count", "text_chars"}

    count: int
    text_chars: int = 0

    @property
    def outputs(self) -> list[str]:
        return ["x", "text"]

    def process(self, offset: int = 0) -> GeneratorStepOutput:
        for start in range(offset, self.count, self.batch_size):
            stop = min(start + self.batch_size, self.count)
            yield rows(start, stop, self.text_chars), stop == self.count

    def data_identity(self) -> bytes:
        return xxh3_128_digest(f"{self.count} rows of {self.text_chars}".encode())


class AddOne(Step):
    """The trivial step: one column more."""

    row_wise: bool = True
    column: str

    @property
    def inputs(self) -> list[str]:
        return ["x"]

    @property
    def outputs(self) -> list[str]:
        return [self.column]

    def process(self, inputs: StepInput):
        for each in inputs:
            each[self.column] = each["x"] + 1
        yield inputs


class Spin(AddOne):
    """A step that needs CPU."""

    milliseconds: float

    def process(self, inputs: StepInput):
        for each in inputs:
            spin(self.milliseconds / 1000)
            each[self.column] = each["x"] + 1
        yield inputs


class Call(AddOne):
    """A step that waits, as for a model, and writes down each row that it is given."""

    milliseconds: float
    calls: str
    signature_ignore: ClassVar[set[str]] = {"calls"}

    def process(self, inputs: StepInput):
        for each in inputs:
            note_calls(self.calls, 1)
            time.sleep(self.milliseconds / 1000)
            each[self.column] = each["x"] + 1
        yield inputs


class Join(Step):
    """The end of a fan-out: one row of the branches' rows."""

    @property
    def inputs(self) -> list[str]:
        return ["x"]

    @property
    def outputs(self) -> list[str]:
        return ["last"]

    def process(self, *inputs: StepInput):
        joined = []
        for parts in zip(*inputs, strict=True):
            merged = {name: value for part in parts for name, value in part.items()}
            merged["last"] = merged["x"] + 1
            joined.append(merged)
        yield joined


def _outcome(pipeline: Pipeline, column: str, mode: str = "durable") -> dict[str, Any]:
    """Run and measure; what is read afterwards to check the result is not part of it."""
    # Lazily imported by `run`; imports are no part of the seconds of any column.
    import asyncdistil.pipeline.run  # noqa: F401

    started = time.perf_counter()
    distiset = pipeline.run(sync_mode=mode)
    seconds = time.perf_counter() - started
    cpu = cpu_seconds()
    memory = high_water_mb()
    import pyarrow.compute as pc

    table = distiset.table()
    steps = distiset.report["steps"]
    count = table.num_rows
    return {
        "seconds": seconds,
        "rows": count,
        "sum": pc.sum(table.column(column)).as_py(),
        "rows_per_second": count / seconds,
        "run_cpu_seconds": cpu,
        "supervisor_mb": memory,
        "lost_in_flight_rows": distiset.report["lost_in_flight_rows"],
        "hit": distiset.report["hit"],
        "computed": {name: counters["rows_computed"] for name, counters in steps.items()},
    }


def chain(
    directory: str,
    count: int,
    batch: int = 50,
    steps: int = 3,
    mode: str = "durable",
    text_chars: int = 0,
    change_last: bool = False,
    turn: int = 0,
    name: str = "chain",
) -> dict[str, Any]:
    """A loader and trivial steps, one after another."""
    columns = [f"c{number}" for number in range(steps)]
    if change_last and turn >= 0:
        columns[-1] = f"changed{turn}"
    with Pipeline(name=name, cache_dir=Path(directory) / "cache") as pipeline:
        last = Numbers(name="numbers", count=count, text_chars=text_chars, batch_size=batch)
        for number, column in enumerate(columns):
            step = AddOne(name=f"step_{number}", column=column, input_batch_size=batch)
            last >> step
            last = step
    return _outcome(pipeline, columns[-1], mode)


def fan(
    directory: str, count: int, batch: int = 50, branches: int = 4, turn: int = 0
) -> dict[str, Any]:
    """A loader, branches beside each other, and a step that joins them."""
    with Pipeline(name="fan", cache_dir=Path(directory) / "cache") as pipeline:
        first = Numbers(name="numbers", count=count, batch_size=batch)
        last = Join(name="join", input_batch_size=batch)
        for number in range(branches):
            step = AddOne(name=f"branch_{number}", column=f"c{number}", input_batch_size=batch)
            first >> step >> last
    return _outcome(pipeline, "last")


def processor(
    directory: str,
    count: int,
    batch: int = 50,
    milliseconds: float = 1,
    replicas: int = 2,
    turn: int = 0,
) -> dict[str, Any]:
    """A loader and one step that needs CPU, in copies."""
    with Pipeline(name="processor", cache_dir=Path(directory) / "cache") as pipeline:
        first = Numbers(name="numbers", count=count, batch_size=batch)
        second = Spin(
            name="spin",
            column="c",
            milliseconds=milliseconds,
            input_batch_size=batch,
            resources=StepResources(replicas=replicas),
        )
        first >> second
    return _outcome(pipeline, "c")


def calls(
    directory: str, count: int, batch: int = 50, milliseconds: float = 1, turn: int = 0
) -> dict[str, Any]:
    """A loader and one step that waits for each row."""
    with Pipeline(name="calls", cache_dir=Path(directory) / "cache") as pipeline:
        first = Numbers(name="numbers", count=count, batch_size=batch)
        second = Call(
            name="call",
            column="c",
            milliseconds=milliseconds,
            calls=str(Path(directory) / "calls"),
            input_batch_size=batch,
        )
        first >> second
    return _outcome(pipeline, "c")


def first_row(directory: str, turn: int = 0) -> dict[str, Any]:
    """One row, counted from the start of the process to the row in hand."""
    with Pipeline(name="first", cache_dir=Path(directory) / "cache") as pipeline:
        Numbers(name="numbers", count=1) >> AddOne(name="step", column="c")
    seconds: list[float] = []
    made = []

    async def read() -> None:
        async for batch in pipeline.astream():
            seconds.append(since_start())
            made.extend(batch)

    asyncio.run(read())
    return {"seconds": seconds[0], "rows": len(made), "sum": sum(each["c"] for each in made)}


def asks(directory: str, url: str, count: int, in_flight: int) -> dict[str, Any]:
    """Prompts through a model step at the default batch size."""
    from asyncdistil.models import OpenAILLM
    from asyncdistil.steps import LoadDataFromDicts
    from asyncdistil.steps.tasks import TextGeneration

    with Pipeline(name="asks", cache_dir=Path(directory) / "cache") as pipeline:
        llm = OpenAILLM(model="m", base_url=url, api_key="none", max_concurrency=in_flight)
        prompts = [{"instruction": question(number)} for number in range(count)]
        LoadDataFromDicts(name="load", data=prompts) >> TextGeneration(name="ask", llm=llm)
    # As in `_outcome`: imports of this process are no part of the seconds of any column.
    import pyarrow  # noqa: F401

    import asyncdistil.pipeline.run  # noqa: F401

    started = time.perf_counter()
    table = pipeline.run().table("default")
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "rows": count - table["generation"].null_count}


if __name__ == "__main__":
    main(chain, fan, processor, calls, first_row, asks, recovery, log_batches)
