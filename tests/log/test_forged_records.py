"""Records whose hashes fit and that make no sense: refused, or ignored where that is safe."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from xxhash import xxh3_64_intdigest

from asyncdistil.batch import BatchRef, Digest, Lsn, RowSlice
from asyncdistil.codec import encode_rows
from asyncdistil.errors import CorruptRecord, FormatError
from asyncdistil.log import Store, StoreReader
from asyncdistil.log.checkpoint import Checkpoint
from asyncdistil.log.commit_log import CommitLog, Entry
from asyncdistil.log.events import Moved, RunBegin
from asyncdistil.log.index import EVENT_TAGS, encode_event
from asyncdistil.log.names import commit_path, store_root
from asyncdistil.log.record import (
    HEADER_BYTES,
    MAX_META_BYTES,
    FileHeader,
    FileKind,
    RecordType,
    encode_file_header,
    encode_record,
    file_seed,
    parse_header,
    stray_headers,
    whole_record,
)
from asyncdistil.log.recovery import recover
from asyncdistil.testing.disk import MemoryDisk

replace = msgspec.structs.replace
CACHE = Path("/cache")
ROOT = store_root(CACHE, "p")
CHECKPOINT = ROOT / "checkpoint.adk"


def opened(disk: MemoryDisk, **options: Any) -> Store:
    return Store.open(CACHE, "p", files=disk, **options)


def clean_disk(kit: Any) -> MemoryDisk:
    disk = MemoryDisk()
    store = opened(disk)
    writer = kit.writer(store, disk)
    writer.commit(1)
    writer.commit(2)
    store.close(clean=True)
    return disk


def forge_checkpoint(
    disk: MemoryDisk, summary: bytes | None, table: Callable[[bytes], Any]
) -> None:
    """Write the checkpoint anew, its hashes in order, with another summary or table."""
    old = Checkpoint(CHECKPOINT, disk)
    seed = file_seed(old.store_id, FileKind.CHECKPOINT, 0)
    (lineage,) = old.lineages()
    meta, body = table(lineage)
    content = msgspec.structs.replace(old.summary, tables=[(lineage, 0, len(body))])
    head, _ = encode_file_header(old.header)
    data = head + b"".join(
        encode_record(
            seed,
            RecordType.SUMMARY,
            len(head),
            msgspec.msgpack.encode(content) if summary is None else summary,
        )[:2]
    )
    data += b"".join(encode_record(seed, RecordType.TABLE, len(data), body, meta=meta)[:2])
    old.close()
    disk.put(CHECKPOINT, data)


@pytest.mark.parametrize("summary", [b"\xc1", b"\x90", b"", msgspec.msgpack.encode([1] * 10)])
def test_a_checkpoint_that_says_nonsense_is_ignored_and_the_log_read(
    kit: Any, summary: bytes
) -> None:
    disk = clean_disk(kit)
    forge_checkpoint(disk, summary, lambda lineage: (lineage, struct.pack("<QQ", 0, 0)))
    store = opened(disk)
    assert any("checkpoint is damaged" in warning for warning in store.warnings)
    assert kit.numbers(store) == [1, 2]
    store.close(clean=True)
    assert kit.numbers(opened(disk)) == [1, 2]


@pytest.mark.parametrize(
    "table",
    [
        lambda lineage: (lineage, b""),
        lambda lineage: (lineage, struct.pack("<QQ", 5, 0)),
        lambda lineage: (lineage, struct.pack("<QQQ", 0, 0, 7)),
        lambda lineage: (lineage[::-1], struct.pack("<QQ", 0, 0)),
    ],
    ids=["empty", "too short", "too long", "of another lineage"],
)
def test_a_table_that_is_not_what_it_should_be_is_never_believed(kit: Any, table: Any) -> None:
    disk = clean_disk(kit)
    forge_checkpoint(disk, None, table)
    store = opened(disk)
    for _ in range(2):
        with pytest.raises(CorruptRecord, match="delete it"):
            store.commits(kit.lineage)
    store.close(clean=False)
    disk.unlink(CHECKPOINT)
    assert kit.numbers(opened(disk)) == [1, 2]


def test_a_lineage_that_a_checkpoint_does_not_know_has_no_commits(kit: Any) -> None:
    disk = clean_disk(kit)
    reader = StoreReader.open(CACHE, "p", files=disk)
    assert reader is not None
    assert reader.commits(Digest(bytes(16))) == []
    reader.close()
    reader.close()  # twice is as good as once


def append_raw(disk: MemoryDisk, tag: int, body: bytes, *, meta: bytes = b"") -> None:
    """Append a record to a store's log as its writer would frame it."""
    recovered = recover(ROOT, disk, exclusive=True)
    assert recovered.store_id is not None
    log = CommitLog(
        ROOT,
        recovered.store_id,
        recovered.tail,
        next_number=recovered.next_number,
        files=disk,
        keep=False,
    )
    log.append([Entry(tag, meta, body)])
    log.close()
    recovered.close()


