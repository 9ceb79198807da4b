"""The floor: the least that the same work takes with nothing around it, in one process.

Where rows are logged, it is by the same log, so that the difference to our column is the price of
processes, dispatch and supervision alone.
"""

import mmap
import multiprocessing
import time
from pathlib import Path
from typing import Any

from logging_alone import crash
from workload import high_water_mb, main, note_calls, question, rows, since_start, spin
from xxhash import xxh3_64_intdigest

from asyncdistil.batch import SAME_ORIGINS, Digest, RowSlice, RunId
from asyncdistil.codec import encode_rows
from asyncdistil.log import SegmentWriter, Store
from asyncdistil.log.events import Commit

_RUN = RunId("0" * 32)


class _Stage:
    """One step's place in the log."""

    def __init__(self, store: Store, number: int) -> None:
        self.name = f"step {number}"
        self.lineage = Digest(number.to_bytes(16, "big"))
        segment, fd = store.create_segment(self.lineage)
        self._writer = SegmentWriter(fd, segment, store.id)
        self._store = store

    def record(
        self, batch: list[dict[str, Any]], before: tuple[RowSlice, ...]
    ) -> tuple[RowSlice, ...]:
        """Append rows and their commit."""
        refs = self._writer.append(encode_rows(batch, step=self.name))
        inputs = (before,) if before else ()
        digests = tuple(part[0].ref.digest for part in inputs) or (Digest(bytes(16)),)
        self._store.append([Commit(_RUN, self.lineage, inputs, digests, refs, SAME_ORIGINS)])
        return tuple(RowSlice(ref, 0, ref.rows) for ref in refs)


def chain(
    directory: str,
    count: int,
    batch: int = 50,
    steps: int = 3,
    mode: str = "durable",
    text_chars: int = 0,
    turn: int = 0,
) -> dict[str, Any]:
    """A bare loop over the same rows and steps, every batch of every step logged."""
    started = time.perf_counter()
    store = Store.open(Path(directory) / f"cache{turn}", "floor", mode=mode)  # type: ignore[arg-type]
    stages = [_Stage(store, number) for number in range(steps + 1)]
    store.start_syncing(lambda _lsn: None, lambda _error: None)
    total = made = 0
    for start in range(0, count, batch):
        current = rows(start, min(start + batch, count), text_chars)
        place = stages[0].record(current, ())
        for number in range(steps):
            column = f"c{number}"
            for each in current:
                each[column] = each["x"] + 1
            place = stages[number + 1].record(current, place)
        made += len(current)
        total += sum(each[f"c{steps - 1}"] for each in current)
    store.flush()
    store.close(clean=True)
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "rows": made,
        "sum": total,
        "rows_per_second": made / seconds,
        "supervisor_mb": high_water_mb(),
    }


def fan(
    directory: str, count: int, batch: int = 50, branches: int = 4, turn: int = 0
) -> dict[str, Any]:
    """The same loop with branches and a join."""
    started = time.perf_counter()
    store = Store.open(Path(directory) / f"cache{turn}", "floor")
    stages = [_Stage(store, number) for number in range(branches + 2)]
    store.start_syncing(lambda _lsn: None, lambda _error: None)
    total = made = 0
    for start in range(0, count, batch):
        current = rows(start, min(start + batch, count))
        place = stages[0].record(current, ())
        parts = []
        for number in range(branches):
            column = f"c{number}"
            branch = [{**each, column: each["x"] + 1} for each in current]
            stages[number + 1].record(branch, place)
            parts.append(branch)
        joined = []
        for each in zip(*parts, strict=True):
            merged = {name: value for part in each for name, value in part.items()}
            merged["last"] = merged["x"] + 1
            joined.append(merged)
        stages[-1].record(joined, place)
        made += len(joined)
        total += sum(each["last"] for each in joined)
    store.flush()
    store.close(clean=True)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "rows": made, "sum": total, "rows_per_second": made / seconds}


def _spun(task: tuple[int, float]) -> int:
    number, milliseconds = task
    spin(milliseconds / 1000)
    return number + 1


def processor(
    directory: str,
    count: int,
    batch: int = 50,
    milliseconds: float = 1,
    replicas: int = 2,
    turn: int = 0,
) -> dict[str, Any]:
    """`multiprocessing.Pool.imap`, in chunks as large as the others' batches."""
    started = time.perf_counter()
    tasks = ((number, milliseconds) for number in range(count))
    with multiprocessing.Pool(replicas) as pool:
        made = list(pool.imap(_spun, tasks, chunksize=batch))
    return {"seconds": time.perf_counter() - started, "rows": len(made), "sum": sum(made)}


def calls(
    directory: str, count: int, batch: int = 50, milliseconds: float = 1, turn: int = 0
) -> dict[str, Any]:
    """A loop that waits for each row and keeps nothing."""
    started = time.perf_counter()
    total = 0
    for start in range(0, count, batch):
        for each in rows(start, min(start + batch, count)):
            note_calls(str(Path(directory) / "calls"), 1)
            time.sleep(milliseconds / 1000)
            total += each["x"] + 1
    return {"seconds": time.perf_counter() - started, "rows": count, "sum": total}


def first_row(directory: str, turn: int = 0) -> dict[str, Any]:
    """A Python process that imports asyncdistil's log and makes the row itself."""
    made = rows(0, 1)
    made[0]["c"] = made[0]["x"] + 1
    return {"seconds": since_start(), "rows": 1, "sum": made[0]["c"]}


def mapped(directory: str, count: int, turn: int = 0) -> dict[str, Any]:
    """Map the Arrow file of a finished run into memory and count its rows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    path = Path(directory) / "rows.arrow"
    if not path.exists():
        with pa.OSFile(str(path), "wb") as sink:
            columns = rows(0, count)
            table = pa.Table.from_pylist(columns).append_column(
                "c", pa.array(each["x"] + 1 for each in columns)
            )
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table, max_chunksize=1000)
    started = time.perf_counter()
    table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "rows": table.num_rows, "sum": pc.sum(table.column("c")).as_py()}


def recovery(directory: str, commits: int, clean: bool, turn: int = 0) -> dict[str, Any]:
    """Read every file of the commit log and hash it: what recovery can't do without."""
    if turn < 0:
        return crash(directory, commits, clean)
    started = time.perf_counter()
    size = 0
    for path in sorted(Path(directory).glob("**/commits/*")):
        if not path.is_file() or not path.stat().st_size:
            continue
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
            xxh3_64_intdigest(data)
            size += len(data)
    return {"seconds": time.perf_counter() - started, "bytes": size}


def asks(directory: str, url: str, count: int, in_flight: int) -> dict[str, Any]:
    """The same prompts in a bare aiohttp loop that keeps the answers in a list."""
    import uvloop
    from bare_loop import ask_all

    started = time.perf_counter()
    made = uvloop.run(ask_all(url, map(question, range(count)), in_flight))
    return {"seconds": time.perf_counter() - started, "rows": len(made)}


if __name__ == "__main__":
    main(chain, fan, processor, calls, first_row, asks, mapped, recovery)
