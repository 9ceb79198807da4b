"""Where should the memo look up a million answers: a dict, a packed table, LMDB or SQLite?

    python benchmarks/memo_index.py [--entries 1000000]

Each candidate maps 20-byte names (digest of a request, sample number) to 12-byte places. Reported
are look-ups a second in random order, hits and misses; private memory an entry of a process that
holds the index; the time to build it, and to open it in a new process; how many entries a second
four processes add at once; and what one flipped bit in every 64 KiB of its file does to look-ups.
At last whole hits of the memo itself: place, read, both hashes, preimage. Rates of look-ups and the
time to build are of CPU time, so that a busy machine falsifies them less.

LMDB is measured only where its binding is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import shutil
import signal
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from asyncdistil.log import LocalFiles
from asyncdistil.memo import Key, Memo
from asyncdistil.memo.index import Index
from asyncdistil.memo.packed import PLACE, Covered, load

LOOKUPS = 200_000
WRITERS = 4


class Candidate(Protocol):
    """An index under test."""

    def build(self, names: list[bytes]) -> None: ...

    def open(self) -> Callable[[bytes], bytes | None]: ...

    def add(self, names: list[bytes]) -> None: ...

    def file(self) -> Path | None: ...


class InDict:
    """A dict over the segments; a new process reads the segments again."""

    def __init__(self, folder: Path) -> None:
        self.index = Index()

    def build(self, names: list[bytes]) -> None:
        for number, name in enumerate(names):
            self.index.put(bytes(bytearray(name)), PLACE.pack(1, number, 20))

    def open(self) -> Callable[[bytes], bytes | None]:
        return self.index.find

    def add(self, names: list[bytes]) -> None:
        self.build(names)

    def file(self) -> Path | None:
        return None


class InTable(InDict):
    """The packed table, written once and read whole."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path = folder / "table"

    def build(self, names: list[bytes]) -> None:
        super().build(names)
        packed = self.index.pack({1: Covered(8 * len(names), True)})
        fd = LocalFiles().create(self.path)
        packed.write(LocalFiles(), fd)
        os.close(fd)
        self.index = Index()

    def open(self) -> Callable[[bytes], bytes | None]:
        fd = os.open(self.path, os.O_RDONLY)
        packed = load(LocalFiles(), fd)
        os.close(fd)
        if packed is None:
            raise ValueError("damage found")
        return Index(packed).find

    def file(self) -> Path | None:
        return self.path


class InSqlite:
    """SQLite with a write-ahead log."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "index.db"
        with self._connect() as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("CREATE TABLE t (k BLOB PRIMARY KEY, v BLOB) WITHOUT ROWID")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    def build(self, names: list[bytes]) -> None:
        connection = self._connect()
        connection.execute("BEGIN")
        rows = ((name, PLACE.pack(1, number, 20)) for number, name in enumerate(names))
        connection.executemany("INSERT OR REPLACE INTO t VALUES (?, ?)", rows)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()

    def open(self) -> Callable[[bytes], bytes | None]:
        connection = self._connect()
        connection.execute("PRAGMA mmap_size=1073741824")
        execute = connection.execute

        def find(name: bytes) -> bytes | None:
            row = execute("SELECT v FROM t WHERE k = ?", (name,)).fetchone()
            return row[0] if row else None

        return find

    def add(self, names: list[bytes]) -> None:
        connection = self._connect()
        for name in names:
            connection.execute("INSERT OR REPLACE INTO t VALUES (?, ?)", (name, bytes(12)))
        connection.close()

    def file(self) -> Path | None:
        return self.path


class InLmdb:
    """LMDB, a transaction an entry, synced by whoever needs it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lmdb"

    def _open(self) -> Any:
        import lmdb

        return lmdb.open(str(self.path), map_size=4 << 30, sync=False, metasync=False)

    def build(self, names: list[bytes]) -> None:
        environment = self._open()
        with environment.begin(write=True) as transaction:
            for number, name in enumerate(names):
                transaction.put(name, PLACE.pack(1, number, 20))
        environment.sync(True)
        environment.close()

    def open(self) -> Callable[[bytes], bytes | None]:
        environment = self._open()
        transaction = environment.begin()
        return lambda name, _keep=environment: transaction.get(name)  # type: ignore[misc]

    def add(self, names: list[bytes]) -> None:
        environment = self._open()
        for name in names:
            with environment.begin(write=True) as transaction:
                transaction.put(name, bytes(12))
        environment.close()

    def file(self) -> Path | None:
        return self.path / "data.mdb"


