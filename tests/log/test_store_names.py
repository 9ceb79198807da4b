"""Stores are found by the names that people gave them, and names never mislead."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from asyncdistil.errors import StorageError
from asyncdistil.log import label_store, store_root, stores

NAMES = ["plain", "../up", "", "ünïcödé", "\ud800 lone"]


@pytest.mark.parametrize("name", NAMES)
def test_a_labelled_store_is_listed_with_its_name(cache_dir: Path, name: str) -> None:
    root = store_root(cache_dir, name)
    root.mkdir(parents=True)
    assert stores(cache_dir) == [(root, None)]
    label_store(root, name)
    assert stores(cache_dir) == [(root, name)]
    written = (root / "NAME").stat()
    label_store(root, name)
    assert (root / "NAME").stat().st_mtime_ns == written.st_mtime_ns
    assert written.st_mode & 0o777 == 0o600


def test_a_label_that_names_another_store_is_no_label(cache_dir: Path) -> None:
    root, copy = store_root(cache_dir, "a"), store_root(cache_dir, "b")
    root.mkdir(parents=True)
    label_store(root, "a")
    shutil.copytree(root, copy)
    assert dict(stores(cache_dir)) == {root: "a", copy: None}
    label_store(copy, "b")
    assert dict(stores(cache_dir)) == {root: "a", copy: "b"}
    (root / "NAME").write_bytes(b"\xff\xfe")
    assert dict(stores(cache_dir))[root] is None


def test_a_store_that_can_not_be_labelled_is_used_all_the_same(cache_dir: Path) -> None:
    root = store_root(cache_dir, "a")
    root.mkdir(parents=True)
    (root / "NAME").mkdir()
    label_store(root, "a")
    assert stores(cache_dir) == [(root, None)]


def test_a_cache_directory_without_stores_has_none_and_one_that_is_a_file_is_refused(
    cache_dir: Path,
) -> None:
    assert stores(cache_dir) == []
    cache_dir.mkdir()
    (cache_dir / "pipelines").write_text("not a directory")
    with pytest.raises(StorageError, match="name another cache directory"):
        stores(cache_dir)
