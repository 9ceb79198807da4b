"""Reading a store without its lock, beside a run or after it."""

from __future__ import annotations

from pathlib import Path

from asyncdistil.log.files import Files, LocalFiles
from asyncdistil.log.names import store_root
from asyncdistil.log.opening import recover_with_rows
from asyncdistil.log.recovery import Recovered
from asyncdistil.log.view import StoreView


class StoreReader(StoreView):
    """A store as it was when this was opened.

    After a clean end only the header of the checkpoint is read, however long the log is; else
    the log behind the checkpoint too, and the rows of commits that no watermark covers yet: those
    that did not reach the disk before the power failed are left out, as the next run will leave
    them out.
    """

    def __init__(self, root: Path, store_id: bytes, files: Files, recovered: Recovered) -> None:
        """Made by `open`."""
        super().__init__(root, store_id, files, recovered.index, skip_damaged=False)
        self.warnings = recovered.warnings
        self._checkpoint = recovered.checkpoint

    @classmethod
    def open(cls, cache_dir: Path, name: str, *, files: Files | None = None) -> StoreReader | None:
        """Open the store of a pipeline name, ``None`` if it has none.

        Raises:
            CorruptRecord: Acknowledged records are damaged or missing.
            FormatError: It was written by a newer format.
            StorageError: The disk refused.
        """
        files = files or LocalFiles()
        root = store_root(cache_dir, name)
        if not files.exists(root / "commits"):
            return None
        recovered = recover_with_rows(root, files, exclusive=False)
        if recovered.store_id is None:
            return None
        return cls(root, recovered.store_id, files, recovered)

    def close(self) -> None:
        """Close every file."""
        self._close_view()
        if self._checkpoint is not None:
            self._checkpoint.close()
