"""Roles that run a user's code: load it, serve it, end in order."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncdistil.batch import Digest, SegmentId
from asyncdistil.errors import TransportError, WorkerLoadFailed
from asyncdistil.log import SegmentReader, SegmentWriter
from asyncdistil.transport import Channel, brokers
from asyncdistil.transport.lifeline import Lifeline
from asyncdistil.transport.messages import Done, Fatal, Load, Loaded, LoadFailed
from asyncdistil.worker.bench import Bench
from asyncdistil.worker.claims import connect_brokers
from asyncdistil.worker.ending import Terminated, undisturbed, unload_quietly
from asyncdistil.worker.isolate import FATAL
from asyncdistil.worker.loading import rebuild, secrets_of, settle_in
from asyncdistil.worker.logs import forward_logs
from asyncdistil.worker.mailbox import Mailbox, await_finish
from asyncdistil.worker.memo import MemoOfWorker
from asyncdistil.worker.scrub import Scrubber

if TYPE_CHECKING:
    from asyncdistil.memo import RowMemo


def serve(channel: Channel, load: Load, segment_fd: int, lifeline: Lifeline) -> int:
    """Become the step or router that ``load`` describes, work until `Finish`.

    Returns:
        Exit status.

    Raises:
        TransportError: The supervisor is gone or broke the protocol.
    """
    scrubber = Scrubber(os.environ)
    forward_logs(channel, scrubber)
    mailbox = Mailbox(channel)
    started = time.monotonic()
    found = _load(load, mailbox, segment_fd, scrubber)
    if found is None:
        return os.EX_CONFIG
    bench, code = found
    try:
        # Said inside, so that a worker that is ended from here on unloads.
        channel.send(Loaded(code, time.monotonic() - started))
        work, unloads = _executor(load, bench)
        work()
        if not unloads:
            unload_quietly(bench.step.unload)
        if bench.memo is not None:
            bench.memo.close()
    except FATAL as error:
        if isinstance(error, TransportError):
            raise
        bench.outbox.flush()
        with undisturbed():
            channel.send(Fatal(type(error).__name__, scrubber.text(str(error))))
            if load.role == "step":
                # Connections that nobody closes complain when they are collected.
                unload_quietly(bench.step.unload)
        await_finish(mailbox)
    except SystemExit:
        bench.outbox.flush()  # what was finished before counts
        if load.role == "step":
            unload_quietly(bench.step.unload)
        raise
    lifeline.let_go()
    channel.send(Done())
    return os.EX_OK


def _load(
    load: Load, mailbox: Mailbox, segment_fd: int, scrubber: Scrubber
) -> tuple[Bench, Digest | None] | None:
    """Make the step ready; ``None`` if that failed, which is then said."""
    claims, permits = connect_brokers(mailbox)
    around = brokers.Surroundings(claims, permits, load.memo, load.run, load.step, load.replica)
    brokers.install(around)
    memo = MemoOfWorker(load, mailbox.channel)
    rows: RowMemo | None = None
    try:
        lost = settle_in(load)
        made, code = rebuild(load)
        scrubber.learn(secrets_of(made))
        if load.role == "step":
            brokers.install(memo.offered(around, use_cache=made.use_cache))
            # By run, so that what a replayed row brings along is not what a later run made of it.
            made.set_artifacts_path(Path(load.store) / "artifacts" / load.run)
            made.load()
            scrubber.learn(secrets_of(made))
            if load.memo and getattr(made, "memoize", False) and made.kind() == "row":
                rows = memo.rows_of(made)
    except BaseException as error:
        if isinstance(error, TransportError | Terminated):
            raise
        if Terminated.was_raised:
            raise Terminated from error
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
        memo=memo,
        rows=rows,
    )
    # What is here now stays until the end: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    if lost:
        import logging

        logging.getLogger("asyncdistil.worker").warning("%s", lost)
    return bench, code


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
