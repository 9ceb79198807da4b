"""One run of the demonstration, in a process of its own that may be killed at any moment.

Reads a `Task` as JSON from its argument. Prints JSON lines: ``{"halfway": true}`` once half of the
work is committed, and a `Done` at the end.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from asyncdistil.batch import StepName
from asyncdistil.demo.pipelines import library_pipeline, model_pipeline
from asyncdistil.demo.task import Done, Task
from asyncdistil.distiset import Distiset
from asyncdistil.pipeline.watch import WATCHER, Watcher
from asyncdistil.supervisor.progress import Progress


class _TellHalfway(Watcher):
    def __init__(self, inputs: int) -> None:
        self._inputs = inputs

    def turn(self, progress: Progress) -> None:
        extract = progress.get(StepName("extract"))
        if self._inputs and extract is not None and extract.inputs_computed >= self._inputs:
            self._inputs = 0
            _say({"halfway": True})


def _say(value: object) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def _write(distiset: Distiset, path: Path) -> None:
    rows = distiset.table("default").to_pylist()
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))


def main() -> None:
    """Run what the argument says."""
    task = msgspec.json.decode(sys.argv[1], type=Task)
    cache_dir = Path(task.cache_dir)
    if task.base_url is None:
        pipeline = library_pipeline(cache_dir)
    else:
        pipeline = model_pipeline(cache_dir, task.rows, task.base_url)
    WATCHER.set(_TellHalfway(task.halfway_inputs))
    distiset = pipeline.run(wait_seconds=10)
    table = distiset.table("default")
    if task.write_to is not None:
        _write(distiset, Path(task.write_to))
    _say(Done(distiset.report, table.num_rows))


if __name__ == "__main__":
    main()
