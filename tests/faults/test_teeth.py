"""Every bug of `asyncdistil.testing.teeth`, and the check that must notice it.

A check passes on the runtime as it is, and fails with the bug in it.
"""

from __future__ import annotations

import errno
import logging
import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.batch import StepName
from asyncdistil.errors import CorruptRecord, LogError, StoreLocked
from asyncdistil.log import Store
from asyncdistil.log.events import Commit
from asyncdistil.log.names import commit_path, store_root
from asyncdistil.log.record import (
    FILE_HEADER_BYTES,
    HEADER_BYTES,
    FileKind,
    file_seed,
    parse_header,
)
from asyncdistil.supervisor.commands import Publish, Send
from asyncdistil.testing.disk import MemoryDisk
from asyncdistil.testing.faults import (
    NAME,
    Life,
    PowerCut,
    Worker,
    commit_of,
    read_back,
    small_reserve,
)
from asyncdistil.testing.simulation import Behaviour, Simulation
from asyncdistil.testing.teeth import TEETH, Tooth
from asyncdistil.transport.messages import Export, Result

CACHE = Path("/cache")
ROOT = store_root(CACHE, NAME)
LIVES = 150


@pytest.fixture(autouse=True)
def _cheap_and_silent(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with small_reserve(), caplog.at_level(logging.ERROR, "asyncdistil.memo"):
        yield


# --- checks ---------------------------------------------------------------------------------------


def power_cuts_lose_nothing(borrow: Any, tmp_path: Path) -> None:
    live = borrow("faults/test_power_cuts.py").live_through_cuts
    for seed in range(LIVES):
        live(random.Random(seed), cuts=3, states=8)


def a_failed_sync_loses_nothing(borrow: Any, tmp_path: Path) -> None:
    """One sync of the log fails; what is acknowledged afterwards survives a power cut."""
    for nth in range(1, 6):
        disk = MemoryDisk()
        life = Life(random.Random(nth), disk, memo=False)
        store = life.open()
        worker = Worker(store, disk)
        left = nth

        def fail(act: str, path: Path) -> None:
            nonlocal left
            if act == "fdatasync" and path.suffix == ".adc":
                left -= 1
                if left == 0:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))

        disk.before = fail
        with suppress(LogError):
            for _ in range(6):
                life.commit(worker, rows=2)
                store.flush()
                life.note()
        for seed in range(4):
            after = disk.after_power_cut(random.Random(seed))
            again = Store.open(CACHE, NAME, files=after)
            life.check(read_back(again))


def flipped_bits_are_noticed(borrow: Any, tmp_path: Path) -> None:
    flips = borrow("faults/test_every_byte.py")
    whole = flips.filled("one file", commits=3)
    path = whole.of(".adc")[0]
    image = whole.images[path]
    for bit in range(0, 8 * len(image), 3):
        assert flips.noticed(whole, path, flips.flipped(image, bit)), bit


def records_of(disk: MemoryDisk, number: int) -> list[bytes]:
    image = disk.files()[commit_path(ROOT, number)]
    store_id = image[HEADER_BYTES : HEADER_BYTES + 16]
    seed = file_seed(store_id, FileKind.COMMIT_LOG, number)
    found, at = [image[:FILE_HEADER_BYTES]], FILE_HEADER_BYTES
    while (header := parse_header(image, at, seed)) is not None:
        found.append(image[at : at + header.size])
        at += header.size
    return found


