"""Packs that somebody prepared: nothing of them is put in place before all of it was believed."""

from __future__ import annotations

import json
import os
import random
import struct
import tarfile
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from xxhash import xxh3_128_digest

from asyncdistil.batch import (
    FRESH_ORIGINS,
    SAME_ORIGINS,
    BatchRef,
    Digest,
    Failure,
    Lsn,
    Origins,
    RowFailure,
    RowSlice,
    RunId,
    SegmentId,
    StepName,
)
from asyncdistil.codec import encode_rows
from asyncdistil.errors import AsyncDistilError, CorruptRecord, FormatError, StorageError
from asyncdistil.log import LocalFiles, SegmentWriter, Store, StoreReader, store_root
from asyncdistil.log.checking import check
from asyncdistil.log.events import (
    Commit,
    Emit,
    Event,
    Moved,
    Reuse,
    Route,
    RunBegin,
    RunEnd,
    StepDef,
    StepDone,
    Tombstone,
)
from asyncdistil.log.pack import DIGEST, MANIFEST, PackReader, PackWriter
from asyncdistil.log.portable import portable, read_frames, write_store
from asyncdistil.log.record import FileKind, RecordType, encode_record, file_seed
from asyncdistil.log.taking_in import take_in
from asyncdistil.testing.faults import small_reserve

