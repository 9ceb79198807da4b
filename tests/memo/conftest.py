from __future__ import annotations

import os
import random
import select
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from xxhash import xxh3_128_digest

from asyncdistil.batch import FRESH_ORIGINS, Digest, Lsn, RunId, StepName
from asyncdistil.codec import encode_rows
from asyncdistil.log import LocalFiles, SegmentWriter, Store
from asyncdistil.log.events import Commit, Emit, Reuse, RunBegin, RunEnd, StepDef
from asyncdistil.log.failpoint import arm as arm_failpoints
from asyncdistil.log.names import label_store
from asyncdistil.memo import Key, Memo
from asyncdistil.testing.faults import small_reserve

PATIENCE_SECONDS = 30.0


class Child:
    """A forked process that runs a function and says what it has done, a line at a time."""

    def __init__(self, work: Callable[[Callable[[str], None]], None]) -> None:
        self._read, write = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(self._read)
            status = 1
            try:
                work(lambda line: os.write(write, line.encode() + b"\n") and None)
                status = 0
            finally:
                os._exit(status)
        os.close(write)
        self.status: int | None = None

    def line(self) -> str:
        """The next line that it says."""
        found = b""
        while not found.endswith(b"\n"):
            byte = os.read(self._read, 1)
            if not byte:
                raise EOFError
            found += byte
        return found.decode().rstrip("\n")

    def rest(self) -> list[str]:
        """Everything that it says until it ends."""
        parts = []
        while part := os.read(self._read, 65536):
            parts.append(part)
        return b"".join(parts).decode().splitlines()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Exit status, negative for a signal."""
        if self.status is None:
            ends = os.pidfd_open(self.pid)
            try:
                assert select.select([ends], [], [], PATIENCE_SECONDS)[0], "the child hangs"
            finally:
                os.close(ends)
            _, status = os.waitpid(self.pid, 0)
            self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def close(self) -> None:
        self.kill()
        self.wait()
        with suppress(OSError):
            os.close(self._read)


def key(number: int | str, model: str = "some model") -> Key:
    return Key.of(f"request {number}".encode(), model=model)


class TakesAll(random.Random):
    """The power cut that takes everything it may."""

    def random(self) -> float:
        return 0.999

    def choice(self, options: Any) -> Any:
        return options[0]


@pytest.fixture
def takes_all() -> random.Random:
    return TakesAll()


def run_of(
    cache: Path,
    name: str,
    run: RunId,
    *,
    samples: Sequence[tuple[bytes, int]] = (),
    reused: Sequence[Lsn] = (),
    seconds: float = 1.0,
) -> Lsn:
    """A completed run of one step that took these samples; the LSN of its commit."""
    lineage, leaf = Digest(b"lineage of a st1"), StepName("step")
    with small_reserve():
        store = Store.open(cache, name)
    label_store(store.root, name)
    store.append([RunBegin(run, "sig", "agg", b"", seconds, False, (lineage,))])
    if store.step_def(lineage) is None:
        store.append([StepDef(lineage, leaf, b"definition")])
    segment, fd = store.create_segment(lineage)
    writer = SegmentWriter(fd, segment, store.id, LocalFiles())
    refs = writer.append(encode_rows([{"run": run, "n": n} for n in range(4)], step="s"))
    digests = (Digest(bytes(16)),)
    commit = Commit(run, lineage, (), digests, refs, FRESH_ORIGINS, samples=tuple(samples))
    (lsn,) = store.append([commit])
    if reused:
        store.append([Reuse(run, lineage, tuple(reused))])
    file = f"exports/{run}/{'b' * 32}-0.arrow"
    (store.root / file).parent.mkdir(parents=True)
    (store.root / file).write_bytes(b"rows" * 50)
    key = Digest(xxh3_128_digest(b"rows" * 50))
    store.append([Emit(run, key, leaf, "default", ((file, key),), 4)])
    store.append([RunEnd(run, True, key, 0, "", seconds)])
    store.close(clean=True)
    return Lsn(lsn)


@pytest.fixture
def make_run() -> Callable[..., Lsn]:
    return run_of


@pytest.fixture
def make_child() -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def make(work: Callable[[Callable[[str], None]], None]) -> Child:
        children.append(Child(work))
        return children[-1]

    yield make
    for child in children:
        child.close()


@pytest.fixture(name="key")
def key_fixture() -> Callable[..., Key]:
    return key


@pytest.fixture
def memo_dir(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "memo"


@pytest.fixture
def arm() -> Iterator[Callable[[str], None]]:
    """Arm failpoints for one test."""
    yield arm_failpoints
    arm_failpoints("")


@pytest.fixture
def open_memo(memo_dir: Path) -> Iterator[Callable[..., Memo]]:
    opened: list[Memo] = []

    def make(**options: object) -> Memo:
        opened.append(Memo.open(memo_dir, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield make
    for memo in opened:
        memo.close()
