"""distilabel's column. Its own environment; nothing of asyncdistil is imported."""

import time
from pathlib import Path
from typing import Any

from distilabel.pipeline import Pipeline
from distilabel.steps import GeneratorStep, Step, StepInput, StepResources
from workload import main, note_calls, question, rows, since_start, spin


class Numbers(GeneratorStep):
    count: int
    text_chars: int = 0

    @property
    def outputs(self) -> list[str]:
        return ["x", "text"]

    def process(self, offset: int = 0):
        for start in range(offset, self.count, self.batch_size):
            stop = min(start + self.batch_size, self.count)
            yield rows(start, stop, self.text_chars), stop == self.count


class AddOne(Step):
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
    milliseconds: float

    def process(self, inputs: StepInput):
        for each in inputs:
            spin(self.milliseconds / 1000)
            each[self.column] = each["x"] + 1
        yield inputs


class Call(AddOne):
    milliseconds: float
    calls: str

    def process(self, inputs: StepInput):
        for each in inputs:
            note_calls(self.calls, 1)
            time.sleep(self.milliseconds / 1000)
            each[self.column] = each["x"] + 1
        yield inputs


class Join(Step):
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


def _outcome(pipeline: Pipeline, column: str) -> dict[str, Any]:
    started = time.perf_counter()
    distiset = pipeline.run()
    seconds = time.perf_counter() - started
    import pyarrow.compute as pc

    dataset = distiset["default"]["train"]
    total = pc.sum(dataset.data.column(column)).as_py()
    count = dataset.num_rows
    return {"seconds": seconds, "rows": count, "sum": total, "rows_per_second": count / seconds}


def chain(
    directory: str,
    count: int,
    batch: int = 50,
    steps: int = 3,
    text_chars: int = 0,
    change_last: bool = False,
    turn: int = 0,
) -> dict[str, Any]:
    columns = [f"c{number}" for number in range(steps)]
    if change_last and turn >= 0:
        columns[-1] = f"changed{turn}"
    with Pipeline(name="chain", cache_dir=Path(directory) / "cache") as pipeline:
        last = Numbers(name="numbers", count=count, text_chars=text_chars, batch_size=batch)
        for number, column in enumerate(columns):
            step = AddOne(name=f"step_{number}", column=column, input_batch_size=batch)
            last >> step
            last = step
    return _outcome(pipeline, columns[-1])


def fan(
    directory: str, count: int, batch: int = 50, branches: int = 4, turn: int = 0
) -> dict[str, Any]:
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
    with Pipeline(name="first", cache_dir=Path(directory) / "cache") as pipeline:
        Numbers(name="numbers", count=1) >> AddOne(name="step", column="c")
    dataset = pipeline.run()["default"]["train"]
    seconds = since_start()
    return {"seconds": seconds, "rows": dataset.num_rows, "sum": sum(dataset["c"])}


def asks(directory: str, url: str, count: int, in_flight: int) -> dict[str, Any]:
    """Prompts through a model step; a batch is what it has in flight, so it gets what we get."""
    from distilabel.models import OpenAILLM
    from distilabel.steps import LoadDataFromDicts
    from distilabel.steps.tasks import TextGeneration

    with Pipeline(name="asks", cache_dir=Path(directory) / "cache") as pipeline:
        llm = OpenAILLM(model="m", base_url=url, api_key="none")
        prompts = [{"instruction": question(number)} for number in range(count)]
        load = LoadDataFromDicts(name="load", data=prompts, batch_size=in_flight)
        load >> TextGeneration(name="ask", llm=llm, input_batch_size=in_flight)
    started = time.perf_counter()
    dataset = pipeline.run()["default"]["train"]
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "rows": count - dataset.data.column("generation").null_count}


if __name__ == "__main__":
    main(chain, fan, processor, calls, first_row, asks)
