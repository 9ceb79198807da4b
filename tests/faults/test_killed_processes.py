"""A process killed at every named point, and at every act on the disk; then what is left of it."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.log import LocalFiles, Store, StoreReader
from asyncdistil.log.events import StepDef
from asyncdistil.log.failpoint import arm, hits
from asyncdistil.memo import Memo
from asyncdistil.testing.faults import (
    LINEAGE,
    NAME,
    Died,
    DyingFiles,
    Found,
    Life,
    Worker,
    commit_of,
    in_child,
    read_back,
    small_reserve,
)

SHARDS, POINT_SHARDS = 8, 4
ON_DISK = 0.1
"""Share of the lives on the real disk; the others are in memory, where a sync costs nothing.

What a killed process leaves behind is in the system's cache on both.
"""
NEVER = "no.such.point=kill"


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system in memory, if there is one."""
    shared = Path("/dev/shm")
    if not shared.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared) as made:
        yield Path(made)


class Reporting(Life):
    """A life whose promises are told through a pipe, so that they outlive it."""

    def __init__(self, rng: random.Random, files: Any, cache: Path, report: Any) -> None:
        super().__init__(rng, files, cache=cache)
        self._report = report

    def commit(self, worker: Worker, *, rows: int, answer: int = 0) -> int:
        # What is about to be written may be there or not; what was appended must be.
        self._report(b"w%d\n" % (self._next + 1))
        number = super().commit(worker, rows=rows, answer=answer)
        self._report(b"a%d\n" % number)
        return number


class Witness:
    """What the children of one cache reported, and what must be found for it."""

    def __init__(self, cache: Path, kept: Sequence[int] = ()) -> None:
        self.cache = cache
        self.kept = list(kept)
        self.checks = 0

    def learn(self, died: Died) -> None:
        """Compare the store with what a child reported before it died."""
        assert died.killed or died.status == 0, died.reports[-2000:]
        lines = died.reports.split()
        appended = [int(line[1:]) for line in lines if line[:1] == b"a"]
        begun = [int(line[1:]) for line in lines if line[:1] == b"w"]
        self.kept = [*self.kept, *appended]
        found = self.look()
        maybe = begun[len(appended) :]
        assert found in (self.kept, self.kept + maybe), (found, self.kept, maybe)
        self.kept = found

    def look(self) -> list[int]:
        """Read the store as it lies there, without a lock and without mending anything."""
        self.checks += 1
        view = StoreReader.open(self.cache, NAME)
        if view is None:
            return []
        try:
            return [item.number for item in read_back(view)]
        finally:
            view.close()


def live(
    witness: Witness, seed: int, report: Callable[[bytes], None], files: Any, acts: int
) -> None:
    life = Reporting(random.Random(seed), files, witness.cache, report)
    life.adopt([Found(number) for number in witness.kept])
    life.session(acts=acts)


def points_of(witness: Witness, seed: int, acts: int) -> dict[str, int]:
    """How often a session that nothing happens to passes each named point."""

    def work(report: Callable[[bytes], None]) -> None:
        arm(NEVER)
        live(witness, seed, lambda _: None, LocalFiles(), acts)
        report("\n".join(f"{name} {count}" for name, count in hits().items()).encode())

    died = in_child(work)
    assert died.status == 0, died.reports
    pairs = (line.split() for line in died.reports.decode().splitlines())
    return {name: int(count) for name, count in pairs}


def prepared(cache: Path, seed: int) -> Witness:
    """A cache that a first session left in disorder, so that recovery has something to do."""
    witness = Witness(cache)

    def work(report: Callable[[bytes], None]) -> None:
        arm("log.after_append=kill@4")
        live(witness, seed, report, LocalFiles(), 12)

    witness.learn(in_child(work))
    return witness


