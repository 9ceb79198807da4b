"""State machines drawn by hypothesis: the log on a failing disk, the supervisor on a bad day."""

from __future__ import annotations

import errno
import logging
import os
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from asyncdistil.batch import Digest
from asyncdistil.errors import StorageError
from asyncdistil.log import Store, StoreReader
from asyncdistil.log.events import StepDone
from asyncdistil.testing.disk import MemoryDisk
from asyncdistil.testing.faults import (
    LINEAGE,
    NAME,
    RUN,
    Life,
    Worker,
    read_back,
    small_reserve,
)
from asyncdistil.testing.simulation import Behaviour, Memory, Segments, Simulation
from asyncdistil.transport.messages import Result

SHARDS, DAG_SHARDS = 4, 8
# A failing schedule does not get simpler by shrinking, only slower to find: the seed repeats it.
PHASES = (Phase.explicit, Phase.generate)
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@pytest.fixture(autouse=True)
def _cheap_and_silent(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with small_reserve(), caplog.at_level(logging.ERROR, "asyncdistil.memo"):
        yield


# --- the log --------------------------------------------------------------------------------------


class LogMachine(RuleBasedStateMachine):
    """Any order of work, trouble and endings; what was promised is always there afterwards."""

    steps = 0

    @initialize(number=st.integers(0, 2**32))
    def begin(self, number: int) -> None:
        self.rng = random.Random(number)
        self.disk = MemoryDisk()
        self.life = Life(self.rng, self.disk)
        self.dones = 0
        self.open_again()

    def open_again(self) -> None:
        self.failing = ""
        self.disk.before = self.maybe_fail
        self.disk.capacity_bytes = 1 << 40
        self.life.files = self.disk
        self.store = self.life.open()
        self.memo, _ = self.life._open_memo(self.store)
        self.workers: list[Worker] = []
        self.broken = False

    def maybe_fail(self, act: str, _path: Path) -> None:
        if act == self.failing:
            self.failing = ""
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def attempt(self, act: Any) -> None:
        try:
            act()
        except StorageError:
            # The run would stop here; the commit that was refused may be there or not.
            self.broken = True

    def usable(self) -> bool:
        return not self.broken

    @precondition(usable)
    @rule(rows=st.integers(1, 4), answer=st.booleans())
    def commit(self, rows: int, answer: bool) -> None:
        def act() -> None:
            if not self.workers:
                self.workers.append(Worker(self.store, self.disk))
            number = self.life._answer(self.memo) if answer and self.memo is not None else 0
            self.life.commit(self.rng.choice(self.workers), rows=rows, answer=number)

        self.attempt(act)

    @precondition(usable)
    @rule()
    def another_worker(self) -> None:
        if len(self.workers) < 3:
            self.attempt(lambda: self.workers.append(Worker(self.store, self.disk)))

    @precondition(usable)
    @rule()
    def flush(self) -> None:
        self.attempt(self.store.flush)

    @precondition(usable)
    @rule()
    def finish_a_step(self) -> None:
        def act() -> None:
            self.store.append([StepDone(RUN, LINEAGE, Digest(bytes(16)), 1, 0)])
            self.dones += 1

        self.attempt(act)

    @precondition(usable)
    @rule(act=st.sampled_from(["writev", "fdatasync", "fsync_dir", "create", "replace"]))
    def next_act_fails(self, act: str) -> None:
        self.failing = act

    @precondition(usable)
    @rule(room=st.integers(0, 400))
    def disk_fills_up(self, room: int) -> None:
        self.disk.capacity_bytes = self.disk.used_bytes + room

    @rule(longest=st.sampled_from([0, 1, 50, 511]))
    def writes_get_short(self, longest: int) -> None:
        self.disk.longest_write = longest

    @rule(clean=st.booleans())
    def close_and_open(self, clean: bool) -> None:
        self.life.note()
        self.failing = ""
        with suppress(StorageError):
            self.store.close(clean=clean)
        self.life.note()
        self.settle(self.disk.after_process_death())

    @rule()
    def process_dies(self) -> None:
        self.life.note()
        self.settle(self.disk.after_process_death())

    @rule(number=st.integers(0, 2**32))
    def power_fails(self, number: int) -> None:
        self.life.note()
        self.settle(self.disk.after_power_cut(random.Random(number)))
        self.life.check_memo(self.disk)

    def settle(self, disk: MemoryDisk) -> None:
        longest = self.disk.longest_write
        self.disk = disk
        disk.longest_write = longest
        if self.broken:
            # A commit that was refused may be there or not: it does not count.
            copy = disk.after_process_death()
            found = read_back(Store.open(self.life.cache, NAME, files=copy))
            promised = self.life.appended[: self.life.promised]
            assert all(item in found for item in promised)
            self.life.appended = [item for item in self.life.appended if item in found]
        self.open_again()

    @precondition(usable)
    @rule()
    def read_beside(self) -> None:
        view = StoreReader.open(self.life.cache, NAME, files=self.disk)
        if view is not None:
            self.life.check(read_back(view))
            view.close()

    @invariant()
    def counts(self) -> None:
        LogMachine.steps += 1


@pytest.mark.parametrize("shard", range(SHARDS))
def test_the_log_keeps_its_promises_in_any_order_of_events(faults: Any, shard: int) -> None:
    examples = faults.amount(smoke=15, short=40, full=150, soak=100_000)
    LogMachine.steps = 0

    def block(number: int, size: int) -> None:
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            seed(number)(LogMachine),
            settings=settings(
                max_examples=size,
                stateful_step_count=40,
                deadline=None,
                database=None,
                phases=PHASES,
                suppress_health_check=QUIET,
            ),
        )

    faults.drawn(examples, block)
    faults.count("state-machine steps", LogMachine.steps)


