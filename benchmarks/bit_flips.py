"""How often a flipped bit in a stored file is noticed, format by format.

Every format stores the same rows. Then, one at a time, bits of the stored file are flipped, all of
it is read back and compared with what was written. The outcome is one of

- *noticed*: an error was raised, or the data was right and a warning given;
- *harmless*: no error, and every row came back as it was written;
- *crashed*: the reader ended its process, by a signal or for want of memory;
- *silently wrong*: no error, and other rows than were written: changed, missing or invented.

    python -m benchmarks.bit_flips            every 7th bit
    python -m benchmarks.bit_flips --every 1  every bit
"""

from __future__ import annotations

import argparse
import resource
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from asyncdistil.batch import RowSlice
from asyncdistil.codec import encode_rows
from asyncdistil.errors import LogError
from asyncdistil.log import SegmentWriter, Store
from asyncdistil.log import store as store_module
from asyncdistil.log.names import store_root
from asyncdistil.testing.disk import MemoryDisk
from asyncdistil.testing.faults import LINEAGE, NAME, commit_of, in_child

ROWS = 40
KINDS = {"n": "noticed", "h": "harmless", "s": "silently wrong"}
_MOST_FLIPS = 10_000  # in a file; of a larger one fewer bits are flipped
_MEMORY_BYTES = 4 << 30  # a length that was flipped must not take the machine down


def rows() -> list[dict[str, Any]]:
    """What is stored: a text, a number, a list, now and then a null."""
    return [
        {
            "id": number,
            "instruction": f"Say something about the number {number * 7919 % 1000}.",
            "generation": None if number % 13 == 5 else f"It is {number * 31 % 97}. " * 3,
            "score": number * 0.37,
        }
        for number in range(ROWS)
    ]


class Subject(NamedTuple):
    """A format: its file as bytes, and how such bytes are read back."""

    name: str
    image: bytes
    read: Callable[[bytes], list[dict[str, Any]]]


# --- Arrow and Parquet ----------------------------------------------------------------------------


def arrow(kind: str) -> Subject:
    table = pa.Table.from_pylist(rows())
    sink = pa.BufferOutputStream()
    writer = {"stream": pa.ipc.new_stream, "file": pa.ipc.new_file}[kind]
    with writer(sink, table.schema) as out:
        for batch in table.to_batches(max_chunksize=10):
            out.write_batch(batch)
    opener = {"stream": pa.ipc.open_stream, "file": pa.ipc.open_file}[kind]

    def read(image: bytes) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = opener(pa.py_buffer(image)).read_all().to_pylist()
        return found

    return Subject(f"Arrow IPC {kind}", sink.getvalue().to_pybytes(), read)


def parquet(*, checksum: bool) -> Subject:
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(rows())
    pq.write_table(table, sink, row_group_size=10, write_page_checksum=checksum)

    def read(image: bytes) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = pq.read_table(
            pa.BufferReader(image), page_checksum_verification=checksum
        ).to_pylist()
        return found

    name = "Parquet, page CRC verified" if checksum else "Parquet"
    return Subject(name, sink.getvalue().to_pybytes(), read)


# --- SQLite ---------------------------------------------------------------------------------------


