from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from asyncdistil.log.failpoint import arm as arm_failpoints
from asyncdistil.memo import Key, Memo

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
            deadline = time.monotonic() + PATIENCE_SECONDS
            done = 0
            while not done:
                done, status = os.waitpid(self.pid, os.WNOHANG)
                assert time.monotonic() < deadline, "the child hangs"
                os.sched_yield()
            self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def close(self) -> None:
        self.kill()
        self.wait()
        with suppress(OSError):
            os.close(self._read)


def key(number: int | str, model: str = "some model") -> Key:
    return Key.of(f"request {number}".encode(), model=model)


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
