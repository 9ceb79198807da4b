"""Bytes of any kind into everything that reads bytes: what atheris drives, and can be run by hand.

    python tests/faults/fuzz_targets.py codec -max_total_time=60 CORPUS      # needs atheris
    python tests/faults/fuzz_targets.py codec CRASH                          # repeats one input

A target returns if the bytes were read or refused by an error of ours; anything else is a find.
What a hash guards is given a hash that fits, or else no input would ever get behind it.
"""

from __future__ import annotations

import logging
import random
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from asyncdistil.batch import BatchRef, Digest, RowSlice, SegmentId
from asyncdistil.codec import canonical_bytes, decode_rows, decode_value, encode_rows, encode_value
from asyncdistil.errors import (
    AsyncDistilError,
    FormatError,
    LogError,
    TransportError,
    UserError,
)
from asyncdistil.log import SegmentReader, Store, StoreReader
from asyncdistil.log.checkpoint import checkpoint_path
from asyncdistil.log.events import StepDef
from asyncdistil.log.index import decode_event, encode_event
from asyncdistil.log.names import commit_path, store_root
from asyncdistil.log.record import (
    FILE_HEADER_BYTES,
    HEADER_BYTES,
    FileKind,
    Header,
    RecordType,
    encode_record,
    file_seed,
    parse_file_header,
    parse_header,
    payload_fits,
    stray_headers,
    whole_record,
)
from asyncdistil.memo import Memo
from asyncdistil.memo.entry import MemoRecord, name_of, parse_entry, parse_model
from asyncdistil.memo.segment import seed_of
from asyncdistil.testing.disk import MemoryDisk
from asyncdistil.testing.faults import (
    LINEAGE,
    NAME,
    Life,
    Worker,
    answer_of,
    key_of,
    small_reserve,
)
from asyncdistil.transport.frames import FROM_WORKER, TO_WORKER, FrameReader, encode_frames
from asyncdistil.transport.messages import Exhausted, Lease, Loaded, LogLine, Produce

CACHE = Path("/cache")
ROOT = store_root(CACHE, NAME)
RECORD_SEED = file_seed(b"s" * 16, FileKind.COMMIT_LOG, 1)


def frames(data: bytes) -> None:
    """A stream in pieces whose sizes the first byte says."""
    step = 1 + (data[0] if data else 0)
    for decoder in (TO_WORKER, FROM_WORKER):
        reader: FrameReader[Any] = FrameReader(decoder)
        rest = memoryview(data)[1:]
        while rest:
            room = reader.room()
            size = min(len(room), len(rest), step)
            room[:size] = rest[:size]
            for message in reader.take(size):
                assert type(message).__module__ == "asyncdistil.transport.messages"
            rest = rest[size:]
            if reader.broken is not None:
                break
        assert reader.broken is None or isinstance(reader.broken, TransportError)
        ended = reader.ended()
        assert ended is None or isinstance(ended, TransportError)


def records(data: bytes) -> None:
    """Bytes where a record should be; and the same bytes inside of one."""
    with suppress(FormatError):
        header = parse_header(data, 0, RECORD_SEED)
        if header is not None:
            payload_fits(header, data[HEADER_BYTES:], RECORD_SEED)
    with suppress(FormatError):
        parse_file_header(data, FileKind.COMMIT_LOG, 1)
    whole_record(data, 7, RECORD_SEED)
    list(stray_headers(data, 1, RECORD_SEED))
    cut = data[0] if data else 0
    head, payload, _, _ = encode_record(RECORD_SEED, 3, 7, data[cut:], meta=data[:cut])
    found = whole_record(head + payload, 7, RECORD_SEED)
    assert found is not None
    assert found[1:3] == (len(data[:cut]), len(data[cut:]))


def events(data: bytes) -> None:
    """The body of a record of the commit log."""
    for tag in range(1, 20):
        try:
            event = decode_event(data, tag)
        except FormatError:
            continue
        assert decode_event(encode_event(event), tag) == event


