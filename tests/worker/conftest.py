from __future__ import annotations

import itertools
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import cloudpickle
import pytest

from asyncdistil.batch import BatchRef, Digest, Row, RowSlice, StepName
from asyncdistil.codec import encode_rows
from asyncdistil.log import SegmentReader, SegmentWriter, Store
from asyncdistil.transport.frames import FROM_WORKER, FrameReader, encode_frames
from asyncdistil.transport.messages import (
    Done,
    Finish,
    FromWorker,
    Lease,
    Load,
    Loaded,
    LogLine,
    ToWorker,
)

M = TypeVar("M")
PATIENCE_SECONDS = 30


class Rig:
    """A worker process and the supervisor's end of its socket."""

    def __init__(self, store: Store, environment: dict[str, str]) -> None:
        self.store = store
        self.reader = SegmentReader(store.root, store.id)
        self.segment, self.fd = store.create_segment(Digest(os.urandom(16)))
        self.logs: list[LogLine] = []
        self.inbox: list[FromWorker] = []
        self._frames: FrameReader[FromWorker] = FrameReader(FROM_WORKER)
        self.sock, theirs = socket.socketpair()
        self._sources = itertools.count()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "asyncdistil.worker"]
                + [str(n) for n in (theirs.fileno(), self.fd, os.getpid())],
                pass_fds=[theirs.fileno(), self.fd],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **environment},
            )

    # --- supervisor's side ---------------------------------------------------------------------

    def send(self, *messages: ToWorker) -> None:
        out = bytearray()
        encode_frames(messages, out)
        self.sock.sendall(out)

    def load(self, made: Any, *, role: str = "step", check: bool = False, **changes: Any) -> None:
        code = made.code() if check else None
        fields: dict[str, Any] = {
            "role": role,
            "step": StepName("under_test"),
            "payload": cloudpickle.dumps(made),
            "code": code.digest if code else None,
            "store": str(self.store.root),
            "store_id": self.store.id,
            "segment": self.segment,
            "memo": "",
            "run": "0" * 32,
            "sys_path": tuple(sys.path),
            "cwd": os.getcwd(),
            "replica": 0,
        }
        self.send(Load(**(fields | changes)))

    def next(self) -> FromWorker:
        """The next message that is no log line."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            while self.inbox:
                message = self.inbox.pop(0)
                if not isinstance(message, LogLine):
                    return message
                self.logs.append(message)
            if not select.select([self.sock], [], [], max(0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"the worker says nothing; its output: {self.output()}")
            received = self.sock.recv_into(self._frames.room())
            if not received:
                raise EOFError(str(self._frames.ended() or "closed"))
            self.inbox += self._frames.take(received)
            assert self._frames.broken is None, self._frames.broken

    def expect(self, kind: type[M]) -> M:
        message = self.next()
        assert isinstance(message, kind), message
        return message

    def start(self, made: Any, **options: Any) -> Loaded:
        self.load(made, **options)
        return self.expect(Loaded)

    def finish(self) -> int:
        self.send(Finish())
        self.expect(Done)
        return self.wait()

    def wait(self) -> int:
        return self.process.wait(PATIENCE_SECONDS)

    def output(self) -> str:
        self.process.kill()
        out, _ = self.process.communicate(timeout=PATIENCE_SECONDS)
        return str(out, "utf-8", "replace")

    # --- rows -----------------------------------------------------------------------------------

    def store_rows(self, rows: Sequence[Row]) -> tuple[RowSlice, ...]:
        """Put rows into a segment of an imagined step above."""
        segment, fd = self.store.create_segment(Digest(os.urandom(16)))
        refs = SegmentWriter(fd, segment, self.store.id).append(encode_rows(rows, step="above"))
        return tuple(RowSlice(ref, 0, ref.rows) for ref in refs)

    def lease(self, number: int, *ports: Sequence[Row], **options: Any) -> Lease:
        lease = Lease(number, tuple(self.store_rows(rows) for rows in ports), **options)
        self.send(lease)
        return lease

    def rows(self, outputs: Sequence[BatchRef]) -> list[Row]:
        return [row for ref in outputs for row in self.reader.rows(RowSlice(ref, 0, ref.rows))]

    def close(self) -> None:
        self.sock.close()
        self.process.kill()
        self.process.communicate(timeout=PATIENCE_SECONDS)
        self.reader.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "cache", "under test", mode="process")
    yield store
    store.close(clean=False)


@pytest.fixture
def make_rig(store: Store) -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make(**environment: str) -> Rig:
        rigs.append(Rig(store, environment))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    return make_rig()


@pytest.fixture(autouse=True)
def steps_travel_by_value(request: pytest.FixtureRequest) -> Iterator[None]:
    """The worker can't import test modules; their classes travel as a user's would."""
    module = request.module
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


def killed(rig: Rig) -> bool:
    return rig.wait() == -signal.SIGKILL
