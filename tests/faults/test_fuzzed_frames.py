"""Bytes that no honest peer would send: only whole messages, or an error of our own."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from asyncdistil.errors import FormatError, TransportError
from asyncdistil.log.record import (
    FileKind,
    encode_record,
    file_seed,
    parse_file_header,
    parse_header,
    payload_fits,
    stray_headers,
    whole_record,
)
from asyncdistil.transport.frames import (
    FROM_WORKER,
    MAX_FRAME_BYTES,
    TO_WORKER,
    FrameReader,
    encode_frames,
)
from asyncdistil.transport.messages import (
    Exhausted,
    Lease,
    Loaded,
    LogLine,
    Produce,
    Routed,
)

MESSAGES = [Loaded(None, 0.5), LogLine(20, "words"), Exhausted(), Produce(3), Lease(1, ((),), 1)]
MESSAGES += [Routed(1, ("a",), b"d" * 16)]  # type: ignore[arg-type, list-item]
_SEED = file_seed(b"s" * 16, FileKind.COMMIT_LOG, 1)


def fed(data: bytes, cuts: list[int], decoder: Any) -> FrameReader[Any]:
    reader: FrameReader[Any] = FrameReader(decoder)
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, stop in pairwise(edges):
        piece = memoryview(data)[start:stop]
        while piece:
            room = reader.room()
            size = min(len(room), len(piece))
            room[:size] = piece[:size]
            for message in reader.take(size):
                assert type(message).__module__ == "asyncdistil.transport.messages"
            piece = piece[size:]
    assert reader.broken is None or isinstance(reader.broken, TransportError)
    ended = reader.ended()
    assert ended is None or isinstance(ended, TransportError)
    return reader


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Frames with bytes changed, left out, put in; or nothing but noise."""
    data = bytearray()
    for message in draw(st.lists(st.sampled_from(MESSAGES), max_size=4)):
        encode_frames([message], data)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(data))))
        match draw(st.sampled_from(["change", "cut", "insert"])):
            case "change" if at < len(data):
                data[at] = draw(st.integers(0, 255))
            case "cut":
                del data[at : at + draw(st.integers(1, 9))]
            case _:
                data[at:at] = draw(st.binary(max_size=9))
    return bytes(data) or draw(st.binary(max_size=200))


def test_any_stream_gives_messages_or_a_transport_error(faults: Any) -> None:
    examples = faults.amount(smoke=200, short=1_000, full=3_000, soak=2_000_000)

    def block(number: int, size: int) -> None:
        @seed(number)
        @settings(
            max_examples=size,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        )
        @given(streams(), st.lists(st.integers(0, 1 << 16), max_size=4), st.booleans())
        def feed(data: bytes, cuts: list[int], up: bool) -> None:
            fed(data, cuts, FROM_WORKER if up else TO_WORKER)

        feed()

    faults.count("fuzzed frames and records", faults.drawn(examples, block))


@pytest.mark.parametrize("length", [0, MAX_FRAME_BYTES + 1, 2 << 30, (1 << 32) - 1])
def test_an_absurd_length_is_refused_before_anything_is_reserved(length: int) -> None:
    reader = fed(length.to_bytes(4, "little") + b"x", [], FROM_WORKER)
    assert isinstance(reader.broken, TransportError)
    assert len(reader.room()) < 1 << 20


def test_an_allowed_length_reserves_only_what_came() -> None:
    reader = fed(MAX_FRAME_BYTES.to_bytes(4, "little") + b"x" * 100, [], FROM_WORKER)
    assert reader.broken is None
    assert len(reader.room()) < 1 << 20


def test_any_bytes_are_a_record_of_this_place_or_none(faults: Any) -> None:
    count = faults.amount(smoke=2_000, short=50_000, full=200_000, soak=10_000_000)
    kinds = (b"", b"body", b"x" * 300)

    def trial(rng: random.Random) -> None:
        head, payload, _, _ = encode_record(_SEED, 3, 7, rng.choice(kinds), meta=b"m" * 16)
        data = bytearray(head + payload)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        changed = bytes(data)
        same = changed == head + payload
        try:
            header = parse_header(changed, 0, _SEED)
            assert parse_file_header(changed, FileKind.COMMIT_LOG, 1) is None
        except FormatError:
            header = None
        whole = header is not None and payload_fits(header, changed[72:], _SEED)
        assert whole == same
        assert (whole_record(changed, 7, _SEED) is not None) == same
        assert whole_record(changed, 8, _SEED) is None
        for _ in stray_headers(changed, 1, _SEED):
            raise AssertionError("a header was found inside of a record")

    faults.count("fuzzed frames and records", faults.cases(range(count), trial))