NAME = "carried"
RUN = RunId("a" * 32)
SOURCE, STEP = Digest(b"g" * 16), Digest(b"s" * 16)
DATA, KEY = Digest(b"d" * 16), Digest(b"k" * 16)
FILE = f"exports/{RUN}/{'b' * 32}-0.arrow"


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An honest pack of a run of two steps."""
    folder = tmp_path_factory.mktemp("honest")
    with small_reserve():
        store = Store.open(folder, NAME)
    dataset = b"rows as Arrow has them" * 100
    store.append([RunBegin(RUN, "sig", "agg", b"", 1.0, False, (SOURCE, STEP))])
    store.append([StepDef(SOURCE, StepName("load"), b"1"), StepDef(STEP, StepName("work"), b"2")])
    above: tuple[BatchRef, ...] = ()
    for lineage in (SOURCE, STEP):
        segment, fd = store.create_segment(lineage)
        writer = SegmentWriter(fd, segment, store.id)
        refs = writer.append(encode_rows([{"n": n, "of": lineage} for n in range(4)], step="s"))
        if lineage == SOURCE:
            commit = Commit(RUN, SOURCE, (), (DATA,), refs, FRESH_ORIGINS)
            above = refs
        else:
            inputs = (tuple(RowSlice(ref, 0, ref.rows) for ref in above),)
            commit = Commit(RUN, STEP, inputs, (above[0].digest,), refs, SAME_ORIGINS)
        store.append([commit])
    path = store.root / FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(dataset)
    digest = Digest(xxh3_128_digest(dataset))
    store.append(
        [
            StepDone(RUN, SOURCE, DATA, 4, 0),
            Emit(RUN, KEY, StepName("work"), "default", ((FILE, digest),), 4),
            RunEnd(RUN, True, KEY, 0, "", 2.0),
        ]
    )
    store.close(clean=True)
    made = portable(store.root, "", LocalFiles())
    target = folder / "honest.adpack"
    with closing(PackWriter(target)) as writer:
        write_store(writer, made, LocalFiles())
        writer.finish(pipeline=NAME, run=made.run, store_id=made.history.store_id)
    return target


def taken_in(path: Path, cache: Path) -> None:
    with small_reserve(), closing(PackReader(path)) as reader:
        take_in(check(reader), reader, cache, LocalFiles())


def refused(path: Path, tmp_path: Path) -> AsyncDistilError:
    """The error of an import; nothing may have been put in place, here or anywhere."""
    cache = tmp_path / "cache"
    with pytest.raises((FormatError, CorruptRecord)) as caught:
        taken_in(path, cache)
    assert not cache.exists()
    assert "Nothing was taken in" in str(caught.value) or str(path) in str(caught.value)
    return caught.value


def members(pack: Path) -> dict[str, bytes]:
    with closing(PackReader(pack)) as reader:
        return {name: b"".join(reader.pieces(name)) for name in reader.names()}


def packed(target: Path, content: dict[str, bytes], manifest: dict[str, Any]) -> Path:
    """A pack whose own hashes all fit, with any members and any manifest."""
    with target.open("wb") as file:
        for name, data in content.items():
            file.write(header(name, len(data)) + data + bytes(-len(data) % 512))
    told = {
        "members": [
            {"name": name, "bytes": len(data), "sha256": sha256(data).hexdigest()}
            for name, data in content.items()
        ],
        **manifest,
    }
    data = json.dumps(told).encode()
    with target.open("ab") as file:
        file.write(header(MANIFEST, len(data)) + data + bytes(-len(data) % 512))
    finished(target)
    return target


def finished(target: Path) -> None:
    digest = sha256(target.read_bytes()).hexdigest().encode() + b"\n"
    with target.open("ab") as file:
        file.write(header(DIGEST, len(digest)) + digest + bytes(-len(digest) % 512) + bytes(1024))


def header(name: str, size: int, **fields: Any) -> bytes:
    info = tarfile.TarInfo(name)
    for field, value in {"size": size, "mode": 0o600, **fields}.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT)


def manifest_of(pack: Path) -> dict[str, Any]:
    with closing(PackReader(pack)) as reader:
        told = msgspec.to_builtins(reader.manifest)
    return {key: told[key] for key in ("format", "pipeline", "run", "store")}


# --- the container --------------------------------------------------------------------------------


def test_an_honest_pack_is_taken_in(pack: Path, tmp_path: Path) -> None:
    taken_in(pack, tmp_path / "cache")
    store = StoreReader.open(tmp_path / "cache", NAME)
    assert store is not None
    assert len(store.commits(STEP)) == len(store.commits(SOURCE)) == 1
    assert store.step_done(SOURCE, DATA) is not None
    assert (store.root / FILE).read_bytes() == b"rows as Arrow has them" * 100
    store.close()
    assert packed(tmp_path / "same", members(pack), manifest_of(pack))
    taken_in(tmp_path / "same", tmp_path / "second")


def test_every_flipped_bit_of_a_pack_is_found(pack: Path, tmp_path: Path) -> None:
    image = pack.read_bytes()
    rng = random.Random(1)
    damaged = tmp_path / "damaged"
    # Of the first header many, of the rest as many as are quick.
    bits = {*rng.sample(range(8 * len(image)), 300), *range(0, 8 * 512, 5)}
    for bit in bits:
        flipped = bytearray(image)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.write_bytes(flipped)
        with pytest.raises((FormatError, CorruptRecord)):
            PackReader(damaged)


def test_every_cut_and_every_tail_of_a_pack_is_found(pack: Path, tmp_path: Path) -> None:
    image = pack.read_bytes()
    damaged = tmp_path / "damaged"
    for cut in range(0, len(image), 131):
        damaged.write_bytes(image[:cut])
        with pytest.raises((FormatError, CorruptRecord)):
            PackReader(damaged)
    for tail in (b"\0", b"x", bytes(512), image):
        damaged.write_bytes(image + tail)
        refused(damaged, tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "../../escaped",
        "/etc/passwd",
        "rows/../../../escaped",
        "datasets/../escaped.arrow",
        "datasets/x.arrow",
        "log/../log",
        "./log",
        "rows/1",
        "LOCK",
        "checkpoint.adk",
        "",
        "log\nlog",
    ],
)
def test_no_member_can_be_called_anything_but_what_an_export_calls_it(
    pack: Path, tmp_path: Path, name: str
) -> None:
    content = {**members(pack), name: b"content"}
    refused(packed(tmp_path / "hostile", content, manifest_of(pack)), tmp_path)
    assert not list(tmp_path.rglob("escaped*"))


@pytest.mark.parametrize(
    "fields",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.LNKTYPE, "linkname": "log"},
        {"type": tarfile.DIRTYPE},
        {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3},
        {"type": tarfile.FIFOTYPE},
        {"type": tarfile.GNUTYPE_SPARSE},
        {"type": tarfile.XHDTYPE},
        {"type": tarfile.XGLTYPE},
        {"type": tarfile.GNUTYPE_LONGNAME},
        {"mode": 0o4777},
        {"uid": 7},
        {"mtime": 7},
        {"uname": "root"},
        {"size": 1 << 62},
        {"size": 1 << 33},
    ],
    ids=lambda fields: "-".join(f"{key}={value}" for key, value in fields.items())[:30],
)
def test_no_header_can_say_more_than_name_and_size(
    pack: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    """Links, sparse files, devices, extended headers, sizes beyond the file."""
    content = members(pack)
    hostile = header("datasets/" + "c" * 32 + "-0.arrow", **{"size": 0, **fields})
    image = packed(tmp_path / "whole", content, manifest_of(pack)).read_bytes()
    (tmp_path / "hostile").write_bytes(hostile + image)
    refused(tmp_path / "hostile", tmp_path)


def test_a_sparse_file_of_a_terabyte_costs_nothing(pack: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "hostile"
    hostile.write_bytes(pack.read_bytes()[:512])
    os.truncate(hostile, 1 << 20)
    with hostile.open("r+b") as file:
        file.write(header("log", 1 << 40))
    refused(hostile, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "asyncdistil-pack/2"},
        {"format": 7},
        {"extra": "field"},
        {"pipeline": "zz"},
        {"pipeline": "ff"},
        {"run": "../../x"},
        {"run": "A" * 32},
        {"store": "00"},
        {"store": "zz"},
        {"members": []},
        {"members": [{"name": "log", "bytes": -1, "sha256": ""}]},
        {"members": [{"name": "SHA256", "bytes": 65, "sha256": "0" * 64}]},
    ],
    ids=str,
)
def test_a_manifest_says_what_an_export_says_or_is_refused(
    pack: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    hostile = packed(tmp_path / "hostile", members(pack), {**manifest_of(pack), **change})
    error = refused(hostile, tmp_path)
    if change.get("format") == "asyncdistil-pack/2":
        assert "asyncdistil-pack/1" in str(error)


def test_a_manifest_nested_without_end_is_refused(tmp_path: Path) -> None:
    data = b'{"format": ' + b"[" * 200_000
    hostile = tmp_path / "hostile"
    hostile.write_bytes(header(MANIFEST, len(data)) + data + bytes(-len(data) % 512))
    finished(hostile)
    refused(hostile, tmp_path)


def test_a_pack_without_a_manifest_is_refused(pack: Path, tmp_path: Path) -> None:
    (tmp_path / "hostile").write_bytes(header("log", 0) + bytes(1024))
    assert "does not end with a manifest" in str(refused(tmp_path / "hostile", tmp_path))


def test_a_manifest_that_would_fill_the_memory_is_not_read(pack: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "hostile"
    size = (64 << 20) + 512
    hostile.write_bytes(header(MANIFEST, size))
    os.truncate(hostile, 512 + size)
    finished(hostile)
    assert "its manifest is too large" in str(refused(hostile, tmp_path))


def test_a_member_that_is_not_what_the_manifest_tells_is_refused(
    pack: Path, tmp_path: Path
) -> None:
    content = members(pack)
    told = [
        {"name": name, "bytes": len(data), "sha256": sha256(b"other").hexdigest()}
        for name, data in content.items()
    ]
    manifest = {**manifest_of(pack), "members": told}
    error = refused(packed(tmp_path / "hostile", content, manifest), tmp_path)
    assert "has another SHA-256" in str(error)


def test_two_members_of_one_name_are_refused(pack: Path, tmp_path: Path) -> None:
    content = members(pack)
    (tmp_path / "hostile").write_bytes(
        header("log", 0) + packed(tmp_path / "whole", content, manifest_of(pack)).read_bytes()
    )
    assert "two members" in str(refused(tmp_path / "hostile", tmp_path))


def test_an_export_never_writes_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    for name in ("mine", "link"):
        with pytest.raises(StorageError, match="is there already"):
            PackWriter(tmp_path / name)
    assert (tmp_path / "mine").read_text() == "mine"


# --- what is in it --------------------------------------------------------------------------------


def rewritten(
    pack: Path, tmp_path: Path, change: Callable[[list[tuple[Lsn, Event]]], object]
) -> Path:
    """A pack whose hashes fit, with another log."""
    with closing(PackReader(pack)) as reader:
        events = list(read_frames(reader))
    change(events)
    frames = b""
    for lsn, event in events:
        body = msgspec.msgpack.encode(event)
        tag = type(event).__struct_config__.tag
        frames += struct.pack("<IBQ", len(body), tag, lsn) + body
    return packed(tmp_path / "hostile", {**members(pack), "log": frames}, manifest_of(pack))


def of_kind(events: list[tuple[Lsn, Event]], kind: type) -> list[int]:
    return [at for at, (_, event) in enumerate(events) if isinstance(event, kind)]


def changed(kind: type, which: int = -1, **fields: Any) -> Callable[[Any], None]:
    def change(events: list[tuple[Lsn, Event]]) -> None:
        at = of_kind(events, kind)[which]
        events[at] = events[at][0], msgspec.structs.replace(events[at][1], **fields)

    return change


NOWHERE = BatchRef(SegmentId(99), 168, 100, 4, 7, KEY)


def other_rows(events: list[tuple[Lsn, Event]]) -> None:
    at = of_kind(events, Commit)[-1]
    commit = events[at][1]
    assert isinstance(commit, Commit)
    (ref,) = commit.outputs
    lying = msgspec.structs.replace(ref, rows=3)
    events[at] = events[at][0], msgspec.structs.replace(commit, outputs=(lying,))


def sliced(start: int, stop: int) -> Callable[[Any], None]:
    def change(events: list[tuple[Lsn, Event]]) -> None:
        at = of_kind(events, Commit)[-1]
        commit = events[at][1]
        assert isinstance(commit, Commit)
        ((part,),) = commit.inputs
        inputs = ((RowSlice(part.ref, start, stop),),)
        events[at] = events[at][0], msgspec.structs.replace(commit, inputs=inputs)

    return change


def exported(path: str) -> Callable[[Any], None]:
    digest = Digest(xxh3_128_digest(b"rows as Arrow has them" * 100))
    return changed(Emit, files=((path, digest),))


BAD_LOGS: dict[str, Callable[[list[tuple[Lsn, Event]]], object]] = {
    "rows of another machine": changed(Commit, outputs=(NOWHERE,)),
    "more rows than there are": other_rows,
    "a slice before the rows": sliced(-1, 4),
    "a slice behind the rows": sliced(0, 9),
    "an empty slice": sliced(2, 2),
    "other input than it says": changed(Commit, input_digests=(KEY,)),
    "origins of no known kind": changed(Commit, origins=Origins("evil")),
    "origins outside": changed(Commit, origins=Origins("subset", (0, 1, 2, 9))),
    "origins in disorder": changed(Commit, origins=Origins("children", (3, 2, 1, 0), (0,) * 4)),
    "a failure outside": changed(Commit, failures=(RowFailure(9, 0, Failure("kind", "message")),)),
    "a lineage that is none": changed(Commit, lineage=Digest(b"short")),
    "a run that is none": changed(Commit, run=RunId("../../x")),
    "a step that is not defined": lambda events: events.pop(of_kind(events, StepDef)[-1]),
    "a dataset outside": exported("../../../escaped"),
    "a dataset in the log": exported("commits/0000000001.adc"),
    "a dataset of another run": exported(FILE.replace("a" * 32, "c" * 32)),
    "a dataset that is not there": exported(FILE.replace("-0", "-1")),
    "another dataset": changed(Emit, files=((FILE, KEY),)),
    "a dataset with another key": changed(Emit, key=DATA),
    "a dataset of no run": changed(Emit, run=RunId("c" * 32)),
    "a run without end": lambda events: events.pop(of_kind(events, RunEnd)[-1]),
    "a run without beginning": lambda events: events.pop(of_kind(events, RunBegin)[-1]),
    "a run that did not complete": changed(RunEnd, completed=False),
    "the end of another run": lambda events: events.append(
        (Lsn(0), RunEnd(RunId("c" * 32), True, KEY, 0, "", 1.0))
    ),
    "commits reused that are not there": lambda events: events.append(
        (Lsn(0), Reuse(RUN, STEP, (Lsn(77),)))
    ),
    "tombstones": lambda events: events.append((Lsn(0), Tombstone((Lsn(1), Lsn(2))))),
    "moves": lambda events: events.append((Lsn(0), Moved(NOWHERE, NOWHERE))),
    "a decision of no router": lambda events: events.append(
        (Lsn(0), Route(RUN, Digest(b"short"), KEY, (StepName("work"),)))
    ),
    "fewer rows than none": changed(StepDone, rows=-4),
    "commits in disorder": lambda events: events.reverse(),
}


@pytest.mark.parametrize("what", BAD_LOGS)
def test_a_log_that_no_store_could_hold_is_refused(pack: Path, tmp_path: Path, what: str) -> None:
    refused(rewritten(pack, tmp_path, BAD_LOGS[what]), tmp_path)
    assert not list(tmp_path.rglob("escaped*"))


@pytest.mark.parametrize("seed", range(60))
def test_drawn_bytes_in_the_place_of_a_member_end_in_an_error_of_ours(
    pack: Path, tmp_path: Path, seed: int
) -> None:
    """The hashes of the container fit: whoever forges one forges those too."""
    rng = random.Random(seed)
    content = members(pack)
    name = rng.choice([name for name in content if not name.startswith("datasets/")])
    data = bytearray(content[name])
    match rng.randrange(4):
        case 0:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 1:
            del data[rng.randrange(len(data)) :]
        case 2:
            data += rng.randbytes(rng.randint(1, 300))
        case _:
            at = rng.randrange(len(data))
            data[at : at + 8] = rng.randbytes(8)
    if bytes(data) == content[name]:
        return
    hostile = packed(tmp_path / "hostile", {**content, name: bytes(data)}, manifest_of(pack))
    with pytest.raises(AsyncDistilError):
        taken_in(hostile, tmp_path / "cache")
        raise FormatError("a field that means nothing was changed")
    store = store_root(tmp_path / "cache", NAME)
    if store.exists():  # a changed number that no hash covers, as the time of a run
        assert name == "log"


def test_rows_that_are_no_rows_are_refused(pack: Path, tmp_path: Path) -> None:
    """Hashes of records are no secret: a forged record fits them. Its rows must be rows."""
    manifest = manifest_of(pack)
    content = members(pack)
    name = next(name for name in content if name.startswith("rows/"))
    seed = file_seed(bytes.fromhex(manifest["store"]), FileKind.SEGMENT, int(name[5:]))
    for body in (b"\xc1", b"\x93\x01\x02\x03", b"\xdf\xff\xff\xff\xff", b"\x91" * 5000):
        table = struct.pack("<4I", 1, 0, 0, len(body)) + xxh3_128_digest(body)
        head, payload, _, _ = encode_record(seed, RecordType.ROWS, 168, body, meta=table)
        hostile = {**content, name: content[name][:168] + head + payload}
        refused_by(packed(tmp_path / "hostile", hostile, manifest), tmp_path)


def test_rows_that_do_not_fit_their_digests_are_refused(pack: Path, tmp_path: Path) -> None:
    manifest = manifest_of(pack)
    content = members(pack)
    name = next(name for name in content if name.startswith("rows/"))
    seed = file_seed(bytes.fromhex(manifest["store"]), FileKind.SEGMENT, int(name[5:]))
    body = b"\x80"
    table = struct.pack("<4I", 1, 0, 0, len(body)) + xxh3_128_digest(b"other rows")
    head, payload, _, _ = encode_record(seed, RecordType.ROWS, 168, body, meta=table)
    hostile = {**content, name: content[name][:168] + head + payload}
    error = refused(packed(tmp_path / "hostile", hostile, manifest), tmp_path)
    assert "do not fit their digests" in str(error)


def refused_by(path: Path, tmp_path: Path) -> None:
    with pytest.raises(AsyncDistilError):
        taken_in(path, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_what_is_here_is_never_written_over(pack: Path, tmp_path: Path) -> None:
    """A forged pack of a run that is here changes nothing of that run."""
    cache = tmp_path / "cache"
    taken_in(pack, cache)
    root = store_root(cache, NAME)
    before = {p: p.read_bytes() for p in root.rglob("*") if p.suffix in {".ads", ".arrow"}}
    hostile = rewritten(pack, tmp_path, changed(RunEnd, failed=3))
    taken_in(hostile, cache)
    after = {p: p.read_bytes() for p in root.rglob("*") if p.suffix in {".ads", ".arrow"}}
    assert before == after
    store = StoreReader.open(cache, NAME)
    assert store is not None
    ((_, end),) = store.runs()
    assert end is not None
    assert end.failed == 0
    store.close()
    # A link that somebody laid where a dataset belongs is not followed.
    (root / FILE).unlink()
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (root / FILE).symlink_to(outside)
    taken_in(pack, cache)
    assert outside.read_text() == "mine"
    assert (root / FILE).read_bytes() == before[root / FILE]
