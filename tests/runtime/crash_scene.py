"""A pipeline whose shape is its argument, for tests that end it early. A script, not a test."""

import json
import logging
import os
import re
import resource
import sys
from pathlib import Path
from typing import Any

from asyncdistil.pipeline import Pipeline, routing_batch_function
from asyncdistil.steps import (
    GeneratorStep,
    GlobalStep,
    LoadDataFromDicts,
    Step,
    StepInput,
    StepResources,
)
from asyncdistil.testing.crash import visit
from asyncdistil.typing import StepOutput


class Add(Step):
    """Adds its name as a column, row by row."""

    row_wise: bool = True

    @property
    def outputs(self) -> list[str]:
        return [self.name]

    def load(self) -> None:
        super().load()
        visit(f"{self.name}.load", [0])

    def unload(self) -> None:
        visit(f"{self.name}.unload", [0])
        super().unload()

    def process(self, inputs: StepInput) -> StepOutput:
        visit(self.name, [row["x"] for row in inputs])
        if os.environ.get("HANG") in {f"{self.name} {row['x']}" for row in inputs}:
            # Holds the interpreter lock, so that only SIGKILL ends it.
            re.match("(a+)+$", "a" * 60 + "b")
        for row in inputs:
            row[self.name] = row["x"] + len(self.name)
        yield inputs


class Batch(Add):
    """Its output depends on the whole batch, and comes in two parts."""

    row_wise: bool = False

    def process(self, inputs: StepInput) -> StepOutput:
        visit(self.name, [row["x"] for row in inputs])
        total = sum(row["x"] for row in inputs)
        rows = [row | {self.name: total} for row in inputs]
        yield rows[: len(rows) // 2]
        yield rows[len(rows) // 2 :]


class Few(Add):
    """Drops every third row and doubles every fifth."""

    def process(self, inputs: StepInput) -> StepOutput:
        visit(self.name, [row["x"] for row in inputs])
        made: list[Any] = []
        for row in inputs:
            row[self.name] = row["x"]
            kept = None if row["x"] % 3 == 0 else [row, dict(row)] if row["x"] % 5 == 0 else row
            made.append(kept)
        yield made


class Sorted(GlobalStep):
    """Turns everything round."""

    def process(self, *inputs: StepInput) -> StepOutput:
        rows = [row for port in inputs for row in port]
        visit(self.name, [row["x"] for row in rows])
        yield sorted(rows, key=lambda row: -row["x"])


class Join(Step):
    """Puts the columns of its inputs together."""

    def process(self, *inputs: StepInput) -> StepOutput:
        visit(self.name, [row["x"] for row in inputs[0]])
        yield [{k: v for row in rows for k, v in row.items()} for rows in zip(*inputs, strict=True)]


class Count(GeneratorStep):
    """Counts, from 0 each time it is started."""

    n: int

    @property
    def outputs(self) -> list[str]:
        return ["x"]

    def process(self, offset: int = 0) -> StepOutput:
        for start in range(0, self.n, self.batch_size):
            rows = range(start, min(start + self.batch_size, self.n))
            visit(self.name, rows)
            yield [{"x": x} for x in rows], rows.stop == self.n


@routing_batch_function
def one_of_two(steps: list[str], rows: list[dict[str, Any]]) -> list[str]:
    return [steps[rows[0]["x"] // 50 % 2]]


def load(options: dict[str, Any]) -> Any:
    size = options["sizes"][0]
    if options.get("count"):
        return Count(name="load", n=options["rows"], batch_size=size)
    pad = {"pad": "p" * options["pad"]} if "pad" in options else {}
    rows = [{"x": x, **pad} for x in range(options["rows"])]
    return LoadDataFromDicts(name="load", data=rows, batch_size=size)


def chain(options: dict[str, Any]) -> None:
    names, sizes = "abc", options["sizes"][1:]
    resources = StepResources(replicas=options.get("replicas", 1))
    first, *steps = [
        Add(name=name, input_batch_size=size, resources=resources)
        for name, size in zip(names, sizes, strict=True)
    ]
    load(options) >> first
    for step in steps:
        first >> step
        first = step


def every_kind(options: dict[str, Any]) -> None:
    """Batch-wise, filtering, joining, routed and global steps."""
    a = Add(name="a")
    batch = Batch(name="batch", input_batch_size=33)
    left, right = Add(name="left"), Add(name="right", input_batch_size=7)
    load(options) >> a >> [batch, left] >> Join(name="join") >> Few(name="few")
    a >> one_of_two >> [right, Add(name="other")] >> Sorted(name="sorted")
    # Two leaves: rows in source order, and the result of a barrier.


SHAPES = {"chain": chain, "every_kind": every_kind}


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
    options = json.loads(sys.argv[1])
    if "file_bytes" in options:
        resource.setrlimit(resource.RLIMIT_FSIZE, (options["file_bytes"],) * 2)
    with Pipeline(name="scene", cache_dir="cache") as pipeline:
        SHAPES[options.get("shape", "chain")](options)
    distiset = pipeline.run(**options.get("run", {}))
    rows = {name: distiset.table(name).to_pylist() for name in distiset}
    Path("result.json").write_text(json.dumps({"report": distiset.report, "rows": rows}))


if __name__ == "__main__":
    main()
