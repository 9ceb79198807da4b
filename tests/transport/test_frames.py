from __future__ import annotations

import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdistil.batch import Failure
from asyncdistil.errors import PeerClosed, TransportError
from asyncdistil.transport import frames as frames_module
from asyncdistil.transport.frames import (
    FROM_WORKER,
    MAX_FRAME_BYTES,
    READ_BYTES,
    FrameReader,
    encode_frames,
)
from asyncdistil.transport.messages import Done, Failed, FromWorker, LogLine, Produce, Survived

lines = st.builds(LogLine, st.integers(0, 50), st.text(max_size=300))
failures = st.builds(Failure, st.text(max_size=20), st.text(max_size=20), st.integers(1, 9))
messages = st.lists(
    st.one_of(
        lines,
        st.builds(Done),
        st.builds(Failed, st.integers(0, 2**40), failures),
        st.builds(Survived, st.integers(0, 2**40), st.none() | failures),
    ),
    max_size=12,
)


def stream_of(sent: list[FromWorker]) -> bytearray:
    out = bytearray()
    encode_frames(sent, out)
    return out


def feed(reader: FrameReader[FromWorker], data: bytes) -> list[FromWorker]:
    got: list[FromWorker] = []
    position = 0
    while position < len(data):
        room = reader.room()
        piece = data[position : position + len(room)]
        room[: len(piece)] = piece
        got += reader.take(len(piece))
        position += len(piece)
    return got


@given(messages, st.data())
def test_any_cutting_of_the_stream_gives_the_same_messages(
    sent: list[FromWorker], data: st.DataObject
) -> None:
    stream = bytes(stream_of(sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader: FrameReader[FromWorker] = FrameReader(FROM_WORKER)
    got: list[FromWorker] = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += feed(reader, stream[start:stop])
    assert got == sent
    assert reader.ended() is None


@given(messages, st.data())
def test_a_cut_stream_gives_every_whole_message_and_names_the_half_one(
    sent: list[FromWorker], data: st.DataObject
) -> None:
    stream = bytes(stream_of(sent))
    cut = data.draw(st.integers(0, len(stream)))
    reader: FrameReader[FromWorker] = FrameReader(FROM_WORKER)
    got = feed(reader, stream[:cut])
    assert got == sent[: len(got)]
    rest = len(stream_of(sent[: len(got)]))
    assert (reader.ended() is None) == (rest == cut)
    if rest != cut:
        assert isinstance(reader.ended(), PeerClosed)


@given(messages, st.binary(min_size=1, max_size=400))
def test_garbage_is_a_transport_error_or_a_message_and_never_anything_else(
    sent: list[FromWorker], garbage: bytes
) -> None:
    reader: FrameReader[FromWorker] = FrameReader(FROM_WORKER)
    got = feed(reader, bytes(stream_of(sent)) + struct.pack("<I", len(garbage)) + garbage)
    assert got[: len(sent)] == sent
    assert len(got) <= len(sent) + 1
    assert (reader.broken is None) == (len(got) == len(sent) + 1)


@pytest.mark.parametrize("length", [0, MAX_FRAME_BYTES + 1, 2**31, 2**32 - 1])
def test_a_length_outside_the_bounds_is_refused_before_memory_is_taken(length: int) -> None:
    reader: FrameReader[FromWorker] = FrameReader(FROM_WORKER)
    assert feed(reader, struct.pack("<I", length) + b"x") == []
    assert isinstance(reader.broken, TransportError)
    assert not isinstance(reader.broken, PeerClosed)
    assert len(reader.room()) <= READ_BYTES


def test_an_allowed_length_reserves_no_memory_until_the_bytes_come() -> None:
    reader: FrameReader[FromWorker] = FrameReader(FROM_WORKER)
    assert feed(reader, struct.pack("<I", MAX_FRAME_BYTES) + b"x") == []
    assert reader.broken is None
    assert len(reader.room()) <= READ_BYTES


def test_messages_before_a_break_count_and_none_after_it() -> None:
    reader: FrameReader[FromWorker] = FrameReader(FROM_WORKER)
    stream = stream_of([Done()]) + struct.pack("<I", 3) + b"\xc1\xc1\xc1" + stream_of([Done()])
    assert feed(reader, bytes(stream)) == [Done()]
    assert feed(reader, bytes(stream_of([Done()]))) == []
    assert isinstance(reader.ended(), TransportError)


def test_a_message_for_the_other_side_is_a_break() -> None:
    reader: FrameReader[FromWorker] = FrameReader(FROM_WORKER)
    out = bytearray()
    encode_frames([Produce(1)], out)
    assert feed(reader, bytes(out)) == []
    assert isinstance(reader.broken, TransportError)


def test_a_large_frame_passes_and_its_buffer_is_given_back() -> None:
    reader: FrameReader[FromWorker] = FrameReader(FROM_WORKER)
    big = LogLine(20, "x" * (5 * READ_BYTES))
    assert feed(reader, bytes(stream_of([big, Done()]))) == [big, Done()]
    assert len(reader.room()) == READ_BYTES


def test_a_message_over_the_bound_is_refused_and_the_stream_stays_in_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frames_module, "MAX_FRAME_BYTES", 100)
    out = bytearray()
    with pytest.raises(TransportError, match="LogLine"):
        encode_frames([Done(), LogLine(20, "x" * 200), Done()], out)
    assert bytes(out) == bytes(stream_of([Done()]))


def test_a_message_that_cannot_be_encoded_leaves_the_stream_in_step() -> None:
    out = bytearray()
    with pytest.raises(OverflowError):
        encode_frames([Done(), LogLine(2**70, "x"), Done()], out)
    assert bytes(out) == bytes(stream_of([Done()]))


def test_every_message_class_has_a_tag_of_its_own() -> None:
    union = [t for decoder in ("ToWorker", "FromWorker") for t in _members(decoder)]
    tags = [t.__struct_config__.tag for t in union]
    assert len(set(tags)) == len(tags)


def _members(name: str) -> tuple[type[msgspec.Struct], ...]:
    from asyncdistil.transport import messages as module

    members: tuple[type[msgspec.Struct], ...] = getattr(module, name).__args__
    return members
