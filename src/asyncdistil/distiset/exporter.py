"""The worker role that writes the dataset of one leaf.

An exporter gets the durable rows of its leaf by reference, in source order, as the run produces
them; when the last has come, it answers with the files that hold them.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from asyncdistil.batch import RowSlice
from asyncdistil.errors import AsyncDistilError, PeerClosed
from asyncdistil.log.names import name_digest
from asyncdistil.log.segment import SegmentReader
from asyncdistil.transport import Channel
from asyncdistil.transport.messages import Export, Exported, Fatal, Finish, Load

if TYPE_CHECKING:
    from asyncdistil.distiset.writer import LeafWriter

_EXPORTS = "exports"


def serve(channel: Channel, load: Load) -> None:
    """Write the rows of one leaf until `Finish`, then answer `Exported`.

    The files are ``exports/<run id>/<digest of the leaf's name>-<number>.arrow`` in the store. An
    error that a retry would not mend (disk full, damaged rows) is answered with `Fatal`.

    Args:
        channel: To the supervisor; `Load` was received.
        load: Names store, run and leaf. Its payload may be a MessagePack array of column names
            that the dataset has even if no row comes.

    Raises:
        PeerClosed: The supervisor is gone; what was written is removed.
    """
    # Takes half a second and waits for the disk, as receiving does.
    threading.Thread(target=import_module, args=("asyncdistil.distiset.writer",)).start()
    try:
        channel.send(_export(channel, load))
    except PeerClosed:
        raise
    except Exception as error:
        channel.send(_fatal(error, load))


def _export(channel: Channel, load: Load) -> Exported:
    store = Path(load.store)
    columns = msgspec.msgpack.decode(load.payload, type=list[str]) if load.payload else []
    slices = _slices(channel)
    # Waits for the first message before it needs the import above.
    first = next(slices, None)
    from asyncdistil.distiset.writer import LeafWriter

    folder = f"{_EXPORTS}/{load.run}"
    writer = LeafWriter(store, folder, name_digest(load.step), columns=columns)
    reader = SegmentReader(store, load.store_id)
    try:
        if first is not None:
            _add(writer, reader, first)
        for each in slices:
            _add(writer, reader, each)
        return Exported(*writer.finish())
    except BaseException:
        writer.abandon()
        raise
    finally:
        reader.close()


def _slices(channel: Channel) -> Iterator[RowSlice]:
    while True:
        for message in channel.receive():
            match message:
                case Export(slices=slices):
                    yield from slices
                case Finish():
                    return


def _add(writer: LeafWriter, reader: SegmentReader, rows: RowSlice) -> None:
    writer.add(reader.rows(rows), rows.ref.length * rows.rows // rows.ref.rows)


def _fatal(error: Exception, load: Load) -> Fatal:
    kind = "StorageError" if isinstance(error, OSError) else type(error).__name__
    what = f"the dataset of step {load.step!r} could not be written: {error}"
    if isinstance(error, OSError):
        what += " (free space or mend the disk, then run again: finished rows are kept)"
    elif not isinstance(error, AsyncDistilError):
        what += "\n" + "".join(traceback.format_exception(error))
    return Fatal(kind, what)
