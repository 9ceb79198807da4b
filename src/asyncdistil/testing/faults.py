"""A store and a memo that live through power cuts and killed processes, with an honest witness.

A `Life` works on the real layout: a commit log, segments, memo files. It keeps its own account of
what was promised: a commit below `Store.durable` survives everything, an appended one survives the
death of the process. `Life.check` compares a disk with that account. Nothing here is a stand-in:
the store, the memo and their order of syncing are the ones that runs use.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from asyncdistil.batch import (
    SAME_ORIGINS,
    BatchRef,
    Digest,
    Row,
    RowSlice,
    RunId,
    SegmentId,
    StepName,
)
from asyncdistil.codec import encode_rows
from asyncdistil.log import Files, LocalFiles, SegmentWriter, Store
from asyncdistil.log import store as store_module
from asyncdistil.log.events import Commit, StepDef
from asyncdistil.log.view import StoreView
from asyncdistil.memo import Key, Memo
from asyncdistil.supervisor.memo_sync import MemoSync
from asyncdistil.testing.disk import PowerCut

NAME = "a life"
LINEAGE = Digest(b"lineage of faults"[:16])
RUN = RunId("f" * 32)

_LONG_TEXT = "x" * 1500  # a row over several sectors


def rows_of(number: int, rows: int) -> list[Row]:
    """What commit ``number`` holds."""
    text = _LONG_TEXT if number % 11 == 0 else "x" * (number % 60)
    return [{"number": number, "row": i, "text": text} for i in range(rows)]


def answer_of(number: int) -> bytes:
    """What the memo holds as answer ``number``."""
    return b"answer %d " % number + b"y" * (number * 37 % 900)


def key_of(number: int) -> Key:
    """Under which key."""
    return Key.of(b"request %d" % number, model="a model")


def commit_of(
    refs: tuple[BatchRef, ...], number: int, samples: tuple[tuple[bytes, int], ...] = ()
) -> Commit:
    """The commit that names some records; its number stands in its ordinal."""
    inputs = tuple(RowSlice(ref, 0, ref.rows) for ref in refs)
    digests = tuple(ref.digest for ref in refs)
    return Commit(
        RUN, LINEAGE, (inputs,), digests, refs, SAME_ORIGINS, ordinal=number, samples=samples
    )


class Found(NamedTuple):
    """A commit read back.

    Attributes:
        number: Its number.
        answer: Number of the answer that it took out of the memo, 0 for none.
    """

    number: int
    answer: int = 0


def read_back(view: StoreView) -> list[Found]:
    """Every commit of a store, after comparing each of its rows with what was written.

    Raises:
        AssertionError: A row is not what was written.
        CorruptRecord: Damage was found.
    """
    reader = view.reader()
    try:
        found = []
        for _, commit in view.commits(LINEAGE):
            for ref in commit.outputs:
                rows = reader.rows(RowSlice(ref, 0, ref.rows))
                assert rows == rows_of(commit.ordinal, ref.rows), f"commit {commit.ordinal} differs"
            found.append(Found(commit.ordinal, *(number for _, number in commit.samples)))
        return found
    finally:
        reader.close()


class Worker:
    """The one writer of a segment."""

    def __init__(self, store: Store, files: Files | None) -> None:
        self.store = store
        self.number, fd = store.create_segment(LINEAGE)
        self.segment = SegmentWriter(fd, SegmentId(self.number), store.id, files)

    def write(self, number: int, rows: int) -> tuple[BatchRef, ...]:
        """Append the rows of a commit."""
        return self.segment.append(encode_rows(rows_of(number, rows), step="s"))


class Life:
    """Sessions on one disk, and what they were promised.

    Attributes:
        files: The disk; replaced by what a cut leaves of it.
        appended: Commits in order, as the log must have them.
        promised: How many of them are known to be durable.
        owed: Answers that acknowledged commits took from the memo.
    """

    def __init__(
        self, rng: random.Random, files: Files, *, cache: Path = Path("/cache"), memo: bool = True
    ) -> None:
        self.rng = rng
        self.files = files
        self.cache = cache
        self.appended: list[Found] = []
        self.promised = 0
        self._with_memo = memo
        self._adopted = 0
        self._answers = 0
        self.owed: set[int] = set()
        self._lsns: list[int] = []
        self._next = 0
        self._store: Store | None = None

    # --- work --------------------------------------------------------------------------------

    def session(self, *, acts: int = 12) -> None:
        """Open, check, work a little, close: in order or as a crash would."""
        rng = self.rng
        store = self.open()
        memo, sync = self._open_memo(store)
        workers = [Worker(store, self.files)]
        for _ in range(rng.randint(1, acts)):
            choice = rng.random()
            if choice < 0.5:
                self.commit(rng.choice(workers), rows=rng.randint(1, 4))
            elif choice < 0.65 and memo is not None and sync is not None:
                self.commit(rng.choice(workers), rows=1, answer=self._answer(memo))
            elif choice < 0.9:
                store.flush()
            elif len(workers) < 3:
                workers.append(Worker(store, self.files))
        if memo is not None:
            memo.close()
        store.close(clean=rng.random() < 0.5)
        self.note()
        self.promised = len(self.appended)
        self._store = None

    def open(self) -> Store:
        """Open the store and hold it to the account; what it has is the account from now on."""
        self._store = None
        store = Store.open(self.cache, NAME, files=self.files)
        found = read_back(store)
        self.check(found)
        self.adopt(found)
        self._owe(found)
        self._store = store
        if not found:
            store.append([StepDef(LINEAGE, StepName("a step"), b"definition")])
        return store

    def commit(self, worker: Worker, *, rows: int, answer: int = 0) -> int:
        """Append rows and the commit that names them, and the answer that it took.

        Returns:
            Its number.
        """
        self._next += 1
        number = self._next
        self.appended.append(Found(number, answer))
        samples = ((key_of(answer).digest, answer),) if answer else ()
        refs = worker.write(number, rows)
        lsns = worker.store.append([commit_of(refs, number, samples)])
        self._lsns.append(lsns[0])
        return number

    def _answer(self, memo: Memo) -> int:
        """Take an answer that somebody left in the memo, or put a new one there."""
        if self._answers and self.rng.random() < 0.4:
            old = self.rng.randint(1, self._answers)
            if memo.get(key_of(old), old) == answer_of(old):
                return old
        self._answers += 1
        memo.put(key_of(self._answers), self._answers, answer_of(self._answers))
        return self._answers

    def note(self) -> None:
        """Write down what the store vouches for at this moment."""
        if self._store is not None:
            durable = self._store.durable
            above = sum(lsn <= durable for lsn in self._lsns)
            self.promised = max(self.promised, self._adopted + above)
            mine = self.appended[self._adopted : self.promised]
            self.owed.update(item.answer for item in mine if item.answer)

    def adopt(self, found: Sequence[Found]) -> None:
        """Go on from what a disk holds."""
        self.appended = list(found)
        self.promised = self._adopted = len(found)
        self._lsns = []
        self._next = max([self._next, *(item.number for item in found)])

    def forget_store(self) -> None:
        """Let go of the store of a session that was cut short."""
        self._store = None

    # --- cuts --------------------------------------------------------------------------------

    def until_power_cut(self, acts: int, before: Callable[[Callable[[], None]], None]) -> None:
        """Work until the power fails.

        Args:
            acts: It fails at one of the next so many acts of the disk.
            before: Has a function called before every act.
        """
        countdown = self.rng.randint(0, acts)
        mine = self

        def tick() -> None:
            nonlocal countdown
            countdown -= 1
            if countdown < 0:
                mine.note()
                raise PowerCut

        before(tick)
        try:
            while True:
                self.session()
        except PowerCut:
            self._store = None

    # --- the account -------------------------------------------------------------------------

    def check(self, found: Sequence[Found], *, least: int | None = None) -> None:
        """Hold what was found to the account.

        Args:
            found: Commits that a disk holds.
            least: How many must be there; what was promised, if not given.

        Raises:
            AssertionError: Something promised is missing, or something is there that was not
                written, or out of order.
        """
        least = self.promised if least is None else least
        numbers = [item.number for item in found]
        expected = [item.number for item in self.appended]
        assert len(numbers) >= least, f"{least} commits were promised, {len(numbers)} are there"
        assert numbers == expected[: len(numbers)], f"{numbers} is no beginning of {expected}"

    def check_memo(self, files: Files) -> None:
        """Every answer that an acknowledged commit took must be in the memo.

        So must those of commits that only a recovery made durable, if it found them there: a power
        cut may take an answer and leave the rows made of it, as long as nobody vouched for either.
        """
        if self.owed:
            memo = Memo.open(self.cache / "memo", files=files)
            for number in self.owed:
                found = memo.get(key_of(number), number)
                assert found == answer_of(number), f"answer {number} is lost"

    def _owe(self, found: Sequence[Found]) -> None:
        """Owe what commits that were found took, as far as the memo has it at this moment."""
        news = {item.answer for item in found if item.answer} - self.owed
        memo = Memo.peek(self.cache / "memo", files=self.files) if news else None
        if memo is not None:
            self.owed |= {n for n in news if memo.get(key_of(n), n) == answer_of(n)}
            memo.close()

    def _open_memo(self, store: Store) -> tuple[Memo | None, MemoSync | None]:
        if not self._with_memo:
            return None, None
        sync = MemoSync(store, str(self.cache / "memo"), self.files)
        memo = Memo.open(self.cache / "memo", files=self.files, on_segment=sync.add)
        return memo, sync


@contextmanager
def small_reserve() -> Iterator[None]:
    """Stores made meanwhile keep a reserve of one sector, which makes copies of a disk cheap."""
    usual = store_module.RESERVE_BYTES
    store_module.RESERVE_BYTES = 512
    try:
        yield
    finally:
        store_module.RESERVE_BYTES = usual


# --- killed processes ---------------------------------------------------------------------------


class Died(NamedTuple):
    """How a forked child ended.

    Attributes:
        killed: By SIGKILL, not by an end of its own.
        status: Its exit status if it was not killed.
        reports: Bytes that it sent before.
    """

    killed: bool
    status: int
    reports: bytes


def in_child(work: Callable[[Callable[[bytes], None]], None]) -> Died:
    """Fork, work in the child, wait for its end.

    Args:
        work: Given a function that reports bytes to this process: what was reported was reached,
            however the child ends. An exception is status 70 and its text the report.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 70
        try:
            os.close(read)
            work(lambda data: _write_all(write, data))
            status = 0
        except BaseException as error:
            _write_all(write, f"\n!{type(error).__name__}: {error}".encode("utf-8", "replace"))
        finally:
            os._exit(status)
    os.close(write)
    parts = []
    while part := os.read(read, 1 << 16):
        parts.append(part)
    os.close(read)
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return Died(killed, os.waitstatus_to_exitcode(status), b"".join(parts))


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


