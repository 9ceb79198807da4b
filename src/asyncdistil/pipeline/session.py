"""One run under way: the supervisor's own thread, its loop, its log.

The supervisor never runs on the caller's thread. The caller's loop is therefore never patched nor
blocked, user code in it cannot delay the workers, and workers hang on a thread that outlives them
(the kernel's parent-death signal follows the thread that spawned).
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgspec

from asyncdistil.batch import Digest, RowSlice, RunId, StepName
from asyncdistil.distiset.exporter import Layout
from asyncdistil.distiset.tables import exports_in_place
from asyncdistil.errors import AsyncDistilError, DataError, Interrupted, RunStopped, StoreLocked
from asyncdistil.graph.plan import RunPlan
from asyncdistil.launch import PreparedLauncher
from asyncdistil.log import Store, StoreReader, label_store
from asyncdistil.log.events import Emit, RunBegin, RunEnd
from asyncdistil.pipeline.keepsake import keep_pipeline, logged
from asyncdistil.pipeline.planning import PreparedRun
from asyncdistil.pipeline.watch import WATCHER
from asyncdistil.supervisor.in_flight import InFlight, lost_in_flight
from asyncdistil.supervisor.machine import Machine
from asyncdistil.supervisor.operator import NO_DIGEST
from asyncdistil.supervisor.progress import Progress
from asyncdistil.supervisor.shell import Outcome, Shell
from asyncdistil.supervisor.workforce import Launcher, Setting

_log = logging.getLogger("asyncdistil.pipeline")
_LOCK_POLL_SECONDS = 0.05

Rows = Callable[[StepName, tuple[RowSlice, ...]], None]


@dataclass
class Finished:
    """What a run left behind.

    Attributes:
        root: Directory of its store.
        emits: One per leaf.
        progress: Counters per step; empty for a complete hit.
        failed_rows: Rows that failed anywhere.
        run: Run id; empty for a complete hit.
        resumed: Whether an unfinished run was taken up.
        lost_in_flight: Rows per step that workers held when that run died.
        hit: Whether the stored dataset served without any work.
        seconds: Wall time.
    """

    root: Path
    emits: list[Emit]
    progress: Progress = field(default_factory=dict)
    failed_rows: int = 0
    run: str = ""
    resumed: bool = False
    lost_in_flight: dict[StepName, int] = field(default_factory=dict)
    hit: bool = False
    seconds: float = 0.0


def complete_hit(prepared: PreparedRun) -> Finished | None:
    """The stored dataset of an unchanged pipeline, if there is one; takes no lock."""
    if not prepared.hit_allowed:
        return None
    reader = StoreReader.open(prepared.cache_dir, prepared.name)
    if reader is None:
        return None
    try:
        emits, failed = _newest_dataset(prepared, reader)
        if not emits or (failed and prepared.options.retry_failed):
            return None
        if not all(exports_in_place(reader.root, emit.files) for emit in emits):
            return None
        return Finished(reader.root, emits, hit=True, failed_rows=failed)
    finally:
        reader.close()


def _newest_dataset(prepared: PreparedRun, reader: StoreReader) -> tuple[list[Emit], int]:
    """What the newest completed run of this pipeline emitted, and how many rows failed in it.

    A run that stopped may have emitted some of its leaves: it does not count.
    """
    key = prepared.complete_key
    for begin, end in reversed(reader.runs()):
        if end is not None and end.completed and end.key == key:
            made = {emit.leaf: emit for emit in reader.emits(key) if emit.run == begin.run}
            return [made[leaf] for leaf in prepared.leaves], end.failed
    return [], 0


class Session:
    """A run in a thread of its own.

    Args:
        prepared: What to run.
        on_rows: Receives durable leaf rows; called in the session's thread.
        on_turn: Receives the counters after every turn, in place of the context's watcher;
            called in the session's thread.

    Attributes:
        ended: Set when nothing of it goes on any more.
        run: Its id, once it stands in the log.
    """

    def __init__(
        self,
        prepared: PreparedRun,
        *,
        on_rows: Rows | None = None,
        on_turn: Callable[[Progress], None] | None = None,
    ) -> None:
        self._prepared = prepared
        self._on_rows = on_rows
        # Now, in the caller's thread: nobody else may look at the steps of the pipeline.
        self._description = _described(prepared)
        watcher = WATCHER.get()
        self._watch = watcher.turn if on_turn is None and watcher is not None else on_turn
        self._shell: Shell | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: AsyncDistilError | None = None
        self._stopping = False
        self._lock = threading.Lock()
        self._finished: Finished | None = None
        self.run: RunId | None = None
        self._error: BaseException | None = None
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="asyncdistil-supervisor")

    def start(self) -> None:
        """Start the thread."""
        _fill_standard_streams()
        self._thread.start()

    def request_stop(self, reason: AsyncDistilError) -> None:
        """Ask for an orderly, resumable end. Safe from any thread and from signal handlers."""
        self._stop = self._stop or reason
        loop = self._loop
        if loop is not None and not self.ended.is_set():
            loop.call_soon_threadsafe(self._pass_stop_on)

    def stop_now(self) -> None:
        """Do not wait for work in hand."""
        loop = self._loop
        if loop is not None and not self.ended.is_set():
            loop.call_soon_threadsafe(self._pass_stop_now_on)

    def _pass_stop_on(self) -> None:
        if self._shell is not None and self._stop is not None:
            self._shell.request_stop(self._stop)
            self._stopping = True

    def _turn(self, progress: Progress) -> None:
        if self._stopping and self._shell is not None:
            busy = [name for name, counters in progress.items() if counters.in_flight]
            if all(map(self._prepared.may_be_broken_off, busy)):
                self._shell.stop_now()
        if self._watch is not None:
            self._watch(progress)

    def _pass_stop_now_on(self) -> None:
        if self._shell is not None:
            self._shell.stop_now()

    def result(self) -> Finished:
        """What the run left behind, once it has ended.

        Raises:
            AsyncDistilError: Why it ended early.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._finished is not None
        return self._finished

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                self._loop = runner.get_loop()
                self._finished = runner.run(self._main())
        except BaseException as error:
            self._error = error
        finally:
            self.ended.set()

    async def _main(self) -> Finished:
        prepared = self._prepared
        started = time.monotonic()
        # First of all, because its imports take as long as everything up to the first spawn.
        self._launcher = await PreparedLauncher.start()
        try:
            return await self._in_store(started, prepared.plan)
        finally:
            await self._launcher.close()

    async def _in_store(self, started: float, plan: RunPlan) -> Finished:
        prepared = self._prepared
        store = await self._open_store()
        label_store(store.root, prepared.name)
        clean = False
        try:
            for warning in store.warnings:
                _log.warning("%s", warning)
            finished = await self._supervise(store, plan)
            clean = True
        except RunStopped:
            clean = True
            raise
        finally:
            store.close(clean=clean)
        finished.seconds = time.monotonic() - started
        return finished

    async def _open_store(self) -> Store:
        """Open the store; waits for another run of this name, if asked to, and hears a stop."""
        prepared = self._prepared
        options = prepared.options
        give_up = time.monotonic() + options.wait_seconds
        told = False
        while True:
            if self._stop is not None:
                raise self._stop
            try:
                return Store.open(
                    prepared.cache_dir,
                    prepared.name,
                    mode=options.sync_mode,
                    on_corruption=options.on_corruption,
                )
            except StoreLocked as locked:
                if time.monotonic() >= give_up:
                    raise
                if not told:
                    told = True
                    _log.info("waiting up to %.0f s: %s", options.wait_seconds, locked)
            await asyncio.sleep(_LOCK_POLL_SECONDS)

    async def _supervise(self, store: Store, plan: RunPlan) -> Finished:
        run, resumed = run_id_of(store, plan)
        steps = [step.name for step in plan.steps]
        lost = lost_in_flight(store.root, run, steps) if resumed else {}
        if resumed:
            _log.info("taking up run %s, which did not end; %s", run[:8], _in_hand(lost))
        discard: frozenset[StepName] = frozenset()
        while True:
            with logged(store.root, run) as write:
                how = "is taken up" if resumed else "begins"
                write(f"run {run} of {self._prepared.name!r} {how}")
                outcome = await self._kept(store, plan, run, resumed, discard)
                for line in told(outcome):
                    write(line)
            if outcome.diverged is None:
                break
            # New rows under the old run id could be chained to old ones by a later resume.
            run, resumed = _new_run_id(), False
            discard |= {outcome.diverged}
        completed = outcome.stop is None
        end = RunEnd(
            run=run,
            completed=completed,
            key=self._prepared.complete_key,
            failed=outcome.failed_rows,
            reason="" if completed else str(outcome.stop),
            wall_seconds=time.time(),
        )
        await asyncio.to_thread(_seal, store, end)
        if outcome.stop is not None:
            raise outcome.stop
        return Finished(
            root=store.root,
            emits=outcome.emits,
            progress=outcome.progress,
            failed_rows=outcome.failed_rows,
            run=run,
            resumed=resumed,
            lost_in_flight=lost,
        )

    async def _kept(
        self,
        store: Store,
        plan: RunPlan,
        run: RunId,
        resumed: bool,
        discard: frozenset[StepName],
    ) -> Outcome:
        """Run, and meanwhile write down what runs."""
        writing = None
        if self._description is not None:
            writing = asyncio.create_task(
                asyncio.to_thread(keep_pipeline, store.root, run, self._description)
            )
        try:
            return await self._attempt(store, plan, run, resumed, discard)
        finally:
            if writing is not None:
                await writing

    async def _attempt(
        self,
        store: Store,
        plan: RunPlan,
        run: RunId,
        resumed: bool,
        discard: frozenset[StepName],
    ) -> Outcome:
        begin = RunBegin(
            run=run,
            signature=plan.signature,
            aggregated_signature=plan.aggregated_signature,
            options=plan.options,
            wall_seconds=time.time(),
            resumed=resumed,
            lineages=(*(s.lineage for s in plan.steps), *(r.lineage for r in plan.routers)),
            retry=self._prepared.retry,
            data=tuple(s.data_identity or NO_DIGEST for s in plan.steps if s.kind == "generator"),
        )
        store.append([begin])
        self.run = run
        with (
            closing(store.reader()) as reader,
            closing(InFlight(store.root, run, len(plan.steps))) as in_flight,
        ):
            machine = Machine(
                plan,
                run,
                store,
                reader,
                key=self._prepared.complete_key,
                discard=discard,
                publish=self._on_rows is not None,
            )
            self._shell = Shell(
                machine,
                store,
                # It stops only what it spawned, which the protocol can't say.
                cast("Launcher", self._launcher),
                _setting(self._prepared, plan, run),
                in_flight=in_flight,
                on_rows=self._on_rows,
                on_turn=self._turn,
            )
            self._pass_stop_on()
            return await self._shell.run()


