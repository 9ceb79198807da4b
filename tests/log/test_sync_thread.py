"""The sync thread when nothing happens, when the disk refuses it, when a callback does."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.batch import Lsn
from asyncdistil.errors import CorruptRecord, LogError, StorageError
from asyncdistil.log import Store, group_sync
from asyncdistil.log.names import commit_path, store_root
from asyncdistil.testing.disk import MemoryDisk

CACHE = Path("/cache")
LOG = commit_path(store_root(CACHE, "p"), 1)
PATIENCE_SECONDS = 60.0


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing happens for a shorter while."""
    monkeypatch.setattr(group_sync, "_IDLE_SECONDS", 0.01)


class Watched:
    """A disk that tells of writes to the log from the sync thread."""

    def __init__(self) -> None:
        self.disk = MemoryDisk()
        self.stamped = threading.Event()
        self.refuses = False
        self.disk.before = self._before

    def _before(self, act: str, path: Path) -> None:
        if act == "writev" and path.suffix == ".adc" and _is_sync_thread():
            if self.refuses:
                self.refuses = False
                raise OSError(errno.EIO, "Input/output error")
            self.stamped.set()


def _is_sync_thread() -> bool:
    return threading.current_thread().name == "asyncdistil-sync"


def ignore(_lsn: Lsn) -> None:
    pass


def test_an_idle_log_notes_how_far_it_is_durable_so_that_its_end_is_not_taken_for_torn(
    kit: Any,
) -> None:
    watched = Watched()
    store = Store.open(CACHE, "p", files=watched.disk)
    store.start_syncing(ignore, lambda _error: None)
    last = kit.writer(store, watched.disk).commit(1)
    store.flush()
    assert watched.stamped.wait(PATIENCE_SECONDS)
    with store._log.lock:
        left = watched.disk.after_process_death()
    image = bytearray(left.files()[LOG])
    image[image.index(kit.lineage)] ^= 1  # of the only commit, which was acknowledged
    left.put(LOG, bytes(image))
    with pytest.raises(CorruptRecord) as caught:
        Store.open(CACHE, "p", files=left)
    assert caught.value.lsn == last
    # There is nothing more to note, so an idle log does not grow.
    with store._log.lock:
        store._sync._stamp()
        before = store._log.tail
        store._sync._stamp()
        assert store._log.tail == before
    store.close(clean=True)


def test_without_syncs_an_idle_log_notes_nothing(kit: Any) -> None:
    watched = Watched()
    store = Store.open(CACHE, "p", files=watched.disk, mode="process")
    told = threading.Event()
    store.start_syncing(lambda _lsn: told.set(), lambda _error: None)
    kit.writer(store, watched.disk).commit(1)
    assert told.wait(PATIENCE_SECONDS)
    with store._log.lock:
        store._sync._stamp()
    assert not watched.stamped.is_set()
    store.close(clean=True)


def test_a_disk_that_refuses_an_idle_log_is_reported_without_anybody_waiting(kit: Any) -> None:
    watched = Watched()
    store = Store.open(CACHE, "p", files=watched.disk)
    told = threading.Event()
    errors: list[LogError] = []

    def on_error(error: LogError) -> None:
        errors.append(error)
        told.set()

    writer = kit.writer(store, watched.disk)
    # Before the thread begins: it may find the log idle at once.
    writer.commit(1)
    watched.refuses = True
    store.start_syncing(ignore, on_error)
    assert told.wait(PATIENCE_SECONDS)
    (error,) = errors
    assert isinstance(error, StorageError)
    with pytest.raises(StorageError):
        writer.commit(2)
    store.close(clean=True)
    assert kit.numbers(Store.open(CACHE, "p", files=watched.disk)) == [1]


def test_a_first_error_is_not_hidden_by_a_callback_that_fails_on_it(
    kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _args: None)
    disk = MemoryDisk()
    store = Store.open(CACHE, "p", files=disk)
    errors: list[LogError] = []

    def on_error(error: LogError) -> None:
        errors.append(error)
        raise RuntimeError("the loop is closed")

    def refuse(act: str, path: Path) -> None:
        if act == "fdatasync" and path.suffix == ".ads":
            raise OSError(errno.EIO, "Input/output error")

    writer = kit.writer(store, disk)
    disk.before = refuse
    store.start_syncing(ignore, on_error)
    writer.commit(1)
    with pytest.raises(StorageError, match="segment or memo file failed to sync"):
        store.flush()
    store.close(clean=True)
    assert len(errors) == 1
