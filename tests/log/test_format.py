"""FORMAT.md is enough to write a reader from: this one uses nothing of the package's code."""

from __future__ import annotations

import os
import re
import struct
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from xxhash import xxh3_64_intdigest, xxh3_128_digest

from asyncdistil.log import Store

GOLDEN = 0x9E3779B97F4A7C15


class Record(NamedTuple):
    at: int
    type: int
    position: int
    durable: int
    previous: int
    hash: int
    checksum: int
    size: int
    meta: bytes
    body: bytes


def read(data: bytes, kind: int, number: int) -> list[Record]:
    """All records of a file, written from FORMAT.md alone."""
    store_id = data[72:88]
    file_seed = xxh3_64_intdigest(store_id + bytes([kind]) + number.to_bytes(8, "little"))
    found = []
    at = 0
    while at < len(data):
        assert data[at : at + 4] == b"ADDC"
        kind_, flags, header = struct.unpack_from("<BBH", data, at + 4)
        fields = struct.unpack_from("<8Q", data, at + 8)
        position, durable, meta, body, decoded, previous, checksum, digest = fields
        seed = (file_seed + position * GOLDEN) % 2**64
        assert xxh3_64_intdigest(data[at : at + 64], seed) == digest
        assert (flags, header, decoded) == (0, 72, meta + body)
        end = at + 72 + (meta + body + 7) // 8 * 8
        payload = data[at + 72 : end]
        assert xxh3_64_intdigest(payload, seed) == checksum
        assert not any(payload[meta + body :])
        found.append(
            Record(
                at,
                kind_,
                position,
                durable,
                previous,
                digest,
                checksum,
                end - at,
                payload[:meta],
                payload[meta : meta + body],
            )
        )
        at = end
    return found


def test_the_worked_example_is_what_the_page_says() -> None:
    page = files("asyncdistil.log").joinpath("FORMAT.md").read_text()
    example = re.search(r"```hex\n(.*?)```", page, re.DOTALL)
    assert example is not None
    image = bytes.fromhex("".join(line[4:] for line in example[1].splitlines()))
    file, tombstone = read(image, 1, 1)
    assert (file.type, file.meta, file.size) == (128, bytes(range(16)), 168)
    assert struct.unpack_from("<IIQQQQQQd", file.body)[:4] == (1, 1, 1, 1)
    assert (tombstone.type, tombstone.position, tombstone.previous) == (11, 1, file.hash)
    assert msgspec.msgpack.decode(tombstone.body) == [11, [7]]


def test_a_real_store_reads_as_the_page_says(kit: Any, cache_dir: Path) -> None:
    store = Store.open(cache_dir, "p")
    writer = kit.writer(store)
    for number in range(1, 4):
        writer.commit(number, rows=number)
    store.close(clean=True)
    log = read((store.root / "commits" / "0000000001.adc").read_bytes(), 1, 1)
    assert [record.position for record in log] == list(range(len(log)))
    assert [record.previous for record in log[1:]] == [record.hash for record in log[:-1]]
    assert log[-1].type == 131
    path = store.root / "segments" / kit.lineage.hex() / "0000000001.ads"
    rows = {record.at: record for record in read(path.read_bytes(), 2, 1)}
    commits = [msgspec.msgpack.decode(record.body) for record in log if record.type == 3]
    assert all(record.meta == kit.lineage for record in log if record.type == 3)
    for number, commit in enumerate(commits, 1):
        tag, run, lineage, _inputs, _digests, [output] = commit[:6]
        assert (tag, run, lineage) == (3, kit.run, kit.lineage)
        segment, offset, length, count, checksum, digest = output
        record = rows[offset]
        assert (segment, length, count, checksum) == (1, record.size, number, record.checksum)
        starts = struct.unpack_from(f"<{count + 3}I", record.meta)
        assert starts[:2] == (count, 0)
        digests = record.meta[4 * (count + 3) :]
        assert xxh3_128_digest(digests) == digest
        parts = [record.body[a:b] for a, b in pairwise(starts[2:])]
        assert digests == b"".join(map(xxh3_128_digest, parts))
        assert [msgspec.msgpack.decode(part) for part in parts] == kit.rows(number, number)
    checkpoint = read((store.root / "checkpoint.adk").read_bytes(), 3, 0)
    assert [record.type for record in checkpoint] == [128, 133, 134]
    assert all(record.position == record.at for record in checkpoint)
    commits_count, routes = struct.unpack_from("<QQ", checkpoint[2].body)
    table = struct.unpack_from(f"<{2 * commits_count}Q", checkpoint[2].body, 16)
    assert (commits_count, routes) == (3, 0)
    assert list(table) == [r.position for r in log if r.type == 3] + [
        2**40 + r.at for r in log if r.type == 3
    ]
    assert os.stat(path).st_size == sum(record.size for record in rows.values())
