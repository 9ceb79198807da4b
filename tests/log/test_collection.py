"""Collecting garbage: what kept runs need stays, whatever happens meanwhile."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.batch import (
    FRESH_ORIGINS,
    SAME_ORIGINS,
    BatchRef,
    Digest,
    Lsn,
    RowSlice,
    RunId,
    StepName,
)
from asyncdistil.codec import encode_rows
from asyncdistil.errors import CorruptRecord, StoreLocked
from asyncdistil.log import Files, LocalFiles, SegmentWriter, Store, StoreReader
from asyncdistil.log.collection import Survey, collect
from asyncdistil.log.events import (
    Commit,
    Emit,
    Event,
    Moved,
    Outcome,
    Reuse,
    Route,
    RunBegin,
    RunEnd,
    StepDef,
    StepDone,
    Tombstone,
)
from asyncdistil.log.history import COLLECTED, read_history
from asyncdistil.log.names import commit_path, store_root
from asyncdistil.log.pins import Pins, pins_path, read_pins, write_pins
from asyncdistil.testing.disk import MemoryDisk, PowerCut, interrupted
from asyncdistil.testing.faults import DyingFiles, in_child, small_reserve

CACHE = Path("/cache")
ROOT = store_root(CACHE, "p")
SOURCE, STEP, ROUTER = (Digest(text * 16) for text in (b"g", b"s", b"r"))
DATA, KEY, NONE = Digest(b"d" * 16), Digest(b"k" * 16), Digest(bytes(16))


@pytest.fixture(autouse=True)
def _cheap() -> Iterator[None]:
    with small_reserve():
        yield


def run_id(number: int) -> RunId:
    return RunId(f"{number:032x}")


class Runs:
    """Writes runs into a store, and knows what each of them needs."""

    def __init__(self, files: Files, cache: Path = CACHE) -> None:
        self.files = files
        self.cache = cache
        self.needs: dict[RunId, set[int]] = {}
        self.made: dict[int, tuple[Lsn, Commit]] = {}
        self.unfinished: set[RunId] = set()
        self._next = 0

    def run(
        self,
        number: int,
        *,
        wrote: int,
        reused: tuple[int, ...] = (),
        end: bool = True,
        rows: int = 3,
        lineages: bool = True,
    ) -> list[int]:
        """One run: it replays some commits, writes new ones in two steps, ends or not."""
        store = Store.open(self.cache, "p", files=self.files)
        run = run_id(number)
        known = (SOURCE, STEP, ROUTER) if lineages else ()
        events: list[Event] = [RunBegin(run, "sig", "agg", b"", float(number), False, known)]
        events += [
            StepDef(lineage, StepName(name), name.encode())
            for lineage, name in ((SOURCE, "source"), (STEP, "step"), (ROUTER, "source"))
            if store.step_def(lineage) is None
        ]
        store.append(events)
        writers = {lineage: self._writer(store, lineage) for lineage in (SOURCE, STEP)}
        mine = []
        above: tuple[BatchRef, ...] = ()
        for at in range(wrote):
            lineage = STEP if at % 2 else SOURCE
            self._next += 1
            content = [
                {"number": self._next, "row": row, "text": "x" * (self._next * 37 % 900)}
                for row in range(rows)
            ]
            refs = writers[lineage].append(encode_rows(content, step="s"))
            if lineage == SOURCE:
                commit = Commit(run, SOURCE, (), (DATA,), refs, FRESH_ORIGINS, ordinal=at * rows)
                above = refs
            else:
                inputs = (tuple(RowSlice(ref, 0, 1) for ref in above),)
                commit = Commit(run, STEP, inputs, (KEY,), refs, SAME_ORIGINS, ordinal=self._next)
            lsn = Lsn(store.append([commit])[0])
            self.made[self._next] = lsn, commit
            mine.append(self._next)
        if reused:
            lsns = tuple(self.lsn_now(store, commit) for commit in reused)
            store.append([Reuse(run, STEP, lsns)])
        store.append([Route(run, ROUTER, KEY, (StepName("step"),))])
        self.needs[run] = {*mine, *reused}
        if end:
            store.append(
                [
                    StepDone(run, SOURCE, NONE, 1, 0),
                    Emit(run, KEY, StepName("step"), "default", ((f"exports/{run}/a", KEY),), 1),
                    RunEnd(run, True, KEY, 0, "", float(number)),
                ]
            )
            self._export(run)
        else:
            self.unfinished.add(run)
        store.close(clean=end)
        return mine

    def _writer(self, store: Store, lineage: Digest) -> SegmentWriter:
        segment, fd = store.create_segment(lineage)
        return SegmentWriter(fd, segment, store.id, self.files)

    def _export(self, run: RunId) -> None:
        folder = store_root(self.cache, "p") / "exports"
        for path in (folder, folder / run):
            if self.files.make_private_dir(path):
                self.files.fsync_dir(path.parent)
        fd = self.files.create(folder / run / "a")
        self.files.writev(fd, [b"an export" * 100])
        self.files.fdatasync(fd)
        self.files.close(fd)
        self.files.fsync_dir(folder / run)

    def lsn_now(self, store: Store, number: int) -> Lsn:
        """Where a commit stands in the log that is left."""
        wanted = self.made[number][1]
        for lsn, commit in store.commits(wanted.lineage):
            if same(commit, wanted):
                return lsn
        raise AssertionError(f"commit {number} is gone")

    def needed(self, kept: set[RunId]) -> set[int]:
        return {number for run in kept for number in self.needs[run]}

    def check(self, files: Files, kept: set[RunId], *, exact: bool) -> None:
        """Every commit that a kept run needs is there, with every row of it and of its inputs."""
        store = StoreReader.open(self.cache, "p", files=files)
        assert store is not None
        found = self._found(store)
        needed = self.needed(kept)
        assert needed <= found
        runs = {begin.run: end for begin, end in store.runs()}
        ended = {run for run, end in runs.items() if end is None or end.reason != COLLECTED}
        assert kept <= ended
        for run in kept - self.unfinished:
            assert runs[run] is not None
            assert runs[run].completed  # type: ignore[union-attr]
            assert [emit.run for emit in store.emits(KEY) if emit.run == run] == [run]
            assert files.exists(store.root / "exports" / run / "a")
        if exact:
            assert found == needed
            assert ended == kept
            assert {emit.run for emit in store.emits(KEY)} == kept - self.unfinished
            assert store.routes(ROUTER) == ({KEY: ("step",)} if kept else {})
            assert bool(store.step_defs()) == bool(kept)
        store.close()

    def _found(self, store: StoreReader) -> set[int]:
        found = set()
        reader = store.reader()
        for lineage in (SOURCE, STEP):
            lsns = []
            for lsn, commit in store.commits(lineage):
                rows = [
                    row for ref in commit.outputs for row in reader.rows(RowSlice(ref, 0, ref.rows))
                ]
                number = rows[0]["number"]
                assert [row["row"] for row in rows] == list(range(len(rows)))
                assert same(commit, self.made[number][1])
                for port in commit.inputs:
                    for part in port:
                        assert len(reader.row_digests(part)) == 16
                found.add(number)
                lsns.append(lsn)
            assert lsns == sorted(lsns)
        reader.close()
        return found


def same(one: Commit, other: Commit) -> bool:
    """Whether two commits differ in nothing but where their rows lie."""
    return (one.run, one.lineage, one.input_digests, one.origins, one.ordinal) == (
        other.run,
        other.lineage,
        other.input_digests,
        other.origins,
        other.ordinal,
    ) and [ref.digest for ref in one.outputs] == [ref.digest for ref in other.outputs]


def drawn(rng: random.Random, files: Files, cache: Path = CACHE, runs: int = 5) -> Runs:
    """Some runs that take from one another."""
    made = Runs(files, cache)
    known: list[int] = []
    for number in range(1, runs + 1):
        reused = tuple(sorted(rng.sample(known, rng.randint(0, len(known)))))
        known += made.run(number, wrote=rng.randint(0, 6), reused=reused)
    return made


# --- what goes and what stays ---------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_after_a_collection_the_log_tells_of_the_kept_runs_alone(seed: int) -> None:
    rng = random.Random(seed)
    disk = MemoryDisk()
    runs = drawn(rng, disk)
    kept = set(runs.needs)
    for _ in range(3):
        gone = {run for run in sorted(kept) if rng.random() < 0.4}
        foreseen = Survey(ROOT, "p", disk)
        for run in gone:
            foreseen.drop(run)
        expected = foreseen.freed_bytes()
        freed = collect(CACHE, "p", gone, disk)
        kept -= gone
        runs.check(disk, kept, exact=True)
        assert abs(freed - expected) < 100  # references of another length
        survey = Survey(ROOT, "p", disk)
        assert not survey.rewrites()
        assert survey.freed_bytes() == 0
        # And life goes on.
        store = Store.open(CACHE, "p", files=disk)
        assert store.warnings == []
        store.close(clean=rng.random() < 0.5)
        number = len(runs.needs) + 1
        reused = tuple(sorted(runs.needed(kept)))[:3]
        runs.run(number, wrote=2, reused=reused)
        kept.add(run_id(number))
    assert disk.open_descriptors == 0


def test_everything_can_go_and_a_run_begins_anew() -> None:
    disk = MemoryDisk()
    runs = drawn(random.Random(1), disk)
    before = disk.used_bytes
    freed = collect(CACHE, "p", set(runs.needs), disk)
    assert freed > 0.9 * (before - 10_000)
    runs.check(disk, set(), exact=True)
    assert not [path for path in disk.files() if path.suffix == ".ads"]
    runs.run(9, wrote=4)
    runs.check(disk, {run_id(9)}, exact=True)


def test_numbers_of_the_log_are_never_used_again() -> None:
    disk = MemoryDisk()
    runs = drawn(random.Random(2), disk)
    before = read_history(ROOT, disk)
    collect(CACHE, "p", {run_id(1), run_id(2)}, disk)
    after = read_history(ROOT, disk)
    assert min(one.lsn for one in after.commits) > before.tail.lsn
    assert runs.needs


def test_a_run_that_did_not_end_holds_what_it_may_have_replayed() -> None:
    """What it had replayed by then is on record only in part."""
    for lineages in (True, False):
        disk = MemoryDisk()
        runs = Runs(disk)
        first = runs.run(1, wrote=4)
        runs.run(2, wrote=1, end=False, lineages=lineages)
        collect(CACHE, "p", {run_id(1)}, disk)
        runs.needs[run_id(2)].update(first)
        runs.check(disk, {run_id(2)}, exact=False)
        collect(CACHE, "p", {run_id(2)}, disk)
        runs.check(disk, set(), exact=True)


def test_rows_that_a_kept_commit_was_made_of_stay_though_their_commit_goes() -> None:
    disk = MemoryDisk()
    runs = Runs(disk)
    _, below = runs.run(1, wrote=2)
    runs.run(2, wrote=0, reused=(below,))
    collect(CACHE, "p", {run_id(1)}, disk)
    runs.check(disk, {run_id(2)}, exact=True)  # reads the digests of its inputs


def test_a_generator_counts_as_complete_only_while_all_of_its_yields_are_there() -> None:
    disk = MemoryDisk()
    runs = Runs(disk)
    first, second = runs.run(1, wrote=4)[0], 3
    store = Store.open(CACHE, "p", files=disk)
    store.append([StepDone(run_id(1), SOURCE, DATA, 9, 0)])
    store.close(clean=True)
    runs.run(2, wrote=0, reused=(first, second))
    runs.run(3, wrote=0, reused=(first,))
    collect(CACHE, "p", set(), disk)

    def done() -> bool:
        view = StoreReader.open(CACHE, "p", files=disk)
        assert view is not None
        found = view.step_done(SOURCE, DATA)
        view.close()
        return found is not None

    assert done()
    collect(CACHE, "p", {run_id(1)}, disk)
    assert not done()  # rows 6 to 8 went: whoever believed it would make a shorter dataset


def test_outcomes_of_outside_effects_are_never_forgotten() -> None:
    disk = MemoryDisk()
    runs = Runs(disk)
    runs.run(1, wrote=2)
    store = Store.open(CACHE, "p", files=disk)
    store.append([Outcome(run_id(1), STEP, KEY, "ok")])
    store.close(clean=True)
    collect(CACHE, "p", {run_id(1)}, disk)
    view = StoreReader.open(CACHE, "p", files=disk)
    assert view is not None
    assert view.outcome(STEP, KEY) == "ok"
    view.close()


def test_tombstones_and_moves_of_the_log_are_settled(kit: Any) -> None:
    disk = MemoryDisk()
    runs = Runs(disk)
    one, two, *_ = runs.run(1, wrote=4)
    store = Store.open(CACHE, "p", files=disk)
    (old,) = runs.made[two][1].outputs
    segment, fd = store.create_segment(STEP)
    reader = store.reader()
    rows = reader.rows(RowSlice(old, 0, old.rows))
    reader.close()
    (new,) = SegmentWriter(fd, segment, store.id, disk).append(encode_rows(rows, step="s"))
    store.append([Moved(old, new), Tombstone((runs.made[one][0],))])
    store.close(clean=True)
    runs.needs[run_id(1)].remove(one)
    collect(CACHE, "p", set(), disk)
    runs.check(disk, {run_id(1)}, exact=True)
    assert not [e for _, e, _ in read_history(ROOT, disk).events if isinstance(e, Moved)]


def test_what_no_commit_ever_named_goes() -> None:
    """The segment of a worker that died before its first commit."""
    disk = MemoryDisk()
    runs = drawn(random.Random(3), disk)
    collect(CACHE, "p", set(), disk)
    used = disk.used_bytes
    store = Store.open(CACHE, "p", files=disk)
    _, fd = store.create_segment(STEP)
    disk.writev(fd, [b"torn" * 1000])
    store.close(clean=True)
    assert collect(CACHE, "p", set(), disk) >= 4000
    runs.check(disk, set(runs.needs), exact=True)
    assert disk.used_bytes <= used + 1000


def test_what_lies_beside_the_log_goes_with_its_run(tmp_path: Path) -> None:
    runs = Runs(LocalFiles(), tmp_path)
    first = runs.run(1, wrote=2)
    runs.run(2, wrote=1, reused=(first[1],))
    runs.run(3, wrote=1)
    root = store_root(tmp_path, "p")
    for top in ("exports", "artifacts", "runs"):
        for run in (1, 2, 3):
            folder = root / top / run_id(run) / "a step"
            folder.mkdir(parents=True)
            (folder / "picture").write_bytes(b"x" * 1000)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("mine")
    (root / "artifacts" / run_id(3) / "link").symlink_to(outside)
    assert collect(tmp_path, "p", {run_id(1), run_id(3)}, LocalFiles()) > 5000
    left = {str(path.parent.parent.relative_to(root)) for path in root.rglob("picture")}
    # What the steps of the first run saved hangs on rows that the second one took.
    assert left == {f"artifacts/{run_id(1)}"} | {
        f"{top}/{run_id(2)}" for top in ("exports", "artifacts", "runs")
    }
    assert (outside / "mine").read_text() == "mine"
    runs.check(LocalFiles(), {run_id(2)}, exact=True)


# --- pins, locks, damage --------------------------------------------------------------------------


def test_a_pinned_run_stays_whoever_asks(tmp_path: Path) -> None:
    disk = MemoryDisk()
    runs = drawn(random.Random(4), disk)
    write_pins(ROOT, Pins(runs=(run_id(2),)), disk)
    collect(CACHE, "p", set(runs.needs), disk)
    runs.check(disk, {run_id(2)}, exact=True)
    write_pins(ROOT, Pins(everything=True), disk)
    runs.run(7, wrote=2)
    collect(CACHE, "p", set(runs.needs), disk)
    runs.check(disk, {run_id(2), run_id(7)}, exact=True)


def test_pins_that_cannot_be_read_let_nothing_go() -> None:
    disk = MemoryDisk()
    runs = drawn(random.Random(5), disk)
    disk.put(pins_path(ROOT), b'{"runs": 7}')
    with pytest.raises(CorruptRecord, match="PINS"):
        collect(CACHE, "p", set(runs.needs), disk)
    runs.check(disk, set(runs.needs), exact=True)


def test_pins_survive_a_power_cut_whole() -> None:
    for seed in range(40):
        rng = random.Random(seed)
        disk = MemoryDisk()
        Runs(disk).run(1, wrote=1)
        write_pins(ROOT, Pins(runs=(run_id(1),)), disk)
        countdown = rng.randint(0, 6)

        def before(_act: str, _path: Path) -> None:
            nonlocal countdown
            countdown -= 1
            if countdown < 0:
                raise PowerCut

        disk.before = before
        try:
            write_pins(ROOT, Pins(everything=True), disk)
            whole = True
        except PowerCut:
            whole = False
        found = read_pins(ROOT, disk.after_power_cut(rng))
        assert found == Pins(everything=True) or (not whole and found == Pins(runs=(run_id(1),)))


def test_a_run_that_goes_on_is_left_alone(tmp_path: Path) -> None:
    runs = drawn(random.Random(6), LocalFiles(), tmp_path, runs=2)
    store = Store.open(tmp_path, "p")
    with pytest.raises(StoreLocked):
        collect(tmp_path, "p", set(runs.needs), LocalFiles())
    store.close(clean=True)
    runs.check(LocalFiles(), set(runs.needs), exact=True)


def test_a_damaged_store_is_not_collected() -> None:
    disk = MemoryDisk()
    runs = drawn(random.Random(7), disk)
    logs = [path for path in disk.files() if path.suffix == ".adc"]
    image = bytearray(disk.files()[logs[0]])
    image[400] ^= 1
    disk.put(logs[0], bytes(image))
    before = {p: data for p, data in disk.files().items() if p.suffix in {".adc", ".ads"}}
    with pytest.raises(CorruptRecord):
        collect(CACHE, "p", {run_id(1)}, disk)
    assert before.items() <= disk.files().items()
    assert runs.needs


def test_a_segment_with_damaged_rows_stays_as_it_is() -> None:
    """Collecting does not judge damage, and hides none."""
    disk = MemoryDisk()
    runs = Runs(disk)
    made = runs.run(1, wrote=6)
    runs.run(2, wrote=0, reused=(made[1],))
    (ref,) = runs.made[made[1]][1].outputs
    (path,) = (p for p in disk.files() if p.name == f"{ref.segment:010d}.ads")
    image = bytearray(disk.files()[path])
    image[ref.offset + 100] ^= 1
    disk.put(path, bytes(image))
    collect(CACHE, "p", {run_id(1)}, disk)
    assert disk.files()[path] == bytes(image)
    (left,) = read_history(ROOT, disk).commits
    assert left.records[0] == (ref.segment, ref.offset)
    with pytest.raises(CorruptRecord, match="damaged"):
        runs.check(disk, {run_id(2)}, exact=True)


# --- kills, power cuts, a disk that refuses -------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_power_cut_at_any_act_of_a_collection_loses_nothing_that_is_kept(seed: int) -> None:
    rng = random.Random(100 + seed)
    prototype = MemoryDisk()
    runs = drawn(rng, prototype, runs=4)
    gone = {run_id(1), run_id(3)}
    kept = set(runs.needs) - gone
    act = 0
    while True:
        act += 1
        disk = prototype.after_process_death()
        cut = interrupted(disk, act, lambda d=disk: collect(CACHE, "p", gone, d), PowerCut())
        if not cut:
            break
        for _ in range(3):
            after = disk.after_power_cut(rng)
            runs.check(after, kept, exact=False)
            store = Store.open(CACHE, "p", files=after)
            store.close(clean=rng.random() < 0.5)
            runs.check(after, kept, exact=False)
            collect(CACHE, "p", gone, after)
            runs.check(after, kept, exact=True)
    assert act > 20


def test_a_disk_that_refuses_any_act_of_a_collection_loses_nothing() -> None:
    prototype = MemoryDisk()
    runs = drawn(random.Random(11), prototype, runs=4)
    gone = {run_id(2)}
    kept = set(runs.needs) - gone
    act = 0
    while True:
        act += 1
        disk = prototype.after_process_death()
        error = OSError(28, "No space left on device")
        if not interrupted(disk, act, lambda d=disk: collect(CACHE, "p", gone, d), error):
            break
        runs.check(disk, kept, exact=False)
        collect(CACHE, "p", gone, disk)
        runs.check(disk, kept, exact=True)
        assert disk.open_descriptors == 0
    assert act > 20


def test_a_process_killed_at_any_act_of_a_collection_loses_nothing(tmp_path: Path) -> None:
    def build(cache: Path) -> tuple[Runs, set[RunId]]:
        runs = drawn(random.Random(12), LocalFiles(), cache, runs=3)
        return runs, set(runs.needs) - {run_id(1)}

    # Acts one by one are the matter of the two tests above; here a process dies in earnest.
    for act in range(1, 1000, 3):
        cache = tmp_path / str(act)
        runs, kept = build(cache)
        died = in_child(
            lambda _report, c=cache, a=act: collect(c, "p", {run_id(1)}, DyingFiles(a, 0.5))
        )
        runs.check(LocalFiles(), kept, exact=False)
        collect(cache, "p", {run_id(1)}, LocalFiles())
        runs.check(LocalFiles(), kept, exact=True)
        if not died.killed:
            assert died.status == 0, died.reports
            break
    assert act > 20


def test_a_log_written_anew_is_read_from_its_newest_file_alone() -> None:
    disk = MemoryDisk()
    runs = drawn(random.Random(13), disk)
    collect(CACHE, "p", {run_id(1)}, disk)
    (log,) = (path for path in disk.files() if path.suffix == ".adc")
    assert log != commit_path(ROOT, 1)
    disk.unlink(ROOT / "checkpoint.adk")
    runs.check(disk, set(runs.needs) - {run_id(1)}, exact=True)
    for cut in range(200, len(disk.files()[log]) - 8, 97):
        torn = disk.after_process_death()
        torn.put(log, disk.files()[log][:cut])
        with pytest.raises(CorruptRecord):
            Store.open(CACHE, "p", files=torn)
