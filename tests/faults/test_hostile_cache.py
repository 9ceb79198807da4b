"""A cache directory that somebody else prepared: links, strangers, forged records, odd names.

The hashes of the log find damage; they are no signature. Whoever can write to the directory can
forge records whose hashes fit. What is promised here is that nothing of it is executed, followed
out of the directory, or ends in anything but an error of our own.
"""

from __future__ import annotations

import logging
import os
import random
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from xxhash import xxh3_128_digest

from asyncdistil.batch import BatchRef, Digest, RowSlice, SegmentId
from asyncdistil.errors import AsyncDistilError, FormatError, StorageError
from asyncdistil.log import LocalFiles, SegmentReader, Store, StoreReader
from asyncdistil.log.checkpoint import checkpoint_path
from asyncdistil.log.events import StepDef
from asyncdistil.log.index import encode_event
from asyncdistil.log.names import commit_path, store_root
from asyncdistil.log.record import (
    HEADER_BYTES,
    FileKind,
    Header,
    RecordType,
    encode_record,
    file_seed,
    parse_header,
)
from asyncdistil.memo import Memo
from asyncdistil.testing.disk import MemoryDisk
from asyncdistil.testing.faults import (
    LINEAGE,
    NAME,
    Life,
    Worker,
    answer_of,
    key_of,
    read_back,
    small_reserve,
)

CACHE = Path("/cache")
ROOT = store_root(CACHE, NAME)
NAMES = [
    "../../x",
    "..",
    ".",
    "",
    "/etc/passwd",
    "a/b",
    "a\0b",
    "x" * 10_000,
    "\ud800",
    "~",
    "COM1",
]