def codec(data: bytes) -> None:
    """A stored value, and stored rows; what can be read can be written and is read alike."""
    with suppress(FormatError, UserError):
        found = decode_rows(data[1:], data[0] if data else 0)
        again = decode_rows(encode_rows(found, step="s").body, len(found))
        assert canonical_bytes("fuzz", again) == canonical_bytes("fuzz", found)
    with suppress(FormatError, UserError):
        value = decode_value(data)
        again = decode_value(encode_value(value))
        assert canonical_bytes("fuzz", again) == canonical_bytes("fuzz", value)


@cache
def _store(clean: bool) -> MemoryDisk:
    with small_reserve():
        disk = MemoryDisk()
        life = Life(random.Random(1), disk, memo=False)
        store = life.open()
        life.commit(Worker(store, disk), rows=2)
        store.close(clean=clean)
    return disk.after_process_death()


def _parsed(image: bytes, number: int, kind: FileKind) -> Iterator[tuple[int, Header]]:
    seed = file_seed(image[HEADER_BYTES : HEADER_BYTES + 16], kind, number)
    at = 0
    while (header := parse_header(image, at, seed)) is not None:
        yield at, header
        at += header.size


def _ask(disk: MemoryDisk) -> None:
    for way in ("refuse", "recompute", "read"):
        try:
            copy = disk.after_process_death()
            view: Store | StoreReader | None
            if way == "read":
                view = StoreReader.open(CACHE, NAME, files=copy)
            else:
                view = Store.open(CACHE, NAME, files=copy, on_corruption=way)  # type: ignore[arg-type]
            assert view is not None
            view.runs()
            view.step_defs()
            view.routes(LINEAGE)
            view.commits(LINEAGE)
            if isinstance(view, Store):
                view.close(clean=True)
            else:
                view.close()
        except LogError:
            continue


def log(data: bytes) -> None:
    """A further record of a commit log: its type, its meta and its body."""
    disk = _store(clean=False).after_process_death()
    path = commit_path(ROOT, 1)
    image = disk.files()[path]
    seed = file_seed(image[HEADER_BYTES : HEADER_BYTES + 16], FileKind.COMMIT_LOG, 1)
    *_, (_, last) = _parsed(image, 1, FileKind.COMMIT_LOG)
    kind, own, body = data[:1], data[1:2] == b"\0", data[2:]
    head, payload, _, _ = encode_record(
        seed,
        kind[0] if kind else 0,
        last.position + 1,
        body if own else body[16:],
        meta=LINEAGE if own else body[:16],
        previous=last.digest,
    )
    disk.put(path, image + head + payload)
    with small_reserve():
        _ask(disk)


def checkpoint(data: bytes) -> None:
    """The summary of a checkpoint, or its table."""
    disk = _store(clean=True).after_process_death()
    path = checkpoint_path(ROOT)
    image = disk.files()[path]
    seed = file_seed(image[HEADER_BYTES : HEADER_BYTES + 16], FileKind.CHECKPOINT, 0)
    which = (data[0] if data else 0) % 2
    made = image[:FILE_HEADER_BYTES]
    for number, (at, header) in enumerate(list(_parsed(image, 0, FileKind.CHECKPOINT))[1:]):
        body_at = at + HEADER_BYTES + header.meta_bytes
        body = image[body_at : body_at + header.body_bytes]
        head, payload, _, _ = encode_record(
            seed,
            header.type,
            len(made),
            data[1:] if number == which else body,
            meta=image[at + HEADER_BYTES : body_at],
        )
        made += head + payload
    disk.put(path, made)
    with small_reserve():
        _ask(disk)