def _described(prepared: PreparedRun) -> Mapping[str, Any] | None:
    """The pipeline as plain data; ``None`` if it has values that no file can hold."""
    try:
        return prepared.description()
    except DataError as error:
        _log.debug("no pipeline.yaml is kept: %s", error)
        return None


def _seal(store: Store, end: RunEnd) -> None:
    """Record how the run ended and make everything durable; failing here loses nothing more."""
    try:
        store.append([end])
        store.flush()
    except AsyncDistilError:
        if end.completed:
            raise
        # The run stops for a reason of its own already, often this very disk.


def told(outcome: Outcome) -> Iterator[str]:
    """How a run ended, in lines for its log."""
    for name, counters in outcome.progress.items():
        yield (
            f"[{name}] {counters.rows_computed} rows computed, {counters.rows_replayed} replayed, "
            f"{counters.failed} failed"
        )
        for row, failure in counters.first_failures:
            number = ".".join(map(str, row))
            yield f"[{name}] row {number} failed: {failure.kind}: {failure.message}"
    yield "the run is complete" if outcome.stop is None else f"the run stops: {outcome.stop}"


def run_id_of(store: Store | StoreReader, plan: RunPlan) -> tuple[RunId, bool]:
    """The id of the last run if it did not end and nothing differs, else a new one."""
    last = store.last_run()
    if last is None:
        return _new_run_id(), False
    begin, end = last
    same = (begin.signature, begin.aggregated_signature, begin.options) == (
        plan.signature,
        plan.aggregated_signature,
        plan.options,
    )
    if same and (end is None or not end.completed):
        return begin.run, True
    return _new_run_id(), False


