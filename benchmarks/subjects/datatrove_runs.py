"""datatrove's column. Its own environment; nothing of asyncdistil is imported."""

import gzip
import json
import time
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.writers import JsonlWriter
from workload import main, note_calls, row, since_start, spin


class Numbers(PipelineStep):
    """Rows of one task: every so many-th block of a range."""

    name = "numbers"
    type = "reader"

    def __init__(self, count: int, text_chars: int = 0) -> None:
        super().__init__()
        self.count = count
        self.text_chars = text_chars

    def run(self, data, rank: int = 0, world_size: int = 1):
        for number in range(rank * self.count // world_size, (rank + 1) * self.count // world_size):
            made = row(number, self.text_chars)
            yield Document(text=made["text"], id=str(number), metadata={"x": number})


class AddOne(PipelineStep):
    name = "add one"
    type = "map"

    def __init__(
        self, column: str, milliseconds: float = 0, wait: str = "", calls: str = ""
    ) -> None:
        super().__init__()
        self.column = column
        self.milliseconds = milliseconds
        self.wait = wait
        self.calls = calls

    def run(self, data, rank: int = 0, world_size: int = 1):
        for document in data:
            if self.calls:
                note_calls(self.calls, 1)
            if self.wait == "sleep":
                time.sleep(self.milliseconds / 1000)
            elif self.wait == "spin":
                spin(self.milliseconds / 1000)
            document.metadata[self.column] = document.metadata["x"] + 1
            yield document


def _outcome(
    directory: str, steps: list[Any], column: str, tasks: int, workers: int, turn: int = 0
):
    output = Path(directory) / f"output{turn}"
    executor = LocalPipelineExecutor(
        pipeline=[*steps, JsonlWriter(str(output), compression=None)],
        logging_dir=str(Path(directory) / f"logs{turn}"),
        tasks=tasks,
        workers=workers,
    )
    started = time.perf_counter()
    executor.run()
    seconds = time.perf_counter() - started
    count, total = 0, 0
    for path in output.glob("*.jsonl*"):
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            for line in lines:
                count += 1
                total += json.loads(line)["metadata"][column]
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
    # Another directory per turn: it has no cache of steps, only of whole tasks.
    place = turn if change_last else 0
    work = [Numbers(count, text_chars), *(AddOne(column) for column in columns)]
    return _outcome(directory, work, columns[-1], 1, 1, place)


def processor(
    directory: str,
    count: int,
    batch: int = 50,
    milliseconds: float = 1,
    replicas: int = 2,
    turn: int = 0,
) -> dict[str, Any]:
    work = [Numbers(count), AddOne("c", milliseconds, "spin")]
    return _outcome(directory, work, "c", replicas, replicas)


def calls(
    directory: str, count: int, batch: int = 50, milliseconds: float = 1, turn: int = 0
) -> dict[str, Any]:
    log = str(Path(directory) / "calls")
    work = [Numbers(count), AddOne("c", milliseconds, "sleep", log)]
    return _outcome(directory, work, "c", 10, 1)


def first_row(directory: str, turn: int = 0) -> dict[str, Any]:
    made = _outcome(directory, [Numbers(1), AddOne("c")], "c", 1, 1)
    return {**made, "seconds": since_start()}


if __name__ == "__main__":
    main(chain, processor, calls, first_row)
