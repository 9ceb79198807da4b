"""Who runs a pipeline is told without being in the way of whoever wants to run it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asyncdistil.errors import StoreLocked
from asyncdistil.log import LocalFiles, Store
from asyncdistil.log.holder import lock_holder
from asyncdistil.log.lock import refuse_if_locked


def locked(root: Path, text: str) -> Path:
    root.mkdir(exist_ok=True)
    (root / "LOCK").write_text(text)
    return root


def test_the_process_that_holds_a_store_is_named_while_it_lives(cache_dir: Path) -> None:
    store = Store.open(cache_dir, "p")
    assert lock_holder(store.root) == os.getpid()
    with pytest.raises(StoreLocked, match=f"'p' is being run by pid {os.getpid()} since"):
        refuse_if_locked(store.root, "p", LocalFiles())
    store.close(clean=True)
    refuse_if_locked(store.root, "p", LocalFiles())
    # To have looked is not to have locked it.
    Store.open(cache_dir, "p").close(clean=True)


def test_a_process_that_is_dead_holds_nothing(tmp_path: Path) -> None:
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    assert lock_holder(locked(tmp_path / "s", f"pid {pid} since yesterday\n")) is None


def test_a_process_that_may_not_be_signalled_is_alive(tmp_path: Path) -> None:
    assert lock_holder(locked(tmp_path / "s", "pid 1 since the start\n")) == 1


@pytest.mark.parametrize(
    "text", ["", "nobody", "pid x since y", "pid since", f"pid {1 << 70} since the start"]
)
def test_a_lock_that_names_no_process_names_no_holder(tmp_path: Path, text: str) -> None:
    assert lock_holder(locked(tmp_path / "s", text)) is None


def test_where_no_lock_lies_nobody_runs(tmp_path: Path) -> None:
    assert lock_holder(tmp_path) is None
    refuse_if_locked(tmp_path, "p", LocalFiles())
    # Nor is a link followed that leads out of the store.
    outside = locked(tmp_path / "outside", f"pid {os.getpid()} since now\n")
    (tmp_path / "LOCK").symlink_to(outside / "LOCK")
    assert lock_holder(tmp_path) is None