# --- the supervisor -------------------------------------------------------------------------------


class BadDay(Simulation):
    """A simulation in which workers die, and results come late and twice."""

    def __init__(self, *args: Any, echo: float = 0.0, **options: Any) -> None:
        super().__init__(*args, **options)
        self._echo = echo

    def _pass_on(self, number: Any, messages: list[Any]) -> None:
        again = [
            m for m in messages if isinstance(m, Result) and self._random.random() < self._echo
        ]
        super()._pass_on(number, [*messages, *again])


@st.composite
def days(draw: st.DrawFn) -> list[dict[str, Any]]:
    """How runs of one pipeline go, one after another; the last is left alone."""
    attempts = draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "seed": st.integers(0, 2**32),
                    "kill_rate": st.sampled_from([0.0, 0.0005, 0.002]),
                    "echo": st.sampled_from([0.0, 0.2]),
                    "stop_after": st.none() | st.integers(1, 80),
                    "interrupt_after": st.none() | st.integers(1, 60),
                }
            ),
            max_size=3,
        )
    )
    return [*attempts, {"seed": draw(st.integers(0, 2**32))}]


@pytest.mark.parametrize("shard", range(DAG_SHARDS))
def test_any_dag_on_any_day_ends_with_the_rows_of_a_plain_loop(
    faults: Any, borrow: Any, shard: int
) -> None:
    machines = borrow("supervisor/test_machine_runs.py")
    examples = faults.amount(smoke=240, short=800, full=10_000, soak=4_000_000) // DAG_SHARDS
    done = 0

    def block(number: int, size: int) -> None:
        @seed(number)
        @settings(
            max_examples=size,
            deadline=None,
            database=None,
            phases=PHASES,
            suppress_health_check=QUIET,
        )
        @given(machines.random_dags(), days())
        def any_dag(dag: tuple[Any, dict[str, Behaviour]], runs: list[dict[str, Any]]) -> None:
            nonlocal done
            plan, behaviours = dag
            memory, segments = Memory(), Segments()
            for options in runs:
                run = BadDay(plan, behaviours, memory=memory, segments=segments, **options)
                with suppress(machines.WorkerDied):  # more deaths than a step may have: resumable
                    ended = run.run()
            assert ended
            assert run.results == machines.expected(plan, behaviours)
            done += 1

        any_dag()

    faults.drawn(examples, block)
    faults.count("random DAGs", done)
