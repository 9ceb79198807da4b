"""Collecting a cache directory: an answer goes only when no run that is kept needs it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.batch import RunId
from asyncdistil.errors import CorruptRecord, StoreLocked
from asyncdistil.log import LocalFiles, Store, StoreReader, store_root
from asyncdistil.log.names import commit_path
from asyncdistil.log.pins import Pins, write_pins
from asyncdistil.memo import Key, Memo
from asyncdistil.memo.collection import Collection, Limits
from asyncdistil.testing.faults import small_reserve

OLD, NEW, THIRD = (RunId(digit * 32) for digit in "123")
LONG_AGO, FAR_AHEAD = 1.0, 4e9
"""When runs ended, as Unix time; answers are of now."""

EVERYTHING = Limits(older_than_seconds=0)
BODY = b"an answer " * 50

Keys = Callable[..., Key]
Make = Callable[..., Any]


@pytest.fixture(autouse=True)
def _cheap() -> Iterator[None]:
    with small_reserve():
        yield


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def put(cache: Path, run: str, *keys: Key) -> None:
    with closing(Memo.open(cache / "memo", run=run)) as memo:
        for key in keys:
            memo.put(key, 0, BODY)


def left(cache: Path, key: Keys, *names: str) -> set[str]:
    """Which of these answers are still there."""
    with closing(Memo.open(cache / "memo")) as memo:
        return {name for name in names if memo.get(key(name)) is not None}


def runs(cache: Path, name: str) -> set[RunId]:
    store = StoreReader.open(cache, name)
    assert store is not None
    found = {begin.run for begin, _ in store.runs()}
    store.close()
    return found


def chosen(cache: Path, limits: Limits, name: str | None = None) -> Collection:
    collection = Collection(cache, LocalFiles(), name)
    collection.choose(limits)
    return collection


def used_bytes(cache: Path) -> int:
    endings = {".adc", ".ads", ".adm", ".arrow"}
    return sum(path.stat().st_size for path in cache.rglob("*") if path.suffix in endings)


def test_an_answer_stays_while_any_run_that_took_or_wrote_it_is_kept(
    cache: Path, key: Keys, make_run: Make
) -> None:
    put(cache, OLD, key("written by both"), key("written by the old one"))
    put(cache, NEW, key("written by the new one"))
    put(cache, THIRD, key("taken by both"), key("taken by the old one"), key("of nobody"))
    samples = [(key("taken by both").digest, 0)]
    gone = (key("taken by the old one").digest, 0), (key("never stored").digest, 0)
    make_run(cache, "p", OLD, samples=[*samples, *gone], seconds=LONG_AGO)
    samples.append((key("written by both").digest, 0))
    make_run(cache, "q", NEW, samples=samples, seconds=FAR_AHEAD)
    collection = chosen(cache, EVERYTHING)
    assert [(one.pipeline, one.part.run) for one in collection.dropped] == [("p", OLD)]
    assert collection.answers_dropped == 3
    expected = collection.freed_bytes()
    before = used_bytes(cache)
    assert abs(collection.size_bytes - before) < 600
    freed = collection.collect()
    assert freed == before - used_bytes(cache)
    assert abs(freed - expected) < 300  # headers of the files that are written anew
    names = ("written by both", "written by the old one", "written by the new one")
    assert left(cache, key, *names, "taken by both", "taken by the old one", "of nobody") == {
        "written by both",
        "written by the new one",
        "taken by both",
    }
    assert (runs(cache, "p"), runs(cache, "q")) == (set(), {NEW})


def test_an_answer_stays_with_a_run_that_reuses_the_work_of_the_run_that_wrote_it(
    cache: Path, key: Keys, make_run: Make
) -> None:
    put(cache, OLD, key("written for the reused commit"))
    commit = make_run(cache, "p", OLD, seconds=LONG_AGO)
    make_run(cache, "p", NEW, reused=[commit], seconds=FAR_AHEAD)
    collection = chosen(cache, EVERYTHING)
    assert [one.part.run for one in collection.dropped] == [OLD]
    collection.collect()
    assert left(cache, key, "written for the reused commit")


def test_answers_that_are_younger_than_the_limit_stay_without_a_run(
    cache: Path, key: Keys, make_run: Make
) -> None:
    put(cache, OLD, key("of a run that goes"), key("another"))
    make_run(cache, "p", OLD, seconds=LONG_AGO)
    collection = chosen(cache, Limits(older_than_seconds=3600))
    collection.collect()
    assert runs(cache, "p") == set()
    assert left(cache, key, "of a run that goes", "another") == {"of a run that goes", "another"}


def test_a_size_is_come_down_to_from_the_oldest_on_and_no_further(
    cache: Path, key: Keys, make_run: Make
) -> None:
    put(cache, "nobody", *(key(f"idle {n}") for n in range(4)))
    for number, run in enumerate((OLD, NEW, THIRD)):
        put(cache, run, *(key(f"{run} {n}") for n in range(3)))
        make_run(cache, "p" if number else "q", run, seconds=FAR_AHEAD + number)
    size = chosen(cache, Limits()).size_bytes
    assert chosen(cache, Limits(max_bytes=size)).freed_bytes() == 0
    little = chosen(cache, Limits(max_bytes=size - len(BODY)))
    assert (little.dropped, little.answers_dropped) == ([], 1)  # the oldest answer of nobody
    more = chosen(cache, Limits(max_bytes=size - 10 * len(BODY)))
    assert [one.part.run for one in more.dropped] == [OLD]
    assert more.answers_dropped >= 4
    for share in (0.8, 0.5, 0.3):
        limit = int(size * share)
        collection = chosen(cache, Limits(max_bytes=limit))
        assert collection.size_bytes - collection.freed_bytes() <= limit
        ordered = [one.part.run for one in collection.dropped]
        assert ordered == [OLD, NEW, THIRD][: len(ordered)]
    everything = chosen(cache, Limits(max_bytes=0))
    assert [one.part.run for one in everything.dropped] == [OLD, NEW, THIRD]
    assert everything.answers_dropped == 13
    everything.collect()
    assert used_bytes(cache) < size / 5
    assert len(Memo.open(cache / "memo")) == 0


def test_both_limits_at_once_drop_nothing_twice(cache: Path, key: Keys, make_run: Make) -> None:
    put(cache, "nobody", key("idle"))
    make_run(cache, "p", OLD, seconds=LONG_AGO)
    make_run(cache, "q", NEW, seconds=FAR_AHEAD)
    collection = chosen(cache, Limits(older_than_seconds=0, max_bytes=0))
    assert [one.part.run for one in collection.dropped] == [OLD, NEW]
    assert collection.answers_dropped == 1
    assert collection.freed_bytes() <= collection.size_bytes


def test_a_pinned_run_keeps_its_answers(cache: Path, key: Keys, make_run: Make) -> None:
    put(cache, OLD, key("kept"))
    make_run(cache, "p", OLD, seconds=LONG_AGO)
    write_pins(store_root(cache, "p"), Pins(runs=(OLD,)), LocalFiles())
    collection = chosen(cache, Limits(older_than_seconds=0, max_bytes=0))
    assert (collection.dropped, collection.answers_dropped) == ([], 0)
    assert collection.collect() == 0
    assert left(cache, key, "kept") == {"kept"}


def test_an_answer_that_was_written_meanwhile_stays(cache: Path, key: Keys, make_run: Make) -> None:
    put(cache, "nobody", key("asked again"), key("not asked again"))
    make_run(cache, "p", OLD, seconds=FAR_AHEAD)
    collection = chosen(cache, EVERYTHING)
    assert collection.answers_dropped == 2
    put(cache, NEW, key("asked again"))
    collection.collect()
    assert left(cache, key, "asked again", "not asked again") == {"asked again"}


def test_an_answer_that_was_written_meanwhile_by_a_clock_set_back_stays(
    cache: Path, key: Keys, make_run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(cache, OLD, key("asked again"), key("of nobody"))
    make_run(cache, "p", OLD, seconds=LONG_AGO)
    collection = chosen(cache, EVERYTHING)
    monkeypatch.setattr("time.time_ns", lambda: 1)
    put(cache, NEW, key("asked again"))
    collection.collect()
    assert left(cache, key, "asked again", "of nobody") == {"asked again"}


def test_of_one_pipeline_the_first_run_goes_first_whatever_the_clock_said(
    cache: Path, make_run: Make
) -> None:
    make_run(cache, "p", OLD, seconds=FAR_AHEAD)
    make_run(cache, "p", NEW, seconds=LONG_AGO)
    size = chosen(cache, Limits()).size_bytes
    collection = chosen(cache, Limits(max_bytes=size - 1))
    assert [one.part.run for one in collection.dropped] == [OLD]


def test_what_was_superseded_goes_without_any_limit_once_it_is_worth_it(
    cache: Path, key: Keys, make_run: Make
) -> None:
    make_run(cache, "p", OLD, seconds=FAR_AHEAD)
    put(cache, OLD, *(key(n) for n in range(50)))
    put(cache, OLD, key(0))
    assert chosen(cache, Limits()).collect() == 0  # one answer in fifty is not
    for _ in range(20):
        put(cache, OLD, key(0))
    before = used_bytes(cache)
    collection = chosen(cache, Limits())
    assert collection.collect() == before - used_bytes(cache) > 10 * len(BODY)
    assert len(left(cache, key, *map(str, range(50)))) == 50
    assert runs(cache, "p") == {OLD}


def test_one_pipeline_is_collected_without_the_answers_that_all_share(
    cache: Path, key: Keys, make_run: Make
) -> None:
    put(cache, OLD, key("shared"))
    make_run(cache, "p", OLD, seconds=LONG_AGO)
    make_run(cache, "q", NEW, seconds=LONG_AGO)
    collection = chosen(cache, EVERYTHING, "p")
    assert [one.part.run for one in collection.dropped] == [OLD]
    assert collection.answers_dropped == 0
    assert collection.collect() > 0
    assert left(cache, key, "shared") == {"shared"}
    assert runs(cache, "q") == {NEW}


def test_a_cache_without_answers_is_collected_all_the_same(cache: Path, make_run: Make) -> None:
    make_run(cache, "p", OLD, seconds=LONG_AGO)
    assert chosen(cache, Limits(older_than_seconds=0, max_bytes=0)).collect() > 0
    assert runs(cache, "p") == set()
    assert not (cache / "memo").exists()
    assert chosen(cache / "nowhere", EVERYTHING).size_bytes == 0


# --- stores that can't be collected ---------------------------------------------------------------


def test_answers_stay_while_it_is_not_known_what_a_store_needs(
    cache: Path, key: Keys, make_run: Make
) -> None:
    """A store that runs, is damaged, or that nobody can name may need any of them."""
    put(cache, THIRD, key("of nobody"))
    make_run(cache, "collected", OLD, seconds=LONG_AGO)
    for name in ("running", "damaged", "nameless", "empty"):
        make_run(cache, name, NEW, seconds=FAR_AHEAD)
    running = Store.open(cache, "running")
    log = commit_path(store_root(cache, "damaged"), 1)
    image = bytearray(log.read_bytes())
    image[400] ^= 1
    log.write_bytes(image)
    (store_root(cache, "nameless") / "NAME").write_text("another")
    commit_path(store_root(cache, "empty"), 1).unlink()
    collection = chosen(cache, Limits(older_than_seconds=0, max_bytes=0))
    reasons = dict(collection.refused)
    assert reasons.keys() == {"running", "damaged", store_root(cache, "nameless").name}
    assert f"pid {os.getpid()}" in reasons["running"]
    assert "damage" in reasons["damaged"]
    assert [one.pipeline for one in collection.dropped] == ["collected"]
    assert collection.answers_dropped == 0
    collection.collect()
    running.close(clean=True)
    assert left(cache, key, "of nobody") == {"of nobody"}
    assert log.read_bytes() == image


def test_a_store_whose_run_began_after_the_look_stays_and_the_answers_with_it(
    cache: Path, key: Keys, make_run: Make
) -> None:
    put(cache, OLD, key("of a run that would go"))
    make_run(cache, "p", OLD, seconds=LONG_AGO)
    make_run(cache, "q", NEW, seconds=LONG_AGO)
    collection = chosen(cache, EVERYTHING)
    assert collection.refused == []
    store = Store.open(cache, "p")
    assert collection.collect() > 0
    ((name, reason),) = collection.refused
    assert name == "p"
    assert "is being run by" in reason
    store.close(clean=True)
    assert (runs(cache, "p"), runs(cache, "q")) == ({OLD}, set())
    assert left(cache, key, "of a run that would go")


def test_one_pipeline_that_cannot_be_collected_is_an_error(cache: Path, make_run: Make) -> None:
    make_run(cache, "p", OLD, seconds=LONG_AGO)
    collection = chosen(cache, EVERYTHING, "p")
    store = Store.open(cache, "p")
    with pytest.raises(StoreLocked, match=f"pid {os.getpid()}"):
        collection.collect()
    with pytest.raises(StoreLocked, match=f"pid {os.getpid()}"):
        Collection(cache, LocalFiles(), "p")
    store.close(clean=True)
    log = commit_path(store_root(cache, "p"), 1)
    image = bytearray(log.read_bytes())
    image[400] ^= 1
    log.write_bytes(image)
    with pytest.raises(CorruptRecord):
        Collection(cache, LocalFiles(), "p")