BEGIN = EVENT_TAGS[RunBegin]


@pytest.mark.parametrize(
    "body",
    [b"\xc1", b"", b"\x91\x63", msgspec.msgpack.encode([BEGIN, 1]), b"\x91" * 5000 + b"\x00"],
    ids=["no MessagePack", "nothing", "another tag", "wrong fields", "too deep"],
)
def test_an_event_that_can_not_be_read_is_refused_as_foreign(kit: Any, body: bytes) -> None:
    disk = clean_disk(kit)
    append_raw(disk, BEGIN, body)
    for recompute in ("refuse", "recompute"):
        with pytest.raises(FormatError, match="upgrade"):
            opened(disk, on_corruption=recompute)
    with pytest.raises(FormatError, match="upgrade"):
        StoreReader.open(CACHE, "p", files=disk)
    assert disk.open_descriptors == 0


def test_an_event_of_another_kind_than_its_record_is_refused(kit: Any) -> None:
    disk = clean_disk(kit)
    ref = BatchRef(1, 168, 100, 1, 0, Digest(bytes(16)))  # type: ignore[arg-type]
    append_raw(disk, BEGIN, encode_event(Moved(ref, ref)))
    with pytest.raises(FormatError, match="holds a Moved"):
        opened(disk)


def test_a_commit_that_nobody_vouches_for_and_nobody_can_read_is_refused(kit: Any) -> None:
    disk = clean_disk(kit)
    append_raw(disk, 3, b"\xc1", meta=kit.lineage)
    with pytest.raises(FormatError):
        opened(disk)
    with pytest.raises(FormatError):
        StoreReader.open(CACHE, "p", files=disk)
    assert disk.open_descriptors == 0


def test_a_damaged_repair_record_vouches_for_nothing(kit: Any) -> None:
    disk = clean_disk(kit)
    disk.unlink(CHECKPOINT)
    path = commit_path(ROOT, 1)
    image = bytearray(disk.files()[path])
    image[400] ^= 1
    disk.put(path, bytes(image))
    opened(disk, on_corruption="recompute").close(clean=False)
    opened(disk).close(clean=False)
    repaired = max(p for p in disk.files() if p.suffix == ".adc")
    image = bytearray(disk.files()[repaired])
    seed = file_seed(bytes(image[72:88]), FileKind.COMMIT_LOG, int(repaired.stem))
    ((at, header),) = stray_headers(bytes(image), 0, seed, kind=RecordType.REPAIR)
    assert header.body_bytes == 40
    image[at + HEADER_BYTES] ^= 1
    disk.put(repaired, bytes(image))
    with pytest.raises(CorruptRecord):
        opened(disk)


def test_a_repair_record_of_another_length_gives_nothing_up(kit: Any) -> None:
    disk = clean_disk(kit)
    disk.unlink(CHECKPOINT)
    append_raw(disk, RecordType.REPAIR, bytes(39))
    path = commit_path(ROOT, 1)
    image = bytearray(disk.files()[path])
    image[400] ^= 1
    disk.put(path, bytes(image))
    with pytest.raises(CorruptRecord):
        opened(disk)
    assert disk.open_descriptors == 0


@pytest.mark.parametrize("previous", [1, 2, 9])
def test_a_log_file_that_names_itself_or_a_later_one_as_the_one_before_ends_in_an_error(
    kit: Any, previous: int
) -> None:
    disk = clean_disk(kit)
    image = disk.files()[commit_path(ROOT, 1)]
    disk.unlink(CHECKPOINT)
    header = FileHeader(
        image[72:88], FileKind.COMMIT_LOG, 1, previous_number=previous, previous_end=168
    )
    disk.put(commit_path(ROOT, 1), encode_file_header(header)[0] + image[168:])
    with pytest.raises(CorruptRecord):
        opened(disk)
    store = opened(disk, on_corruption="recompute")
    store.close(clean=False)
    opened(disk).close(clean=False)