@pytest.mark.parametrize("shard", range(POINT_SHARDS))
def test_a_kill_at_any_hit_of_any_named_point_loses_nothing_appended(
    faults: Any, tmp_path: Path, in_memory: Path, shard: int
) -> None:
    wanted = faults.amount(smoke=60, short=240, full=1_040, soak=20_000) // POINT_SHARDS
    killed: set[tuple[str, int, int]] = set()
    names: set[str] = set()

    def trial(rng: random.Random) -> None:
        seed = rng.randrange(1 << 30)
        top = (tmp_path if rng.random() < ON_DISK else in_memory) / f"{seed}"
        first = prepared(top / "cache", seed)
        probe = Witness(_copy(top, "probe"), first.kept)
        points = points_of(probe, seed + 1, acts=20)
        names.update(points)
        for name, count in points.items():
            for hit in range(1, count + 1):
                if len(killed) >= wanted:
                    break
                witness = Witness(_copy(top, "killed"), first.kept)
                specification = f"{name}=kill@{hit}"

                def work(
                    report: Callable[[bytes], None],
                    armed: str = specification,
                    witness: Witness = witness,
                ) -> None:
                    arm(armed)
                    live(witness, seed + 1, report, LocalFiles(), 20)

                died = in_child(work)
                assert died.killed, (specification, died)
                witness.learn(died)
                _mended(witness)
                killed.add((name, hit, seed))
        shutil.rmtree(top)

    with small_reserve():
        faults.until(lambda: len(killed) >= wanted, trial)
    if len(killed) > 200:
        assert {"log.append", "log.after_append", "segment.append", "sync.before_log"} <= names
    faults.count("kill points (failpoint x hit)", len(killed))


def _copy(top: Path, name: str) -> Path:
    target = top / name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(top / "cache", target)
    return target


def _mended(witness: Witness) -> None:
    """Open for good: the same commits, a lock that is free, no scratch file, room for more."""
    for _ in range(2):
        store = Store.open(witness.cache, NAME)
        assert [item.number for item in read_back(store)] == witness.kept
        store.close(clean=False)
    store = Store.open(witness.cache, NAME)
    refs = Worker(store, None).write(9_999_999, 1)
    store.append([commit_of(refs, 9_999_999)])
    store.close(clean=True)
    view = StoreReader.open(witness.cache, NAME)
    assert view is not None
    assert [item.number for item in read_back(view)] == [*witness.kept, 9_999_999]
    view.close()
    assert not list(witness.cache.rglob("*.tmp"))


@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_process_killed_at_any_act_on_the_disk_loses_nothing_appended(
    faults: Any, tmp_path: Path, in_memory: Path, shard: int
) -> None:
    """Kills follow each other: recovery is killed too, and the recovery of that, many deep."""
    wanted = faults.amount(smoke=80, short=600, full=5_040, soak=1_000_000) // SHARDS
    kills = 0

    def trial(rng: random.Random) -> None:
        nonlocal kills
        cache = (tmp_path if rng.random() < ON_DISK else in_memory) / f"{rng.randrange(1 << 30)}"
        witness = Witness(cache)
        for _ in range(rng.randint(2, 12)):
            seed = rng.randrange(1 << 30)
            # Often early, where an opening is; sometimes never, then it closes in order.
            act = rng.choice((rng.randint(1, 12), rng.randint(1, 40), rng.randint(1, 90)))
            files = DyingFiles(act, share=rng.random())

            def work(
                report: Callable[[bytes], None], seed: int = seed, files: DyingFiles = files
            ) -> None:
                live(witness, seed, report, files, 12)

            died = in_child(work)
            kills += died.killed
            witness.learn(died)
            if rng.random() < 0.1:
                store = Store.open(cache, NAME)
                assert [item.number for item in read_back(store)] == witness.kept
                store.close(clean=rng.random() < 0.5)
        Memo.open(cache / "memo").close()
        shutil.rmtree(cache, ignore_errors=True)

    with small_reserve():
        faults.until(lambda: kills >= wanted, trial)
    faults.count("fork-kills", kills)


def test_a_hundred_thousand_commits_are_recovered(faults: Any, tmp_path: Path) -> None:
    """The time is reported: it is a promise of the benchmarks, not of a loaded test machine."""
    commits = faults.amount(smoke=2_000, short=100_000, full=100_000, soak=1_000_000)
    store = Store.open(tmp_path, NAME)
    worker = Worker(store, None)
    refs = worker.write(1, 2)
    store.append([StepDef(LINEAGE, "a step", b"definition")])  # type: ignore[arg-type]
    for start in range(0, commits, 1000):
        store.append([commit_of(refs, number) for number in range(start, start + 1000)])
    store.flush()

    def seconds_to_recover() -> float:
        started = time.perf_counter()
        opened = Store.open(tmp_path, NAME)
        seconds = time.perf_counter() - started
        assert len(opened.commits(LINEAGE)) == commits
        opened.close(clean=True)
        return seconds

    store.close(clean=False)
    crashed, clean = seconds_to_recover(), seconds_to_recover()
    if commits == 100_000:
        faults.count("recovery of 100,000 commits after a crash, ms", crashed * 1e3)
        faults.count("recovery of 100,000 commits after a clean end, ms", clean * 1e3)