@pytest.fixture(autouse=True)
def _cheap_and_silent(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with small_reserve(), caplog.at_level(logging.ERROR, "asyncdistil.memo"):
        yield


# --- links and strangers --------------------------------------------------------------------------


def test_a_link_in_the_place_of_any_file_or_directory_is_refused(tmp_path: Path) -> None:
    """For each name in a store: it becomes a link to something outside; that stays untouched."""
    prototype = tmp_path / "prototype"
    life = Life(random.Random(1), LocalFiles(), cache=prototype, memo=False)
    store = life.open()
    life.commit(Worker(store, None), rows=1)
    store.close(clean=True)
    (root,) = (prototype / "pipelines").iterdir()
    places = [path.relative_to(prototype) for path in (root, *root.rglob("*"))]
    assert len(places) >= 8
    for number, place in enumerate(places):
        cache = tmp_path / str(number)
        os.rename(prototype, cache)
        outside = tmp_path / f"outside{number}"
        os.rename(cache / place, outside)
        (cache / place).symlink_to(outside)
        before = _state(outside)
        with suppress(AsyncDistilError):
            opened = Store.open(cache, NAME)
            read_back(opened)
            opened.close(clean=True)
        assert _state(outside) == before, f"{place} was written through a link"
        (cache / place).unlink(missing_ok=True)
        os.rename(outside, cache / place)
        os.rename(cache, prototype)


def _state(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {".": path.read_bytes()}
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
@pytest.mark.parametrize("place", ["store", "commits", "segments", "memo"])
def test_a_directory_of_somebody_else_is_refused(tmp_path: Path, place: str) -> None:
    cache = tmp_path / "cache"
    store = Store.open(cache, NAME)
    store.close(clean=True)
    Memo.open(cache / "memo").close()
    memo = next((cache / "memo").iterdir())
    path = {"store": store.root, "memo": memo}.get(place, store.root / place)
    os.chown(path, 12345, -1)
    with pytest.raises(StorageError, match="12345"):
        if place == "memo":
            Memo.open(cache / "memo")
        else:
            Store.open(cache, NAME)


@pytest.mark.parametrize("name", NAMES, ids=[repr(name)[:12] for name in NAMES])
def test_no_name_of_a_pipeline_leaves_the_cache_directory(tmp_path: Path, name: str) -> None:
    top = tmp_path / "top" / "middle" / "cache"
    named = name.replace("\ud800", "")  # no step is called so: the front door refuses it
    store = Store.open(top, name)
    refs = Worker(store, None).write(1, 1)
    store.append([StepDef(LINEAGE, named, b"")])  # type: ignore[arg-type]
    store.close(clean=True)
    assert len(refs) == 1
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert all(path.is_relative_to(top / "pipelines" / store.root.name) for path in written)
    again = StoreReader.open(top, name)
    assert again is not None
    assert again.step_defs()[LINEAGE].step == named
    again.close()


# --- forged records -------------------------------------------------------------------------------


def stored(*, clean: bool) -> MemoryDisk:
    disk = MemoryDisk()
    life = Life(random.Random(1), disk, memo=False)
    store = life.open()
    life.commit(Worker(store, disk), rows=2)
    store.close(clean=clean)
    return disk.after_process_death()


def parsed(image: bytes, number: int, kind: FileKind) -> tuple[int, list[tuple[int, Header]]]:
    seed = file_seed(image[HEADER_BYTES : HEADER_BYTES + 16], kind, number)
    found, at = [], 0
    while (header := parse_header(image, at, seed)) is not None:
        found.append((at, header))
        at += header.size
    return seed, found


def body_of(image: bytes, at: int, header: Header) -> bytes:
    start = at + HEADER_BYTES + header.meta_bytes
    return image[start : start + header.body_bytes]


def mangled(rng: random.Random, body: bytes) -> bytes:
    changed = bytearray(body)
    for _ in range(rng.randint(0, 3)):
        if changed:
            changed[rng.randrange(len(changed))] = rng.choice((0, 255, rng.randrange(256)))
    if rng.random() < 0.1:
        del changed[rng.randrange(len(changed) + 1) :]
    return bytes(changed)


def ask_everything(disk: MemoryDisk) -> None:
    """Open in every way and ask every question; only errors of our own may come out of it."""
    for way in ("refuse", "recompute", "read"):
        try:
            view: Store | StoreReader | None
            if way == "read":
                view = StoreReader.open(CACHE, NAME, files=disk)
            else:
                copy = disk.after_process_death()
                view = Store.open(CACHE, NAME, files=copy, on_corruption=way)  # type: ignore[arg-type]
            assert view is not None
            view.runs()
            view.routes(LINEAGE)
            view.step_defs()
            view.commits(LINEAGE)
            if isinstance(view, Store):
                view.close(clean=True)
            else:
                view.close()
        except AsyncDistilError:
            continue


def test_forged_commit_log_records_end_in_errors_of_our_own(faults: Any) -> None:
    disk = stored(clean=False)
    path = commit_path(ROOT, 1)
    image = disk.files()[path]
    seed, records = parsed(image, 1, FileKind.COMMIT_LOG)
    last = records[-1][1]
    bodies = [body_of(image, at, header) for at, header in records]
    bodies += [b"", encode_event(StepDef(LINEAGE, "x", b"y"))]  # type: ignore[arg-type]
    bodies += [b"\xdd\xff\xff\xff\xff", b"\x91" * 5000, b"\x92\x0b\xdd\x7f\xff\xff\xff"]
    types = [*range(14), 127, *range(128, 135), 200, 255]
    count = faults.amount(smoke=300, short=2_000, full=5_000, soak=1_000_000)

    def trial(rng: random.Random) -> None:
        head, payload, _, _ = encode_record(
            seed,
            rng.choice(types),
            last.position + 1,
            mangled(rng, rng.choice([*bodies, rng.randbytes(40)])),
            meta=rng.choice((b"", LINEAGE, rng.randbytes(rng.randrange(20)))),
            durable=rng.choice((0, 0, last.position + 1, 1 << 63)),
            previous=last.digest,
        )
        forged = disk.after_process_death()
        forged.put(path, image + head + payload)
        ask_everything(forged)

    faults.count("fuzzed frames and records", faults.cases(range(count), trial))


def test_forged_checkpoints_end_in_errors_of_our_own(faults: Any) -> None:
    disk = stored(clean=True)
    path = checkpoint_path(ROOT)
    image = disk.files()[path]
    seed, records = parsed(image, 0, FileKind.CHECKPOINT)
    count = faults.amount(smoke=300, short=2_000, full=5_000, soak=1_000_000)

    def trial(rng: random.Random) -> None:
        forged_image = image[: records[0][1].size]
        for at, header in records[1:]:
            meta = image[at + HEADER_BYTES : at + HEADER_BYTES + header.meta_bytes]
            body = mangled(rng, body_of(image, at, header))
            head, payload, _, _ = encode_record(
                seed, header.type, len(forged_image), body, meta=meta
            )
            forged_image += head + payload
        forged = disk.after_process_death()
        forged.put(path, forged_image)
        ask_everything(forged)

    faults.count("fuzzed frames and records", faults.cases(range(count), trial))


def test_forged_rows_end_in_errors_of_our_own(faults: Any) -> None:
    """Records with hashes that fit and tables, lengths and MessagePack that lie."""
    disk = stored(clean=False)
    (path,) = (path for path in disk.files() if path.suffix == ".ads")
    image = disk.files()[path]
    store_id = image[HEADER_BYTES : HEADER_BYTES + 16]
    seed = file_seed(store_id, FileKind.SEGMENT, 1)
    one_row = b"\x81\xa1a\x01"
    bodies = [one_row, one_row * 4, b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"]
    bodies += [b"\xc6\xff\xff\xff\xff", b"\x81\xa1a" + b"\x91" * 3000, b"\xc7\x10\x05" + bytes(16)]
    count = faults.amount(smoke=500, short=3_000, full=8_000, soak=1_000_000)

    def trial(rng: random.Random) -> None:
        rows = rng.randint(1, 4)
        body = rng.choice([*bodies, rng.randbytes(20)])
        lies = (0, 1, 4, 9, len(body), 1 << 31)
        offsets = [rng.choice(lies) for _ in range(rows + 1)]
        if rng.random() < 0.5:
            offsets.sort()
        digests = rng.randbytes(16 * rows)
        told = rng.choice((rows, rows, rows, 0, 1 << 31))
        meta = struct.pack(f"<{rows + 3}I", told, 0, *offsets) + digests
        if rng.random() < 0.2:
            meta = meta[: rng.randrange(len(meta))]
        kind = rng.choice((RecordType.ROWS, RecordType.ROWS, RecordType.TABLE))
        head, payload, _, checksum = encode_record(seed, kind, len(image), body, meta=meta)
        forged = disk.after_process_death()
        forged.put(path, image + head + payload)
        ref = BatchRef(
            SegmentId(1),
            len(image),
            len(head) + len(payload),
            rows,
            checksum,
            Digest(xxh3_128_digest(digests)),
        )
        reader = SegmentReader(ROOT, store_id, forged)
        whole, part = RowSlice(ref, 0, rows), RowSlice(ref, rows - 1, rows)
        for ask in (reader.rows, reader.row_digests):
            for piece in (whole, part):
                with suppress(AsyncDistilError):
                    ask(piece)

    faults.count("fuzzed frames and records", faults.cases(range(count), trial))


def test_a_record_of_a_type_to_come_is_refused_and_says_upgrade() -> None:
    disk = stored(clean=False)
    path = commit_path(ROOT, 1)
    image = disk.files()[path]
    seed, records = parsed(image, 1, FileKind.COMMIT_LOG)
    last = records[-1][1]
    head, payload, _, _ = encode_record(
        seed, 77, last.position + 1, b"\x92\x4d\x01", previous=last.digest
    )
    disk.put(path, image + head + payload)
    with pytest.raises(FormatError, match="upgrade"):
        Store.open(CACHE, NAME, files=disk)
    assert disk.open_descriptors == 0


def test_a_claim_of_two_gigabytes_reserves_no_memory() -> None:
    """Nothing in a record is compressed; what it claims is held against the file before reading."""
    disk = stored(clean=False)
    path = commit_path(ROOT, 1)
    image = disk.files()[path]
    seed, records = parsed(image, 1, FileKind.COMMIT_LOG)
    last = records[-1][1]
    head, _, _, _ = encode_record(seed, 3, last.position + 1, b"", previous=last.digest)
    claim = bytearray(head)
    struct.pack_into("<QQ", claim, 32, 1 << 30, 1 << 30)
    disk.put(path, image + bytes(claim))
    store = Store.open(CACHE, NAME, files=disk)
    assert [found.number for found in read_back(store)] == [1]
    store.close(clean=True)


def test_a_forged_answer_is_served_only_to_the_very_request_that_it_names(tmp_path: Path) -> None:
    memo = Memo.open(tmp_path / "memo")
    memo.put(key_of(1), 0, answer_of(1))
    # Somebody forges a digest: the preimage beside it is compared as well.
    forged = key_of(2)._replace(digest=key_of(3).digest)
    memo.put(forged, 0, b"forged")
    assert memo.get(key_of(3)) is None
    assert memo.get(key_of(1)) == answer_of(1)
    memo.close()