def in_child(work: Callable[[], str]) -> str:
    """Run in a process of its own and return what it says, or how it died."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(write, work().encode())
        except BaseException as error:
            os.write(write, f"{type(error).__name__}: {error}".encode()[:100])
        os._exit(0)
    os.close(write)
    said = b""
    while part := os.read(read, 4096):
        said += part
    os.close(read)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return said.decode()


def private_bytes() -> int:
    text = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * sum(
        int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_")
    )


def per_second(find: Callable[[bytes], object], wanted: list[bytes]) -> float:
    started = time.process_time()
    for name in wanted:
        find(name)
    return len(wanted) / (time.process_time() - started)


def measure(kind: Callable[[Path], Candidate], names: list[bytes], folder: Path) -> None:
    rng = random.Random(1)
    wanted = rng.sample(names, min(LOOKUPS, len(names)))
    absent = [os.urandom(16) + bytes(4) for _ in wanted]
    candidate = kind(folder)
    before = private_bytes()
    started = time.process_time()
    candidate.build(names)
    built = time.process_time() - started
    held = private_bytes() - before

    def look_up() -> str:
        base = private_bytes()
        started = time.perf_counter()
        find = candidate.open()
        find(names[0])
        opened = time.perf_counter() - started
        size = held if candidate.file() is None else private_bytes() - base
        hits = max(per_second(find, wanted) for _ in range(3))
        misses = max(per_second(find, absent) for _ in range(3))
        return (
            f"{hits:,.0f} hits/s, {misses:,.0f} misses/s, {size / len(names):.0f} B private an "
            f"entry, opened in {opened:.3f} s"
        )

    print(f"  built in {built:.1f} s; {in_child(look_up)}", flush=True)
    if candidate.file() is None:
        return
    print(f"  {added_at_once(candidate)}", flush=True)
    print(f"  damaged: {in_child(lambda: damaged(candidate, names, wanted))}", flush=True)


def added_at_once(candidate: Candidate) -> str:
    """Let processes add at once; the table takes no single entries, its segments do."""
    if isinstance(candidate, InTable):
        return "takes no entries: they go into segments and dicts"
    count = 2000
    started = time.perf_counter()
    pids = []
    for _ in range(WRITERS):
        pid = os.fork()
        if not pid:
            with suppress(BaseException):
                candidate.add([os.urandom(20) for _ in range(count)])
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    rate = WRITERS * count / (time.perf_counter() - started)
    return f"{WRITERS} processes add {rate:,.0f} entries/s"


def damaged(candidate: Candidate, names: list[bytes], wanted: list[bytes]) -> str:
    path = candidate.file()
    assert path is not None
    with path.open("r+b") as file:
        for at in range(5000, path.stat().st_size, 65536):
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes((byte[0] ^ 4,)))
    place = {name: PLACE.pack(1, number, 20) for number, name in enumerate(names)}
    find = candidate.open()
    found = [find(name) for name in wanted]
    wrong = sum(f is not None and f != place[n] for n, f in zip(wanted, found, strict=True))
    return f"{wrong} wrong and {found.count(None)} missing of {len(wanted)}, without a word"


def whole_memo(folder: Path, entries: int) -> None:
    keys = [Key.of(b"%d" % n + bytes(300), model="m") for n in range(entries)]
    body = os.urandom(600)

    def write(part: int) -> None:
        memo = Memo.open(folder)
        for key in keys[part::WRITERS]:
            memo.put(key, 0, body)
        os._exit(0)  # without an index

    started = time.perf_counter()
    pids = []
    for part in range(WRITERS):
        pid = os.fork()
        if not pid:
            write(part)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    rate = entries / (time.perf_counter() - started)
    print(f"  {WRITERS} processes put {rate:,.0f} answers/s of 600 B", flush=True)

    def make_index() -> str:
        started = time.process_time()
        Memo.open(folder).close()
        return f"index made anew in {time.process_time() - started:.1f} s"

    print(f"  {in_child(make_index)}", flush=True)
    wanted = random.Random(2).sample(keys, min(LOOKUPS, len(keys)))

    def use() -> str:
        before, started = private_bytes(), time.perf_counter()
        memo = Memo.open(folder)
        opened = time.perf_counter() - started
        size = (private_bytes() - before) / entries

        def rate_of(sample: int) -> float:
            started = time.process_time()
            for key in wanted:
                memo.get(key, sample)
            return len(wanted) / (time.process_time() - started)

        hits, misses = (max(rate_of(sample) for _ in range(3)) for sample in (0, 1))
        return (
            f"{hits:,.0f} whole hits/s, {misses:,.0f} misses/s, {size:.0f} B private an entry, "
            f"opened in {opened:.3f} s"
        )

    print(f"  {in_child(use)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=1_000_000)
    entries = parser.parse_args().entries
    names = [os.urandom(16) + bytes(4) for _ in range(entries)]
    kinds: list[Callable[[Path], Candidate]] = [InTable, InDict, InSqlite]
    if importlib.util.find_spec("lmdb") is not None:
        kinds.append(InLmdb)
    for kind in kinds:
        print(f"{kind.__doc__}", flush=True)
        folder = Path(tempfile.mkdtemp(prefix="memo-index-"))
        try:
            # In a child each, so that one's memory is not another's.
            print(in_child(lambda k=kind, f=folder: measure(k, names, f) or ""), end="")  # type: ignore[misc]
        finally:
            shutil.rmtree(folder)
    print("The memo itself.", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="memo-index-"))
    try:
        print(in_child(lambda: whole_memo(folder, entries) or ""), end="")  # type: ignore[func-returns-value]
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
