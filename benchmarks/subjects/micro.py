"""Small parts of the hot path, measured by pyperf; each beside the least that could do its work."""

from __future__ import annotations

import json
import os
import pickle
import tempfile
from pathlib import Path

import msgspec
import pyperf
from msgspec.structs import replace
from workload import rows
from xxhash import xxh3_128_digest

from asyncdistil.batch import SAME_ORIGINS, Digest, IdRun, Lsn, RowSlice, RunId
from asyncdistil.codec import content_digest, decode_rows, encode_rows
from asyncdistil.log import SegmentReader, SegmentWriter, Store
from asyncdistil.log.events import Commit
from asyncdistil.supervisor.chunk import Chunk
from asyncdistil.supervisor.reuse import RowMemory
from asyncdistil.transport.frames import FROM_WORKER, FrameReader, encode_frames
from asyncdistil.transport.messages import Result

_BATCH = rows(1_000, 1_050)
_LINEAGE = Digest(b"benchmark lineage"[:16])
_PLAIN = msgspec.msgpack.Encoder()
_PLAIN_DECODER = msgspec.msgpack.Decoder()


def _codec(runner: pyperf.Runner) -> None:
    encoded = encode_rows(_BATCH, step="s")
    body = bytes(encoded.body)
    plain, pickled, text = _PLAIN.encode(_BATCH), pickle.dumps(_BATCH), json.dumps(_BATCH)
    runner.bench_func("encode 50 rows|ours", lambda: encode_rows(_BATCH, step="s"))
    runner.bench_func("encode 50 rows|pickle", pickle.dumps, _BATCH)
    runner.bench_func("encode 50 rows|json", json.dumps, _BATCH)
    runner.bench_func("encode 50 rows|floor", _PLAIN.encode, _BATCH)
    runner.bench_func("decode 50 rows|ours", decode_rows, body, len(_BATCH))
    runner.bench_func("decode 50 rows|pickle", pickle.loads, pickled)
    runner.bench_func("decode 50 rows|json", json.loads, text)
    runner.bench_func("decode 50 rows|floor", _PLAIN_DECODER.decode, plain)
    runner.bench_func("hash 50 digests|ours", content_digest, encoded.digests)
    runner.bench_func("hash 50 digests|floor", xxh3_128_digest, encoded.digests)


def _frames(runner: pyperf.Runner, commit: Commit) -> None:
    message = Result(1, 0, 50, commit.outputs, commit.origins, input_digests=commit.input_digests)

    def there_and_back() -> None:
        data = bytearray()
        encode_frames((message,), data)
        reader.room()[: len(data)] = data
        reader.take(len(data))

    def bare() -> None:
        FROM_WORKER.decode(_PLAIN.encode(message))

    reader = FrameReader(FROM_WORKER)
    runner.bench_func("frame of one result, there and back|ours", there_and_back)
    runner.bench_func("frame of one result, there and back|floor", bare)


def _look_up(runner: pyperf.Runner, commit: Commit, reader: SegmentReader) -> None:
    """Among 1,000 stored commits find the one for a batch."""
    commits, chunks, known = [], [], {}
    for number in range(1_000):
        ref = replace(commit.outputs[0], digest=Digest(number.to_bytes(16, "big")))
        ports = ((RowSlice(ref, 0, ref.rows),),)
        commits.append(
            (Lsn(number + 1), replace(commit, inputs=ports, input_digests=(ref.digest,)))
        )
        chunks.append(Chunk((number * 50,), ports, (IdRun((), number * 50, 50),), 50))
    memory = RowMemory(commits, reader, share=True, retry_failed=True)
    known = {
        each.ports[0][0].ref.digest: stored for each, stored in zip(chunks, commits, strict=True)
    }
    wanted = chunks[500]
    runner.bench_func("look up a stored batch|ours", memory.match, wanted)
    runner.bench_func("look up a stored batch|floor", known.get, wanted.ports[0][0].ref.digest)


def _log(runner: pyperf.Runner, directory: Path) -> None:
    store = Store.open(directory, "micro")
    segment, fd = store.create_segment(_LINEAGE)
    writer = SegmentWriter(fd, segment, store.id)
    encoded = encode_rows(_BATCH, step="s")
    refs = writer.append(encoded)
    inputs = (tuple(RowSlice(ref, 0, ref.rows) for ref in refs),)
    commit = Commit(RunId("0" * 32), _LINEAGE, inputs, (refs[0].digest,), refs, SAME_ORIGINS)
    store.start_syncing(lambda _lsn: None, lambda _error: None)
    bare = os.open(directory / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    body = bytes(encoded.body)

    def append_and_commit() -> None:
        writer.append(encoded)
        store.append([commit])

    runner.bench_func("append 50 rows, commit, group sync|ours", append_and_commit)
    runner.bench_func("append 50 rows, commit, group sync|floor", os.write, bare, body)
    store.flush()
    reader = SegmentReader(store.root, store.id)
    piece = RowSlice(refs[0], 0, refs[0].rows)
    runner.bench_func("read 50 rows of a segment|ours", reader.rows, piece)
    runner.bench_func(
        "read 50 rows of a segment|floor", _PLAIN_DECODER.decode, _PLAIN.encode(_BATCH)
    )
    _frames(runner, commit)
    _look_up(runner, commit, reader)


def main() -> None:
    """Measure all; options are pyperf's."""
    runner = pyperf.Runner()
    _codec(runner)
    with tempfile.TemporaryDirectory() as directory:
        _log(runner, Path(directory))


if __name__ == "__main__":
    main()