def encoded(flags: int = 0, *, meta: int = 0, decoded: int | None = None) -> bytes:
    """A header of some odd content whose hash fits."""
    head, _, _, _ = encode_record(5, RecordType.ROWS, 16, b"12345678")
    fields = list(struct.unpack("<IBBHQQQQQQQQ", head))
    fields[2], fields[6] = flags, meta
    fields[8] = meta + 8 if decoded is None else decoded
    start = struct.pack("<IBBHQQQQQQQ", *fields[:-1])
    seed = (5 + 16 * 0x9E3779B97F4A7C15) % 2**64
    return start + struct.pack("<Q", xxh3_64_intdigest(start, seed))


def test_a_critical_flag_that_is_not_known_refuses_the_record_and_others_do_not() -> None:
    assert parse_header(encoded(0x0F), 0, 5) is not None
    for flag in (0x10, 0x20, 0x40, 0x80):
        with pytest.raises(FormatError, match="newer asyncdistil"):
            parse_header(encoded(flag), 0, 5)
    # Who looks for what survived damage goes on behind it.
    data = b"rubbish!" + encoded(0x10) + encoded()
    assert [at for at, _ in stray_headers(data, 0, 5)] == [8 + HEADER_BYTES]


def test_a_length_that_is_impossible_is_not_believed_though_its_hash_fits() -> None:
    assert parse_header(encoded(meta=MAX_META_BYTES), 0, 5) is not None
    assert parse_header(encoded(meta=MAX_META_BYTES + 1), 0, 5) is None
    assert parse_header(encoded(decoded=9), 0, 5) is None


def test_a_record_is_whole_only_in_its_place_and_to_the_last_byte() -> None:
    head, payload, _, _ = encode_record(5, RecordType.ROWS, 16, b"body", meta=b"meta")
    data = head + payload
    assert whole_record(data, 16, 5) == (RecordType.ROWS, 4, 4)
    assert whole_record(data, 24, 5) is None
    assert whole_record(data, 16, 6) is None
    for cut in range(len(data)):
        assert whole_record(data[:cut], 16, 5) is None
    assert whole_record(data + bytes(8), 16, 5) is None
    assert whole_record(encoded(0x10) + b"12345678", 16, 5) is None


def test_a_reference_that_lies_about_its_record_is_damage_never_other_rows(kit: Any) -> None:
    disk = MemoryDisk()
    store = opened(disk)
    writer = kit.writer(store, disk)
    writer.commit(1, rows=3)
    ((_, commit),) = store.commits(kit.lineage)
    (ref,) = commit.outputs
    lies = {
        "rows more": replace(ref, rows=4),
        "rows fewer": replace(ref, rows=2),
        "rows absurd": replace(ref, rows=1 << 20),
        "digest": replace(ref, digest=Digest(bytes(16))),
        "length short": replace(ref, length=HEADER_BYTES),
        "length long": replace(ref, length=1 << 40),
        "length beyond the end": replace(ref, length=ref.length + 8),
        "offset": replace(ref, offset=ref.offset + 8),
        "checksum": replace(ref, checksum=ref.checksum ^ 1),
        "segment": replace(ref, segment=77),
    }
    for name, lie in lies.items():
        reader = store.reader()
        with pytest.raises(CorruptRecord):
            reader.verify(lie)
        if name not in {"checksum", "length beyond the end", "length long"}:  # not needed for it
            with pytest.raises(CorruptRecord):
                reader.row_digests(RowSlice(lie, 0, 1))
        if name != "digest":  # rows are believed by their checksum
            with pytest.raises(CorruptRecord):
                reader.rows(RowSlice(lie, 0, 1))
        reader.close()
    store.close(clean=False)


def test_rows_moved_twice_are_found_where_they_are_and_moves_in_a_circle_end(kit: Any) -> None:
    disk = MemoryDisk()
    store = opened(disk)
    writer = kit.writer(store, disk)
    writer.commit(1)
    ((_, commit),) = store.commits(kit.lineage)
    (old,) = commit.outputs
    second, third, other = (
        kit.writer(store, disk).segment.append(encode_rows(kit.rows(1), step="s"))[0]
        for _ in range(3)
    )
    store.append([Moved(old, second), Moved(second, third), Moved(other, other)])
    ((_, moved),) = store.commits(kit.lineage)
    assert moved.outputs == (third,)
    assert kit.numbers(store) == [1]
    store.append([Moved(third, old)])
    ((lsn, moved),) = store.commits(kit.lineage)
    assert lsn == Lsn(2)
    assert moved.outputs[0] in (old, second, third)
