"""Two ends of a worker's socket: one that blocks, one that lives on an event loop."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from asyncdistil.errors import TransportError
from asyncdistil.transport.frames import (
    FROM_WORKER,
    TO_WORKER,
    FrameReader,
    closed_error,
    encode_frames,
)
from asyncdistil.transport.messages import FromWorker, ToWorker

T = TypeVar("T")


class Channel:
    """The worker's end: plain blocking calls, usable from any thread.

    Any thread may send; one thread receives.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._sock = sock
        self._frames: FrameReader[ToWorker] = FrameReader(TO_WORKER)
        self._sending = threading.Lock()
        self._out = bytearray()
        self._returned: list[ToWorker] = []

    def fileno(self) -> int:
        """Descriptor to wait on; readable when `receive` has something to do."""
        return self._sock.fileno()

    def send(self, *messages: FromWorker) -> None:
        """Send all messages in one write; blocks while the other side does not read.

        Raises:
            PeerClosed: The other side is gone.
            TransportError: A message is larger than a frame may be; those before it are sent.
        """
        with self._sending:
            try:
                encode_frames(messages, self._out)
            finally:
                self._write_out()

    def receive(self, block: bool = True) -> list[ToWorker]:
        """Every message that has come, with one read of the socket where that is enough.

        Args:
            block: Wait for at least one whole message; otherwise return ``[]`` if there is none.

        Raises:
            PeerClosed: The other side closed, between frames or inside one.
            TransportError: The other side broke the protocol.
        """
        frames = self._frames
        if self._returned:
            messages, self._returned = self._returned, []
            return messages
        while True:
            if frames.broken is not None:
                raise frames.broken
            try:
                received = self._sock.recv_into(
                    frames.room(), 0, 0 if block else socket.MSG_DONTWAIT
                )
            except BlockingIOError:
                return []
            except OSError as error:
                raise closed_error("reading") from error
            if not received:
                raise frames.ended() or closed_error("reading")
            messages = frames.take(received)
            if messages:
                return messages

    def put_back(self, messages: list[ToWorker]) -> None:
        """Return messages that were received and not used; the next `receive` gives them first."""
        self._returned = [*messages, *self._returned]

    def wait(self, seconds: float) -> bool:
        """Whether something to receive came within ``seconds``; the end of the stream counts."""
        if self._returned:
            return True
        poll = select.poll()
        poll.register(self._sock.fileno(), select.POLLIN)
        return bool(poll.poll(max(0, int(seconds * 1000))))

    def close(self) -> None:
        """Close the socket; a second call does nothing."""
        self._sock.close()

    def _write_out(self) -> None:
        try:
            self._sock.sendall(self._out)
        except OSError as error:
            raise closed_error("writing") from error
        finally:
            self._out.clear()


class AsyncChannel(Generic[T]):
    """The supervisor's end, on the running event loop; asyncio and uvloop both serve.

    Streams and protocols are not used: per wake-up there is one read into one buffer, decoded into
    as many messages as it holds, and what is sent within one turn of the loop leaves in one write.
    Nothing here waits: a peer that does not read only makes the buffer grow, so senders bound
    themselves by credits (`Window`).
    """

    def __init__(
        self,
        sock: socket.socket,
        on_messages: Callable[[list[T]], None],
        on_close: Callable[[TransportError | None], None],
        *,
        decoder: msgspec.msgpack.Decoder[Any] = FROM_WORKER,
    ) -> None:
        """Start reading.

        Args:
            sock: Ours from now on; closed when the channel closes.
            on_messages: Called with at least one message, in order.
            on_close: Called once, after the last message: with ``None`` if the stream ended
                between two frames or we closed it, with `PeerClosed` if the peer died inside a
                frame, with another `TransportError` if it broke the protocol.
            decoder: What the other side sends.
        """
        sock.setblocking(False)
        self._sock = sock
        self._fd = sock.fileno()
        self._on_messages = on_messages
        self._on_close = on_close
        self._frames: FrameReader[T] = FrameReader(decoder)
        self._out = bytearray()
        self._flush_planned = False
        self._writing = False
        self._deaf = False
        self.closed = False
        # Imported here because workers that only block never need it and start faster without.
        from asyncio import get_running_loop

        self._loop = get_running_loop()
        self._loop.add_reader(self._fd, self._readable)

    @property
    def unsent_bytes(self) -> int:
        """Bytes accepted by `send` that the socket has not taken yet."""
        return len(self._out)

    def send(self, *messages: Any) -> None:
        """Queue messages; they leave together at the end of this turn of the loop.

        After the peer is gone this does nothing: its death is reported by ``on_close``.

        Raises:
            TransportError: A message is larger than a frame may be; those before it are queued.
        """
        if self.closed or self._deaf:
            return
        try:
            encode_frames(messages, self._out)
        finally:
            if not self._flush_planned and not self._writing:
                self._flush_planned = True
                self._loop.call_soon(self._flush)

    def drain_and_close(self) -> None:
        """Read what a dead peer left behind, then close. Whole frames count.

        Stops at the end of the stream or when nothing more is there, whichever comes first:
        a grandchild may hold the peer's end open for ever.
        """
        while not self.closed and self._read_once():
            pass
        self._close(None)

    def close(self) -> None:
        """Offer the socket what is unsent, then close without reading; once is enough."""
        self._flush()
        self._close(None)

    def _readable(self) -> None:
        self._read_once()

    def _read_once(self) -> bool:
        """One read; whether it is worth trying another one."""
        try:
            received = self._sock.recv_into(self._frames.room())
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            # A reset comes only after every byte that the peer had written was read.
            received = 0
        if not received:
            self._close(self._frames.ended())
            return False
        messages = self._frames.take(received)
        try:
            if messages:
                self._on_messages(messages)
        finally:
            if self._frames.broken is not None:
                self._close(self._frames.broken)
        return not self.closed

    def _flush(self) -> None:
        self._flush_planned = False
        if self.closed or not self._out:
            return
        try:
            sent = self._sock.send(self._out)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            # The peer is gone. What it wrote is still to be read, so only writing ends here.
            self._deaf = True
            self._out.clear()
            self._stop_writing()
            return
        del self._out[:sent]
        if self._out and not self._writing:
            self._writing = True
            self._loop.add_writer(self._fd, self._flush)
        elif not self._out:
            self._stop_writing()

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._fd)

    def _close(self, error: TransportError | None) -> None:
        if self.closed:
            return
        self.closed = True
        self._stop_writing()
        self._loop.remove_reader(self._fd)
        self._sock.close()
        self._out.clear()
        self._on_close(error)
