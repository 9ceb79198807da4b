"""Memo segments join the log's groups: they are synced before the commits that rely on them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from asyncdistil.errors import LogError, StorageError
from asyncdistil.log import Files, LocalFiles, Store
from asyncdistil.log.files import remedy
from asyncdistil.memo import namespace_dir, segment_path


class MemoSync:
    """The segments that workers wrote to or were served from in this run.

    A worker names a segment before the first result that relies on it, on the same socket. So it
    is among the files of the group long before the commit is appended. It stays there after the
    worker's death, because the last commits of the dead may not be durable yet.
    """

    def __init__(self, store: Store, memo_dir: str, files: Files | None = None) -> None:
        """Watch over no segment yet.

        Args:
            store: Whose groups they join.
            memo_dir: ``<cache>/memo``.
            files: The disk.
        """
        self._store = store
        self._directory = namespace_dir(Path(memo_dir))
        self._files = files or LocalFiles()
        self._open: dict[int, int] = {}

    def add(self, segment: int) -> None:
        """Sync a segment with every group from now on.

        Raises:
            StorageError: It can't be opened.
        """
        if segment in self._open:
            return
        path = segment_path(self._directory, segment)
        try:
            # An error of writing back that nobody has seen yet is reported to this descriptor.
            fd = self._files.open_read(path)
        except OSError as error:
            raise StorageError(
                f"{path} holds answers of this run and can't be opened to be synced "
                f"({error.strerror}); finished work is kept: {remedy(error)}, then run again"
            ) from error
        self._open[segment] = fd
        self._store.add_dirty_fd(("memo", segment), fd)

    async def end(self) -> None:
        """Let go of the segments when everything that relies on them is durable."""
        if self._open:
            await asyncio.to_thread(self._end)

    def _end(self) -> None:
        with suppress(LogError, OSError):
            self._store.flush()
            # In mode ``process`` no group was synced; a clean end is safe from power cuts there.
            for fd in self._open.values():
                self._files.fdatasync(fd)
        for segment, fd in self._open.items():
            self._store.drop_fd(("memo", segment))
            self._files.close(fd)
        self._open.clear()
