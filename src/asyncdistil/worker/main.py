"""From the first line of a worker process to its last."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from asyncdistil.batch import SegmentId
from asyncdistil.errors import TransportError, WorkerLoadFailed
from asyncdistil.log import SegmentReader, SegmentWriter
from asyncdistil.transport import Channel, brokers
from asyncdistil.transport.lifeline import Lifeline, follow_parent
from asyncdistil.transport.messages import Done, Fatal, Finish, Load, Loaded, LoadFailed
from asyncdistil.worker.bench import Bench
from asyncdistil.worker.claims import connect_brokers
from asyncdistil.worker.ending import exit_status, leave
from asyncdistil.worker.isolate import FATAL
from asyncdistil.worker.loading import rebuild, secrets_of, settle_in
from asyncdistil.worker.mailbox import Mailbox
from asyncdistil.worker.scrub import Scrubber

_EXPORTER = "asyncdistil.distiset.exporter"


def main() -> None:
    """Run one worker: ``argv`` holds socket, segment (or -1) and parent pid, as `spawn` says."""
    sock_fd, segment_fd, parent = map(int, sys.argv[1:4])
    follow_parent(parent)
    run(sock_fd, segment_fd)


def run(sock_fd: int, segment_fd: int) -> NoReturn:
    """Serve the socket, then end the process."""
    _take_signals()
    for fd in (sock_fd, segment_fd):
        if fd >= 0:
            os.set_inheritable(fd, False)
    lifeline = Lifeline(sock_fd)
    channel = Channel(socket.socket(fileno=sock_fd))
    try:
        code = _serve(channel, segment_fd, lifeline)
    except TransportError as error:
        # Its text names no user data, and nobody reads the socket any more.
        sys.stderr.write(f"worker ends: {error}\n")
        code = os.EX_UNAVAILABLE
    except SystemExit as error:
        code = exit_status(error)
    leave(code)


def _serve(channel: Channel, segment_fd: int, lifeline: Lifeline) -> int:
    first, *rest = channel.receive()
    if not isinstance(first, Load):
        raise TransportError(f"a worker's first message must be Load, not {type(first).__name__}")
    channel.put_back(rest)
    if first.role == "export":
        import_module(_EXPORTER).serve(channel, first)
        _await_finish(Mailbox(channel))
        lifeline.let_go()
        channel.send(Done())
        return os.EX_OK
    from asyncdistil.worker.logs import forward_logs

    scrubber = Scrubber(os.environ)
    forward_logs(channel, scrubber)
    mailbox = Mailbox(channel)
    bench = _load(first, mailbox, segment_fd, scrubber)
    if bench is None:
        return os.EX_CONFIG
    try:
        serve, unloads = _executor(first, bench)
        serve()
        if not unloads:
            bench.step.unload()
    except FATAL as error:
        if isinstance(error, TransportError):
            raise
        bench.outbox.flush()
        channel.send(Fatal(type(error).__name__, scrubber.text(str(error))))
        _await_finish(mailbox)
    except SystemExit:
        with suppress(Exception):
            bench.step.unload()
        raise
    lifeline.let_go()
    channel.send(Done())
    return os.EX_OK


def _load(load: Load, mailbox: Mailbox, segment_fd: int, scrubber: Scrubber) -> Bench | None:
    """Make the step ready and say so; ``None`` if that failed, which is then said too."""
    started = time.monotonic()
    claims, permits = connect_brokers(mailbox)
    brokers.install(
        brokers.Surroundings(claims, permits, load.memo, load.run, load.step, load.replica)
    )
    try:
        lost = settle_in(load)
        made, code = rebuild(load)
        scrubber.learn(secrets_of(made))
        if load.role == "step":
            made.load()
            scrubber.learn(secrets_of(made))
    except BaseException as error:
        if isinstance(error, TransportError):
            raise
        mailbox.channel.send(LoadFailed(_load_failure(error, load, scrubber)))
        return None
    root = Path(load.store)
    writer = None
    if load.segment:
        writer = SegmentWriter(segment_fd, SegmentId(load.segment), load.store_id)
    bench = Bench(
        made,
        load.step,
        reader=SegmentReader(root, load.store_id),
        writer=writer,
        mailbox=mailbox,
        scrubber=scrubber,
    )
    # What is here now stays until the end: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    if lost:
        import logging

        logging.getLogger("asyncdistil.worker").warning("%s", lost)
    mailbox.channel.send(Loaded(code, time.monotonic() - started))
    return bench


def _load_failure(error: BaseException, load: Load, scrubber: Scrubber) -> Any:
    if isinstance(error, SystemExit):
        error = WorkerLoadFailed(
            f"loading step {load.step!r} called sys.exit({error.code!r}): remove that call, or "
            "raise an exception that says what is missing"
        )
    return scrubber.describe(error)


def _executor(load: Load, bench: Bench) -> tuple[Callable[[], None], bool]:
    """What serves this role, and whether it unloads the step itself."""
    if load.role == "router":
        from asyncdistil.worker.routing import RouterExecutor

        return RouterExecutor(bench, bench.step).serve, True  # type: ignore[arg-type]
    step = bench.step
    kind = step.kind()
    if kind == "generator":
        from asyncdistil.worker.generating import GeneratorExecutor

        def fresh() -> Any:
            made, _ = rebuild(load)
            made.load()
            return made

        return GeneratorExecutor(bench, fresh).serve, False
    if kind == "row" and (step.asynchronous or step.concurrency > 0):
        from asyncdistil.worker.rows import RowExecutor

        return RowExecutor(bench).serve, True
    from asyncdistil.worker.batches import BatchExecutor

    return BatchExecutor(bench).serve, False


def _await_finish(mailbox: Mailbox) -> None:
    """Stay until we are told to go: an exit now would be taken for a death."""
    while not isinstance(mailbox.next(lambda: None), Finish):
        pass


def _take_signals() -> None:
    import faulthandler

    # A terminal's interrupt is the supervisor's business; workers hear of it over the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _asked_to_end)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    faulthandler.enable(all_threads=True)
    faulthandler.register(signal.SIGUSR1, all_threads=True)


def _asked_to_end(_signal: int, _frame: FrameType | None) -> NoReturn:
    # Raised wherever the main thread is, so that `unload` has the grace to run.
    raise SystemExit(128 + signal.SIGTERM)