def rows(data: bytes) -> None:
    """A record of a segment: its row-offset table, its digests and its rows."""
    disk = _store(clean=False).after_process_death()
    (path,) = (path for path in disk.files() if path.suffix == ".ads")
    image = disk.files()[path]
    store_id = image[HEADER_BYTES : HEADER_BYTES + 16]
    seed = file_seed(store_id, FileKind.SEGMENT, 1)
    count = 1 + (data[0] if data else 0) % 4
    cut = 4 * (count + 3) + 16 * count
    head, payload, _, checksum = encode_record(
        seed, RecordType.ROWS, len(image), data[1 + cut :], meta=data[1 : 1 + cut]
    )
    disk.put(path, image + head + payload)
    ref = BatchRef(
        SegmentId(1), len(image), len(head) + len(payload), count, checksum, Digest(bytes(16))
    )
    reader = SegmentReader(ROOT, store_id, disk)
    try:
        for ask in (reader.rows, reader.row_digests):
            for piece in (RowSlice(ref, 0, count), RowSlice(ref, count - 1, count)):
                with suppress(LogError):
                    ask(piece)
    finally:
        reader.close()


@cache
def _memo() -> MemoryDisk:
    disk = MemoryDisk()
    memo = Memo.open(CACHE / "memo", files=disk)
    memo.put(key_of(1), 1, answer_of(1))
    memo.close()
    return disk.after_process_death()


def memo(data: bytes) -> None:
    """A further record of a memo file."""
    disk = _memo().after_process_death()
    (path,) = (path for path in disk.files() if path.suffix == ".adm")
    image = disk.files()[path]
    number = int(path.stem)
    seed = seed_of(number)
    kind = MemoRecord.ENTRY if data[:1] < b"\x80" else MemoRecord.MODEL
    cut = data[1] if len(data) > 1 else 0
    head, payload, _, _ = encode_record(
        seed, kind, len(image), data[2 + cut :], meta=data[2 : 2 + cut]
    )
    forged = parse_entry(head + payload, seed, len(image))
    with suppress(UnicodeDecodeError):
        parse_model(head + payload, seed, len(image))
    disk.put(path, image + head + payload + data)
    again = Memo.open(CACHE / "memo", files=disk)
    stored = again.get(key_of(1), 1)
    # Hashes are no signature: a newer record of this very name takes the place of the honest one.
    if forged is None or forged.name != name_of(key_of(1).digest, 1):
        assert stored == answer_of(1)
    again.get(key_of(2), 2)
    again.statistics()
    again.close()


def files(data: bytes) -> None:
    """A pipeline file, in both forms."""
    from asyncdistil.pipeline import Pipeline

    with tempfile.TemporaryDirectory() as folder:
        for name in ("it.yaml", "it.json"):
            path = Path(folder, name)
            path.write_bytes(data)
            with suppress(UserError):
                Pipeline.from_file(path, cache_dir=folder).dump()


def _seeds_of_frames() -> list[bytes]:
    out = bytearray()
    encode_frames([Loaded(None, 0.5), LogLine(20, "words"), Exhausted()], out)
    back = bytearray()
    encode_frames([Produce(3), Lease(1, ((),), 1)], back)
    return [b"\xff" + out, b"\x02" + back]


def _seeds_of_codec() -> list[bytes]:
    from datetime import UTC, date, datetime, time, timedelta
    from decimal import Decimal
    from uuid import UUID

    import numpy

    values = [
        {"a": 1, "b": [None, True, 2.5, "x", b"y"]},
        (1, {2}, frozenset({3}), 1 << 80, {1: 2}, bytearray(b"z"), 1j),
        [datetime(2020, 1, 2, tzinfo=UTC), date(2020, 1, 2), time(1, 2), timedelta(3, 4, 5)],
        [Decimal("1.50"), UUID(int=7), "\ud800"],
        [numpy.float32(1.5), numpy.arange(6).reshape(2, 3), numpy.array([1, "a"], dtype=object)],
        [logging.Logger.__name__, FileKind.SEGMENT],
    ]
    return [encode_value(value) for value in values] + [b"\x01" + encode_value({"a": 1})]