def a_record_of_another_past_is_refused(borrow: Any, tmp_path: Path) -> None:
    """A copy of the store went on by itself; one of its records gets into the original."""
    first = MemoryDisk()
    life = Life(random.Random(1), first, memo=False)
    store = life.open()
    life.commit(Worker(store, first), rows=1)
    store.close(clean=False)
    pasts = []
    for text in (1, 2):
        disk = first.after_process_death()
        other = Store.open(CACHE, NAME, files=disk)
        worker = Worker(other, disk)
        for number in (text * 100, text * 100 + 1):
            other.append([commit_of(worker.write(number, 1), number)])
            other.flush()
        other.close(clean=False)
        pasts.append(disk)
    ours, theirs = (records_of(disk, 2) for disk in pasts)
    assert len(ours) == len(theirs)
    disk = pasts[0].after_process_death()
    disk.put(commit_path(ROOT, 2), b"".join([*ours[:2], theirs[2], *ours[3:]]))
    with pytest.raises(CorruptRecord):
        # Read as far as the log itself: the rows of the other past are not here anyway.
        Store.open(CACHE, NAME, files=disk)


def recovery_changes_no_byte(borrow: Any, tmp_path: Path) -> None:
    for seed in range(40):
        disk = MemoryDisk()
        life = Life(random.Random(seed), disk, memo=False)

        def watch(tick: Callable[[], None], disk: MemoryDisk = disk) -> None:
            disk.before = lambda _act, _path: tick()

        with suppress(PowerCut):
            life.until_power_cut(60, watch)
        after = disk.after_power_cut(life.rng)
        before = {p: b for p, b in after.files().items() if p.suffix in {".adc", ".ads"}}
        Store.open(CACHE, NAME, files=after).close(clean=False)
        now = after.files()
        changed = [p for p, b in before.items() if now.get(p, b"")[: len(b)] != b]
        assert changed == [], "recovery wrote into files that were there"


def a_forked_child_keeps_no_lock(borrow: Any, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "cache", NAME)
    go, ready = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(ready[1], b".")
        os.close(go[1])
        os.read(go[0], 1)
        os._exit(0)
    try:
        os.read(ready[0], 1)
        store.close(clean=False)
        try:
            Store.open(tmp_path / "cache", NAME).close(clean=True)
        except StoreLocked as error:
            raise AssertionError("the child holds the lock of its parent") from error
    finally:
        for fd in (*go, *ready):
            os.close(fd)
        os.waitpid(child, 0)


class Lagging(Simulation):
    """A simulation whose log becomes durable later, and that looks at what is shown before."""

    def _act(self) -> None:
        state, machine = self.machine.state, self.machine
        committed = {
            ref: at
            for at, event in enumerate(self.memory.events + state.events, 1)
            if isinstance(event, Commit)
            for ref in event.outputs
        }
        durable = len(self.memory.events)  # what was appended in earlier turns
        for command in state.commands:
            slices = ()
            if isinstance(command, Publish):
                slices = command.slices
            elif isinstance(command, Send) and isinstance(command.message, Export):
                slices = command.message.slices
            for part in slices:
                assert committed[part.ref] <= durable, "a row was shown before it was durable"
        self._settle(machine, durable)
        super()._act()

    def _settle(self, machine: Any, durable: int) -> None:
        machine.durable(durable)


class Echoing(Simulation):
    """A simulation in which the result of a batch may arrive a second time, after it settled."""

    def _pass_on(self, number: Any, messages: list[Any]) -> None:
        again = [m for m in messages if isinstance(m, Result) and self._random.random() < 0.3]
        super()._pass_on(number, [*messages, *again])


class LosesGenerator(Simulation):
    """A simulation whose generator dies after its fifth yield."""

    _yields = 0

    def _generate(self, worker: Any) -> None:
        super()._generate(worker)
        self._yields += 1
        if self._yields == 5:
            self._die(next(n for n, other in self._workers.items() if other is worker))


def rows_arrive_once(simulation: type[Simulation]) -> Callable[[Any, Path], None]:
    def check(borrow: Any, tmp_path: Path) -> None:
        machines = borrow("supervisor/test_machine_runs.py")
        for seed in range(30):
            run = simulation(
                machines.CHAIN, machines.chain_behaviours(), seed=seed, kill_rate=0.002
            )
            assert run.run()
            assert run.results["tail"] == [v * 2 for v in range(200) if v % 2 == 0]

    return check