class DyingFiles(LocalFiles):
    """The real disk, for a process that dies at its n-th act on it.

    What a process leaves on a disk changes only at system calls. So all moments at which it can be
    killed come down to: before an act, after it, or, for a write, with a part of it done.

    Args:
        act: Number of the act, from 1; 0 never dies and only counts.
        share: Part of a write that is done, 0 to 1.
    """

    def __init__(self, act: int = 0, share: float = 0.0) -> None:
        self.acts = 0
        self._act = act
        self._share = share

    def _due(self) -> bool:
        self.acts += 1
        return self.acts == self._act

    def _die_if_due(self) -> None:
        if self._due():
            os.kill(os.getpid(), signal.SIGKILL)

    def create(self, path: Path) -> int:
        """Create, or die first."""
        self._die_if_due()
        return super().create(path)

    def writev(self, fd: int, buffers: Sequence[bytes | bytearray | memoryview]) -> int:
        """Write, or write a part and die."""
        if self._due():
            data = b"".join(buffers)
            os.write(fd, data[: int(len(data) * self._share)])
            os.kill(os.getpid(), signal.SIGKILL)
        return super().writev(fd, buffers)

    def fdatasync(self, fd: int) -> None:
        """Sync, or die first."""
        self._die_if_due()
        super().fdatasync(fd)

    def fsync_dir(self, path: Path) -> None:
        """Sync a directory, or die first."""
        self._die_if_due()
        super().fsync_dir(path)

    def replace(self, source: Path, target: Path) -> None:
        """Rename, or die first."""
        self._die_if_due()
        super().replace(source, target)

    def unlink(self, path: Path) -> None:
        """Unlink, or die first."""
        self._die_if_due()
        super().unlink(path)

    def make_private_dir(self, path: Path) -> bool:
        """Make a directory, or die first."""
        self._die_if_due()
        return super().make_private_dir(path)