def _bodies(clean: bool, suffix: str, number: int, kind: FileKind) -> list[bytes]:
    images = _store(clean).files()
    (path,) = (path for path in images if path.suffix == suffix)
    image = images[path]
    return [
        image[at + HEADER_BYTES + h.meta_bytes : at + HEADER_BYTES + h.meta_bytes + h.body_bytes]
        for at, h in list(_parsed(image, number, kind))[1:]
    ]


def seeds(target: str) -> list[bytes]:
    """Inputs to begin with: what an honest writer wrote."""
    logged = _bodies(clean=False, suffix=".adc", number=1, kind=FileKind.COMMIT_LOG)
    logged.append(encode_event(StepDef(LINEAGE, "x", b"y")))  # type: ignore[arg-type]
    if target == "frames":
        return _seeds_of_frames()
    if target == "codec":
        return _seeds_of_codec()
    if target == "events":
        return logged
    if target == "log":
        return [bytes([body[1] if len(body) > 1 else 3, 0]) + body for body in logged]
    if target == "checkpoint":
        bodies = _bodies(clean=True, suffix=".adk", number=0, kind=FileKind.CHECKPOINT)
        return [bytes([number]) + body for number, body in enumerate(bodies)]
    if target == "rows":
        image = next(i for p, i in _store(False).files().items() if p.suffix == ".ads")
        return [
            b"\x01" + image[at + HEADER_BYTES :] for at, _ in _parsed(image, 1, FileKind.SEGMENT)
        ]
    if target == "memo":
        image = next(i for p, i in _memo().files().items() if p.suffix == ".adm")
        return [b"\0\x40" + image[FILE_HEADER_BYTES:], b"\xff\0a model"]
    if target == "files":
        step = "{name: a, step: {data: [{x: 1}], type_info: "
        step += "{module: asyncdistil.steps, name: LoadDataFromDicts}}}"
        text = f"pipeline: {{name: p, steps: [{step}], connections: []}}"
        return [text.encode(), b'{"pipeline": {"name": "p", "steps": []}}']
    return [b"\0" * 16]


TARGETS: dict[str, Callable[[bytes], None]] = {
    "frames": frames,
    "records": records,
    "events": events,
    "codec": codec,
    "log": log,
    "checkpoint": checkpoint,
    "rows": rows,
    "memo": memo,
    "files": files,
}


def main(arguments: list[str]) -> None:
    """Fuzz a target, guided by what of the package its inputs reach."""
    target = arguments[1]
    logging.disable(logging.CRITICAL)
    inputs = [Path(a) for a in arguments[2:] if not a.startswith("-")]
    if inputs and all(path.is_file() for path in inputs):
        for path in inputs:
            TARGETS[target](path.read_bytes())
        return
    import atheris

    for folder in inputs[:1]:
        folder.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds(target)):
            (folder / f"seed{number}").write_bytes(seed)
    _instrument(atheris)
    atheris.Setup([arguments[0], *arguments[2:]], TARGETS[target])
    atheris.Fuzz()


def _instrument(atheris: Any) -> None:
    """Count what the targets reach in the package, which was imported before atheris was."""
    for name, module in list(sys.modules.items()):
        if not name.startswith(("asyncdistil.", "yaml")) or name.startswith("asyncdistil.testing"):
            continue
        for owner in (module, *(v for v in vars(module).values() if isinstance(v, type))):
            if getattr(owner, "__module__", name) != name:
                continue
            for value in list(vars(owner).values()):
                function = getattr(value, "__func__", value)
                if isinstance(function, types.FunctionType) and function.__module__ == name:
                    with suppress(Exception):
                        atheris.instrument_func(function)


if __name__ == "__main__":
    try:
        main(sys.argv)
    except AsyncDistilError as error:
        raise AssertionError("an error of ours, yet not one that belongs there") from error
