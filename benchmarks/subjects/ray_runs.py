"""Ray Data's column. Its own environment; nothing of asyncdistil is imported."""

import time
from typing import Any

import ray
from workload import main, row, since_start, spin


def _load(count: int, text_chars: int = 0) -> Any:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    numbers = ray.data.range(count)
    return numbers.map(lambda each: row(int(each["id"]), text_chars))


def _begin(replicas: int = 2) -> float:
    started = time.perf_counter()
    ray.init(
        num_cpus=replicas, include_dashboard=False, log_to_driver=False, configure_logging=False
    )
    return started


def _outcome(dataset: Any, column: str, started: float) -> dict[str, Any]:
    kept = dataset.materialize()
    seconds = time.perf_counter() - started
    count = kept.count()
    total = int(kept.sum(column))
    return {"seconds": seconds, "rows": count, "sum": total, "rows_per_second": count / seconds}


def _add_one(batch: dict[str, Any], column: str) -> dict[str, Any]:
    batch[column] = batch["x"] + 1
    return batch


def _spin(batch: dict[str, Any], milliseconds: float) -> dict[str, Any]:
    for _ in batch["x"]:
        spin(milliseconds / 1000)
    batch["c"] = batch["x"] + 1
    return batch


def chain(
    directory: str, count: int, batch: int = 50, steps: int = 3, text_chars: int = 0, turn: int = 0
) -> dict[str, Any]:
    started = _begin()
    dataset = _load(count, text_chars)
    for number in range(steps):
        dataset = dataset.map_batches(
            _add_one, batch_size=batch, fn_kwargs={"column": f"c{number}"}
        )
    return _outcome(dataset, f"c{steps - 1}", started)


def processor(
    directory: str,
    count: int,
    batch: int = 50,
    milliseconds: float = 1,
    replicas: int = 2,
    turn: int = 0,
) -> dict[str, Any]:
    started = _begin(replicas)
    dataset = _load(count).repartition(replicas * 4)
    dataset = dataset.map_batches(_spin, batch_size=batch, fn_kwargs={"milliseconds": milliseconds})
    return _outcome(dataset, "c", started)


def first_row(directory: str, turn: int = 0) -> dict[str, Any]:
    _begin()
    made = _load(1).map_batches(_add_one, fn_kwargs={"column": "c"}).take(1)
    return {"seconds": since_start(), "rows": len(made), "sum": int(made[0]["c"])}


if __name__ == "__main__":
    main(chain, processor, first_row)
