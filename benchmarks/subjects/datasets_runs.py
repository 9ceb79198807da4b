"""The column of `datasets.map`. Its own environment; nothing of asyncdistil is imported."""

import time
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset
from workload import main, note_calls, row, since_start, spin


def _numbers(count: int, text_chars: int):
    for number in range(count):
        yield row(number, text_chars)


def _load(directory: str, count: int, text_chars: int = 0) -> Dataset:
    return Dataset.from_generator(
        _numbers,
        gen_kwargs={"count": count, "text_chars": text_chars},
        cache_dir=str(Path(directory) / "cache"),
    )


def _add_one(batch: dict[str, list[Any]], column: str) -> dict[str, list[Any]]:
    batch[column] = [x + 1 for x in batch["x"]]
    return batch


def _spin(batch: dict[str, list[Any]], milliseconds: float) -> dict[str, list[Any]]:
    for _ in batch["x"]:
        spin(milliseconds / 1000)
    batch["c"] = [x + 1 for x in batch["x"]]
    return batch


def _call(batch: dict[str, list[Any]], milliseconds: float, calls: str) -> dict[str, list[Any]]:
    for _ in batch["x"]:
        note_calls(calls, 1)
        time.sleep(milliseconds / 1000)
    batch["c"] = [x + 1 for x in batch["x"]]
    return batch


def _outcome(dataset: Dataset, column: str, started: float) -> dict[str, Any]:
    seconds = time.perf_counter() - started
    count = dataset.num_rows
    total = pc.sum(dataset.data.column(column)).as_py()
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
    started = time.perf_counter()
    dataset = _load(directory, count, text_chars)
    for column in columns:
        dataset = dataset.map(
            _add_one, batched=True, batch_size=batch, fn_kwargs={"column": column}
        )
    return _outcome(dataset, columns[-1], started)


def processor(
    directory: str,
    count: int,
    batch: int = 50,
    milliseconds: float = 1,
    replicas: int = 2,
    turn: int = 0,
) -> dict[str, Any]:
    started = time.perf_counter()
    dataset = _load(directory, count).map(
        _spin,
        batched=True,
        batch_size=batch,
        num_proc=replicas,
        fn_kwargs={"milliseconds": milliseconds},
    )
    return _outcome(dataset, "c", started)


def calls(
    directory: str, count: int, batch: int = 50, milliseconds: float = 1, turn: int = 0
) -> dict[str, Any]:
    started = time.perf_counter()
    dataset = _load(directory, count).map(
        _call,
        batched=True,
        batch_size=batch,
        fn_kwargs={"milliseconds": milliseconds, "calls": str(Path(directory) / "calls")},
    )
    return _outcome(dataset, "c", started)


def first_row(directory: str, turn: int = 0) -> dict[str, Any]:
    dataset = _load(directory, 1).map(_add_one, batched=True, fn_kwargs={"column": "c"})
    made = dataset[0]
    return {"seconds": since_start(), "rows": 1, "sum": made["c"]}


if __name__ == "__main__":
    main(chain, processor, calls, first_row)