def _filled(path: Path, *, wal: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    if wal:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute("CREATE TABLE t (id, instruction, generation, score)")
    for row in rows():
        connection.execute("INSERT INTO t VALUES (?, ?, ?, ?)", tuple(row.values()))
    return connection


def _select(path: Path) -> list[dict[str, Any]]:
    connection = sqlite3.connect(path)
    try:
        found = connection.execute("SELECT * FROM t ORDER BY rowid").fetchall()
    finally:
        connection.close()
    return [dict(zip(rows()[0], row, strict=True)) for row in found]


def sqlite_main(folder: Path) -> Subject:
    path = folder / "main.db"
    _filled(path, wal=False).close()
    target = folder / "damaged.db"

    def read(image: bytes) -> list[dict[str, Any]]:
        target.write_bytes(image)
        return _select(target)

    return Subject("SQLite main file", path.read_bytes(), read)


def sqlite_wal(folder: Path) -> Subject:
    """The write-ahead log of a database whose process died before a checkpoint."""
    path = folder / "wal.db"
    connection = _filled(path, wal=True)
    main, image = path.read_bytes(), Path(f"{path}-wal").read_bytes()
    connection.close()
    target = folder / "damaged-wal.db"

    def read(changed: bytes) -> list[dict[str, Any]]:
        target.write_bytes(main)
        Path(f"{target}-wal").write_bytes(changed)
        Path(f"{target}-shm").unlink(missing_ok=True)
        return _select(target)

    return Subject("SQLite WAL", image, read)


# --- ours -----------------------------------------------------------------------------------------


class Ours:
    """A store on a disk in memory: one commit-log file and one segment."""

    def __init__(self) -> None:
        store_module.RESERVE_BYTES = 512
        self.cache = Path("/cache")
        self.disk = MemoryDisk()
        store = Store.open(self.cache, NAME, files=self.disk)
        number, fd = store.create_segment(LINEAGE)
        segment = SegmentWriter(fd, number, store.id, self.disk)
        for start in range(0, ROWS, 10):
            refs = segment.append(encode_rows(rows()[start : start + 10], step="s"))
            store.append([commit_of(refs, start)])
            store.flush()
        store.close(clean=False)
        self.disk = self.disk.after_process_death()

    def subject(self, suffix: str, name: str) -> Subject:
        """One of its files; a warning counts as an error here, for it is one to the reader."""
        files = self.disk.files()
        (path,) = (path for path in files if path.suffix == suffix)

        def read(image: bytes) -> list[dict[str, Any]]:
            disk = self.disk.after_process_death()
            disk.put(path, image)
            store = Store.open(self.cache, NAME, files=disk)
            reader = store.reader()
            found = [
                row
                for _, commit in store.commits(LINEAGE)
                for ref in commit.outputs
                for row in reader.rows(RowSlice(ref, 0, ref.rows))
            ]
            if store.warnings and found == rows():
                raise LogError(store.warnings[0])
            return found

        assert path.is_relative_to(store_root(self.cache, NAME))
        return Subject(name, files[path], read)


# --- the trial ------------------------------------------------------------------------------------


def trial(subject: Subject, every: int) -> Counter[str]:
    """Flip every n-th bit, one at a time, in a child: some readers end the process."""
    assert subject.read(subject.image) == rows(), f"{subject.name} is wrong without any damage"
    outcomes: Counter[str] = Counter()
    bit, last = 0, 8 * len(subject.image)
    every = max(every, last // _MOST_FLIPS)
    while bit < last:

        def work(report: Callable[[bytes], None], start: int = bit) -> None:
            resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            for position in range(start, last, every):
                report(outcome(subject, position)[:1].encode())

        died = in_child(work)
        told = died.reports.partition(b"\n")[0].decode()
        outcomes.update(KINDS[letter] for letter in told)
        bit += every * len(told)
        if bit < last:
            outcomes["crashed"] += 1
            bit += every
    return outcomes


def outcome(subject: Subject, bit: int) -> str:
    """What came of one flipped bit."""
    changed = bytearray(subject.image)
    changed[bit // 8] ^= 1 << bit % 8
    try:
        found = subject.read(bytes(changed))
    except Exception:
        return "noticed"
    return "harmless" if found == rows() else "silently wrong"


def main(arguments: list[str] | None = None) -> int:
    """Print the table; the exit status is 1 if a flip in our files was silently wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=7, help="flip every n-th bit")
    parser.add_argument("--fast", action="store_true", help="few bits, to see that it works")
    options = parser.parse_args(arguments)
    every = 997 if options.fast else options.every
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours()
        subjects = [
            arrow("stream"),
            arrow("file"),
            parquet(checksum=False),
            parquet(checksum=True),
            sqlite_main(Path(folder)),
            sqlite_wal(Path(folder)),
            ours.subject(".adc", "asyncdistil commit log"),
            ours.subject(".ads", "asyncdistil segment"),
        ]
        print(f"pyarrow {pa.__version__}, SQLite {sqlite3.sqlite_version}, every {every}. bit\n")
        head = "noticed | harmless | crashed | silently wrong |"
        print(f"| {'format':28} | {'bytes':>7} | {'flips':>7} | {head}")
        print(f"|{'-' * 30}|{'-' * 8}:|{'-' * 8}:|{'-' * 8}:|{'-' * 9}:|{'-' * 8}:|{'-' * 15}:|")
        wrong = 0
        for subject in subjects:
            outcomes = trial(subject, every)
            flips = outcomes.total()
            kinds = ("noticed", "harmless", "crashed", "silently wrong")
            shares = [outcomes[kind] / flips for kind in kinds]
            print(
                f"| {subject.name:28} | {len(subject.image):7,} | {flips:7,} | {shares[0]:7.1%} | "
                f"{shares[1]:8.1%} | {shares[2]:7.2%} | {shares[3]:14.2%} |",
                flush=True,
            )
            if subject.name.startswith("asyncdistil"):
                wrong += outcomes["silently wrong"]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
