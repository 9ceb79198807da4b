"""What ``gc`` must leave alone, kept in the file ``PINS`` of a store."""

from __future__ import annotations

from pathlib import Path

import msgspec

from asyncdistil.batch import RunId
from asyncdistil.errors import CorruptRecord
from asyncdistil.log.files import Files, write_all

_NAME = "PINS"
_MOST_BYTES = 1 << 20


class Pins(msgspec.Struct, frozen=True):
    """What is pinned in a store.

    Attributes:
        everything: Whether all of its runs are, those to come included.
        runs: Runs that are.
    """

    everything: bool = False
    runs: tuple[RunId, ...] = ()

    def holds(self, run: RunId) -> bool:
        """Whether a run is pinned."""
        return self.everything or run in self.runs


def pins_path(root: Path) -> Path:
    """The file that holds the pins of a store."""
    return root / _NAME


def read_pins(root: Path, files: Files) -> Pins:
    """Read the pins of a store.

    Raises:
        CorruptRecord: The file can't be understood. Nothing may be collected then.
    """
    path = pins_path(root)
    try:
        fd = files.open_read(path)
    except FileNotFoundError:
        return Pins()
    try:
        data = files.pread(fd, _MOST_BYTES, 0)
    finally:
        files.close(fd)
    try:
        return msgspec.json.decode(data, type=Pins)
    except msgspec.DecodeError as error:
        raise CorruptRecord(
            f"{path} can't be read as pins ({error}): mend it, or delete it and pin again",
            path=str(path),
        ) from None


def write_pins(root: Path, pins: Pins, files: Files) -> None:
    """Put pins in the place of those before, in one act.

    Raises:
        OSError: The disk refused; the pins before are still there.
    """
    path = pins_path(root)
    scratch = path.with_suffix(".tmp")
    files.unlink(scratch)
    fd = files.create(scratch)
    try:
        write_all(files, fd, msgspec.json.format(msgspec.json.encode(pins)) + b"\n")
        files.fdatasync(fd)
    finally:
        files.close(fd)
    files.replace(scratch, path)
    files.fsync_dir(root)
