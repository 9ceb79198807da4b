"""The worker role that writes the dataset of one leaf.

An exporter gets the durable rows of its leaf by reference, in source order, as the run produces
them; when the last has come, it answers with the files that hold them.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections import deque
from collections.abc import Generator, Iterable
from contextlib import closing
from importlib import import_module
from itertools import chain, islice
from pathlib import Path
from typing import Any

import msgspec

from asyncdistil.batch import RowSlice
from asyncdistil.errors import AsyncDistilError, PeerClosed
from asyncdistil.log.names import name_digest
from asyncdistil.log.segment import SegmentReader
from asyncdistil.transport import Channel
from asyncdistil.transport.messages import Export, Exported, Fatal, Finish, Load, ToWorker

_EXPORTS = "exports"


class Layout(msgspec.Struct, frozen=True):
    """What a dataset looks like besides its rows.

    Attributes:
        columns: Columns that it has if no row comes.
        dropped: Columns that it leaves out.
    """

    columns: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


def serve(channel: Channel, load: Load) -> None:
    """Write the rows of one leaf until `Finish`, then answer `Exported`.

    The files are ``exports/<run id>/<digest of the leaf's name>-<number>.arrow`` in the store. An
    error that a retry would not mend (disk full, damaged rows) is answered with `Fatal`. `Finish`
    is left in the channel for the worker, which answers it and exits.

    Args:
        channel: To the supervisor; `Load` was received.
        load: Names store, run and leaf. Its payload may hold a `Layout` as MessagePack.

    Raises:
        PeerClosed: The supervisor is gone; what was written is removed.
    """
    # Takes a tenth of a second and waits for the disk, as receiving does.
    threading.Thread(target=_import_writer).start()
    try:
        channel.send(_export(channel, load))
    except PeerClosed:
        raise
    except Exception as error:
        channel.send(_fatal(error))


class _NoPandas:
    """A finder under which pandas is not installed."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is not needed here", name=name)


def _import_writer() -> None:
    # Before its first array, and never again, pyarrow imports pandas if it can, to know a Series
    # by sight: 0.2 s of CPU and 40 MB for nothing, as this process sees only plain values. The list
    # of finders is replaced, not changed: the other thread may be half way through it, and to take
    # a member out would make it miss the next and not find a module that is there.
    finders = sys.meta_path
    more: list[Any] = [_NoPandas, *finders]
    sys.meta_path = more
    import pyarrow as pa

    pa.array([])
    sys.meta_path = finders
    import_module("asyncdistil.distiset.writer")


def _export(channel: Channel, load: Load) -> Exported:
    layout = msgspec.msgpack.decode(load.payload, type=Layout) if load.payload else Layout()
    with closing(_slices(channel)) as slices:
        # Waits for the first message before it needs what is being imported.
        first = tuple(islice(slices, 1))
        # Rows know better: a step that makes rows of its own need not pass on what it got.
        columns = () if first else layout.columns
        return _write(load, columns, layout.dropped, chain(first, slices))


def _write(
    load: Load, columns: Iterable[str], dropped: Iterable[str], slices: Iterable[RowSlice]
) -> Exported:
    from asyncdistil.distiset.writer import LeafWriter

    folder = f"{_EXPORTS}/{load.run}"
    store = Path(load.store)
    writer = LeafWriter(store, folder, name_digest(load.step), columns=columns)
    reader = SegmentReader(store, load.store_id)
    try:
        for each in slices:
            size_bytes = each.ref.length * each.rows // each.ref.rows
            rows = reader.rows(each)
            for name in dropped:
                for row in rows:
                    row.pop(name, None)
            writer.add(rows, size_bytes)
        return Exported(*writer.finish())
    except BaseException:
        writer.abandon()
        raise
    finally:
        reader.close()


def _slices(channel: Channel) -> Generator[RowSlice, None, None]:
    received: deque[ToWorker] = deque()
    try:
        while True:
            received.extend(channel.receive())
            while received:
                message = received[0]
                if isinstance(message, Finish):
                    return
                received.popleft()
                if isinstance(message, Export):
                    yield from message.slices
    finally:
        channel.put_back(list(received))


def _fatal(error: Exception) -> Fatal:
    kind = "StorageError" if isinstance(error, OSError) else type(error).__name__
    what = f"the dataset could not be written: {error}"
    if isinstance(error, OSError):
        what += " (free space or mend the disk, then run again: finished rows are kept)"
    elif not isinstance(error, AsyncDistilError):
        what += "\n" + "".join(traceback.format_exception(error))
    return Fatal(kind, what)