def _in_hand(lost: dict[StepName, int]) -> str:
    """What a run that died may have computed for nothing, in words."""
    if not lost:
        return "no row was in workers' hands"
    steps = ", ".join(f"{name}: {rows}" for name, rows in lost.items())
    return (
        f"{sum(lost.values())} rows were in workers' hands ({steps}), and no more than those are "
        "computed again"
    )


def _new_run_id() -> RunId:
    return RunId(secrets.token_hex(16))


def _setting(prepared: PreparedRun, plan: RunPlan, run: RunId) -> Setting:
    payloads: dict[StepName, bytes] = {step.name: step.payload for step in plan.steps}
    codes: dict[StepName, Digest | None] = {step.name: step.code for step in plan.steps}
    for leaf in plan.leaves:
        layout = Layout(prepared.columns_of(leaf), prepared.drop_columns)
        payloads[StepName(f"{leaf}/export")] = msgspec.msgpack.encode(layout)
    for router in plan.routers:
        payloads[StepName(f"{router.source}/router")] = router.payload
    cwd = os.getcwd()
    return Setting(
        payloads=payloads,
        codes=codes,
        memo=str(prepared.cache_dir / "memo"),
        run=run,
        sys_path=tuple(os.path.abspath(part) if part else cwd for part in sys.path),
        cwd=cwd,
    )


def _fill_standard_streams() -> None:
    """Put ``/dev/null`` where a standard stream is closed, as in a daemon.

    Else our next file or socket gets the number of that stream: print() would write into it, a
    worker's output would take its place, and the event loop aborts the process over it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def interrupted(how: str) -> Interrupted:
    """The error of a run that was asked to stop."""
    return Interrupted(
        f"the run was stopped by {how}. Every finished batch is kept: run it again and it goes on "
        "from there."
    )