def results_in_parts_arrive_once(borrow: Any, tmp_path: Path) -> None:
    """A worker reports a lease in two parts, the first of them twice."""
    machines = borrow("supervisor/test_machine_runs.py")
    plan = machines.plan(
        machines.source(), machines.step("s", "row", "load", input_batch_size=8), leaves=("s",)
    )

    class Stutters(Simulation):
        def _pass_on(self, number: Any, messages: list[Any]) -> None:
            told: list[Any] = []
            for message in messages:
                if isinstance(message, Result) and message.stop > 1:
                    told += self._halves(number, message)
                else:
                    told.append(message)
            super()._pass_on(number, told)

        def _halves(self, number: Any, message: Result) -> list[Result]:
            values = self._values[message.lease]
            middle = len(values) // 2
            worker = self._workers[number]

            def part(start: int, stop: int) -> Result:
                refs = self.segments.write(worker.segment, values[start:stop])
                digest = self.segments.digest(_slices(refs))
                return Result(
                    message.lease, start, stop, refs, message.origins, input_digests=(digest,)
                )

            return [part(0, middle), part(0, middle), part(middle, len(values))]

        def _lease(self, number: Any, worker: Any, lease: Any) -> None:
            self._values = getattr(self, "_values", {})
            self._values[lease.id] = self.segments.values(lease.ports[0])
            super()._lease(number, worker, lease)

    run = Stutters(
        plan,
        {
            "load": Behaviour(rows=machines.batches(64, 8)),
            "s": Behaviour(each=lambda v: v),
        },
    )
    assert run.run()
    assert run.results[StepName("s")] == list(range(64))


def _slices(refs: Any) -> Any:
    from asyncdistil.batch import RowSlice

    return [RowSlice(ref, 0, ref.rows) for ref in refs]


CHECKS: dict[str, Callable[[Any, Path], None]] = {
    "no fsync": power_cuts_lose_nothing,
    "ack before sync": power_cuts_lose_nothing,
    "log before segments": power_cuts_lose_nothing,
    "fsync retried": a_failed_sync_loses_nothing,
    "no directory fsync": power_cuts_lose_nothing,
    "memo not synced": power_cuts_lose_nothing,
    "length before hash": flipped_bits_are_noticed,
    "no chain": a_record_of_another_past_is_refused,
    "truncate on recovery": recovery_changes_no_byte,
    "resurrected after a hole": power_cuts_lose_nothing,
    "torn called damage": power_cuts_lose_nothing,
    "payload not verified": power_cuts_lose_nothing,
    "lock inherited": a_forked_child_keeps_no_lock,
    "no epoch check": results_in_parts_arrive_once,
    "emit before durable": rows_arrive_once(Lagging),
    "end from a flag": rows_arrive_once(Simulation),
    "forgets what to rewrite": a_failed_sync_loses_nothing,
    "generator starts over": rows_arrive_once(LosesGenerator),
}
_sound: set[Callable[..., None]] = set()


@pytest.mark.parametrize("tooth", TEETH, ids=[tooth.name for tooth in TEETH])
def test_a_seeded_bug_is_caught(faults: Any, borrow: Any, tmp_path: Path, tooth: Tooth) -> None:
    check = CHECKS[tooth.name]
    if check not in _sound:
        check(borrow, tmp_path / "sound")
        _sound.add(check)
    caught = False
    try:
        with tooth.bite():
            check(borrow, tmp_path / "bitten")
    except (AssertionError, LogError, pytest.fail.Exception):
        caught = True
    faults.count("seeded bugs", caught)
    assert caught, f"nothing noticed that {tooth.says}"


@pytest.mark.parametrize("simulation", [Lagging, Echoing])
def test_the_machine_shows_only_what_is_durable_and_settles_once(
    borrow: Any, tmp_path: Path, simulation: type[Simulation]
) -> None:
    rows_arrive_once(simulation)(borrow, tmp_path)


def test_every_bug_has_a_check() -> None:
    assert set(CHECKS) == {tooth.name for tooth in TEETH}
    assert len(TEETH) >= 12
