"""Frames on a byte stream: a ``u32`` little-endian length, then one MessagePack message.

A length is compared with `MAX_FRAME_BYTES` before anything is allocated for it, and even an allowed
length reserves no memory: the buffer grows with the bytes that have come, not with those promised.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Generic, TypeVar

import msgspec

from asyncdistil.errors import PeerClosed, TransportError
from asyncdistil.transport.messages import FromWorker, ToWorker

MAX_FRAME_BYTES = 64 * 1024 * 1024
READ_BYTES = 256 * 1024
"""Most bytes taken from a socket in one call."""

_LENGTH = struct.Struct("<I")
_encoder = msgspec.msgpack.Encoder()

T = TypeVar("T")

TO_WORKER: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
FROM_WORKER: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


def encode_frames(messages: Iterable[msgspec.Struct], out: bytearray) -> None:
    """Append the frames of ``messages`` to ``out``.

    Raises:
        TransportError: A message is larger than `MAX_FRAME_BYTES`.
        Exception: It holds what can't be encoded, such as a number of more than 64 bits.

    After either, ``out`` ends with the last message before it, so that what follows is in step.
    """
    for message in messages:
        start = len(out)
        out += b"\0\0\0\0"
        try:
            _encoder.encode_into(message, out, -1)
        except BaseException:
            del out[start:]
            raise
        length = len(out) - start - _LENGTH.size
        if length > MAX_FRAME_BYTES:
            del out[start:]
            raise TransportError(
                f"a {type(message).__name__} message takes {length:,} bytes, more than the "
                f"{MAX_FRAME_BYTES:,} of a frame: keep large values out of step attributes, for "
                "example load them from a file in `load`"
            )
        _LENGTH.pack_into(out, start, length)


class FrameReader(Generic[T]):
    """Cuts a byte stream into decoded messages; owns the buffer that a socket reads into.

    Use: ``n = sock.recv_into(reader.room())``, then ``messages = reader.take(n)``.

    Attributes:
        broken: Set when the peer broke the protocol. Messages before the break count, nothing
            after it is looked at.
    """

    def __init__(self, decoder: msgspec.msgpack.Decoder[T]) -> None:
        self.broken: TransportError | None = None
        self._decode = decoder.decode
        self._view = memoryview(bytearray(READ_BYTES))
        self._kept = 0

    def room(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        return self._view[self._kept :]

    def take(self, received: int) -> list[T]:
        """Account for ``received`` bytes put into `room` and return the messages now whole."""
        messages: list[T] = []
        if self.broken is not None:
            return messages
        view, position, end = self._view, 0, self._kept + received
        decode, header = self._decode, _LENGTH.size
        need = header
        try:
            while end - position >= header:
                (length,) = _LENGTH.unpack_from(view, position)
                if not 0 < length <= MAX_FRAME_BYTES:
                    raise TransportError(
                        f"a peer announced a frame of {length:,} bytes; frames hold 1 to "
                        f"{MAX_FRAME_BYTES:,}: its memory or its descriptors are damaged"
                    )
                need = header + length
                if end - position < need:
                    break
                messages.append(decode(view[position + header : position + need]))
                position += need
                need = header
        except TransportError as error:
            self.broken = error
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            self.broken = TransportError(
                f"a peer sent a frame that is no message ({error}): something else wrote to its "
                "socket, or the two sides run different versions"
            )
        self._keep(position, end, need)
        return messages

    def ended(self) -> TransportError | None:
        """What the end of the stream means: ``None`` if it fell between two frames."""
        if self.broken is not None:
            return self.broken
        if self._kept:
            return PeerClosed(
                f"a peer died while it wrote a frame ({self._kept:,} bytes of it came)"
            )
        return None

    def _keep(self, position: int, end: int, need: int) -> None:
        """Move the unfinished frame to the front and make room for more of it."""
        view, kept = self._view, end - position
        if len(view) > 4 * READ_BYTES and kept < READ_BYTES and need <= READ_BYTES:
            # One huge frame must not pin its buffer for the rest of the run.
            self._view = memoryview(bytearray(READ_BYTES))
            self._view[:kept] = view[position:end]
        elif kept == len(view):
            self._view = memoryview(bytearray(2 * kept))
            self._view[:kept] = view[position:end]
        elif position and kept:
            view[:kept] = view[position:end]
        self._kept = kept


def closed_error(doing: str) -> PeerClosed:
    """The error for a peer that is gone."""
    return PeerClosed(f"the other side closed the socket while we were {doing}: it exited or died")
