"""The supervisor of one run at work: its store, its attempts, its end.

Imported by a session's thread only after the process that workers are forked from was started:
that one has more to import, and nobody has to wait for this.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any, cast

import msgspec

from asyncdistil.batch import Digest, RowSlice, RunId, StepName
from asyncdistil.distiset.exporter import Layout
from asyncdistil.errors import AsyncDistilError, RunStopped, StoreLocked
from asyncdistil.log import Store, StoreReader, label_store
from asyncdistil.log.events import RunBegin, RunEnd
from asyncdistil.pipeline.finished import Finished
from asyncdistil.pipeline.keepsake import keep_pipeline, logged
from asyncdistil.pipeline.outcome import emptied
from asyncdistil.supervisor.in_flight import InFlight, lost_in_flight
from asyncdistil.supervisor.machine import Machine
from asyncdistil.supervisor.operator import NO_DIGEST
from asyncdistil.supervisor.shell import Outcome, Shell
from asyncdistil.supervisor.workforce import Launcher, Setting

if TYPE_CHECKING:
    from asyncdistil.graph.plan import RunPlan
    from asyncdistil.launch import PreparedLauncher
    from asyncdistil.pipeline.planning import PreparedRun
    from asyncdistil.supervisor.progress import Progress

_log = logging.getLogger("asyncdistil.pipeline")
_LOCK_POLL_SECONDS = 0.05


class Supervision:
    """One run, in the loop and thread of its session.

    Args:
        prepared: What to run.
        launcher: Starts and stops its workers.
        description: The pipeline as plain data, to be kept; ``None`` if no file can hold it.
        on_rows: Receives durable leaf rows, if anybody wants them.
        on_turn: Receives the counters after every turn.

    Attributes:
        run: Id of the run, once it stands in the log.
    """

    def __init__(
        self,
        prepared: PreparedRun,
        launcher: PreparedLauncher,
        description: Mapping[str, Any] | None,
        on_rows: Callable[[StepName, tuple[RowSlice, ...]], None] | None,
        on_turn: Callable[[Progress], None] | None,
    ) -> None:
        self._prepared = prepared
        self._launcher = launcher
        self._description = description
        self._on_rows = on_rows
        self._on_turn = on_turn
        self._shell: Shell | None = None
        self._stop: AsyncDistilError | None = None
        self.run: RunId | None = None

    def request_stop(self, reason: AsyncDistilError) -> None:
        """Stop in order as soon as may be; the first reason counts."""
        self._stop = self._stop or reason
        if self._shell is not None:
            self._shell.request_stop(self._stop)

    def stop_now(self) -> None:
        """Do not wait for work in hand."""
        if self._shell is not None:
            self._shell.stop_now()

    async def supervise(self) -> Finished:
        """Run to the end.

        Raises:
            RunStopped: It ended early and can be taken up again.
            LogError: The log cannot keep its promise.
        """
        started = time.monotonic()
        finished = await self._in_store(self._prepared.plan)
        finished.seconds = time.monotonic() - started
        return finished

    async def _in_store(self, plan: RunPlan) -> Finished:
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
                for line in told(self._prepared, outcome):
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
            if self._stop is not None:
                self.request_stop(self._stop)
            return await self._shell.run()

    def _turn(self, progress: Progress) -> None:
        if self._stop is not None and self._shell is not None:
            busy = [name for name, counters in progress.items() if counters.in_flight]
            # Where nobody is busy the workers are on their way out, and unload their steps.
            if busy and all(map(self._prepared.may_be_broken_off, busy)):
                self._shell.stop_now()
        if self._on_turn is not None:
            self._on_turn(progress)


def _seal(store: Store, end: RunEnd) -> None:
    """Record how the run ended and make everything durable; failing here loses nothing more."""
    try:
        store.append([end])
        store.flush()
    except AsyncDistilError:
        if end.completed:
            raise
        # The run stops for a reason of its own already, often this very disk.


def told(prepared: PreparedRun, outcome: Outcome) -> Iterator[str]:
    """How a run ended, in lines for its log."""
    for name, counters in outcome.progress.items():
        yield (
            f"[{name}] {counters.rows_computed} rows computed, {counters.rows_replayed} replayed, "
            f"{counters.failed} failed"
        )
        for row, failure in counters.first_failures:
            number = ".".join(map(str, row))
            yield f"[{name}] row {number} failed: {failure.kind}: {failure.message}"
    if outcome.stop is None:
        yield from emptied(prepared, outcome.progress)
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
