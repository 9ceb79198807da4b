from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from asyncdistil.batch import BatchRef, Digest, RowSlice, SegmentId
from asyncdistil.errors import PeerClosed, TransportError
from asyncdistil.transport import TO_WORKER, AsyncChannel, Channel
from asyncdistil.transport.messages import (
    Done,
    Finish,
    FromWorker,
    Lease,
    LogLine,
    Produce,
    ToWorker,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


class End:
    """What an `AsyncChannel` reported."""

    def __init__(self, sock: socket.socket) -> None:
        self.messages: list[FromWorker] = []
        self.batches = 0
        self.closes: list[TransportError | None] = []
        self._news = asyncio.Event()
        self.channel: AsyncChannel[FromWorker] = AsyncChannel(sock, self._got, self._closed)

    def _got(self, messages: list[FromWorker]) -> None:
        self.messages += messages
        self.batches += 1
        self._news.set()

    def _closed(self, error: TransportError | None) -> None:
        self.closes.append(error)
        self._news.set()

    async def until_messages(self, count: int) -> None:
        while len(self.messages) < count:
            self._news.clear()
            await self._news.wait()

    async def until_closed(self) -> TransportError | None:
        while not self.closes:
            self._news.clear()
            await self._news.wait()
        assert len(self.closes) == 1
        return self.closes[0]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    yield left, right
    left.close()
    right.close()


@pytest.fixture
async def end(pair: tuple[socket.socket, socket.socket]) -> AsyncIterator[End]:
    end = End(pair[0])
    yield end
    end.channel.close()


def lease(number: int) -> Lease:
    ref = BatchRef(SegmentId(1), number * 64, 64, 50, 2**63 + number, Digest(bytes(16)))
    return Lease(number, ((RowSlice(ref, 0, 50),),))


async def test_messages_sent_in_one_turn_leave_in_one_write(
    pair: tuple[socket.socket, socket.socket], end: End
) -> None:
    for number in range(20):
        end.channel.send(lease(number))
    end.channel.send(Finish())
    worker = Channel(pair[1])
    assert worker.receive(block=False) == []
    await asyncio.sleep(0)
    assert worker.receive(block=False) == [*map(lease, range(20)), Finish()]


async def test_what_was_sent_in_one_write_arrives_in_one_call(
    pair: tuple[socket.socket, socket.socket], end: End
) -> None:
    sent = [LogLine(20, str(n)) for n in range(100)]
    Channel(pair[1]).send(*sent)
    await end.until_messages(100)
    assert end.messages == sent
    assert end.batches == 1


async def test_threads_may_send_at_once_and_no_frame_is_torn(
    pair: tuple[socket.socket, socket.socket], end: End
) -> None:
    worker = Channel(pair[1])

    def talk(who: int) -> None:
        for number in range(300):
            worker.send(LogLine(who, f"{number}" * 50))

    threads = [threading.Thread(target=talk, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    await end.until_messages(1200)
    for thread in threads:
        thread.join()
    for who in range(4):
        texts = [m.text for m in end.messages if isinstance(m, LogLine) and m.level == who]
        assert texts == [f"{number}" * 50 for number in range(300)]


async def test_a_peer_that_does_not_read_never_blocks_the_loop(
    pair: tuple[socket.socket, socket.socket], end: End
) -> None:
    end.channel.send(*map(lease, range(50_000)))
    await asyncio.sleep(0)
    assert end.channel.unsent_bytes > 0
    worker = Channel(pair[1])
    got: list[ToWorker] = []
    while len(got) < 50_000:
        got += worker.receive(block=False)
        await asyncio.sleep(0)
    assert got == [*map(lease, range(50_000))]
    assert end.channel.unsent_bytes == 0


async def test_the_close_of_a_peer_between_frames_is_no_error(
    pair: tuple[socket.socket, socket.socket], end: End
) -> None:
    worker = Channel(pair[1])
    worker.send(Done())
    worker.close()
    assert await end.until_closed() is None
    assert end.messages == [Done()]


async def test_a_peer_that_dies_inside_a_frame_is_named(
    pair: tuple[socket.socket, socket.socket], end: End
) -> None:
    Channel(pair[1]).send(Done())
    pair[1].sendall(struct.pack("<I", 100) + b"half")
    pair[1].close()
    assert isinstance(await end.until_closed(), PeerClosed)
    assert end.messages == [Done()]


@pytest.mark.parametrize("junk", [b"\xff\xff\xff\x7f" + b"j" * 9, b"\x02\0\0\0\xc1\xc1", b"\0" * 8])
async def test_a_broken_frame_closes_the_channel_after_the_whole_ones(
    pair: tuple[socket.socket, socket.socket], end: End, junk: bytes
) -> None:
    Channel(pair[1]).send(Done())
    pair[1].sendall(junk)
    error = await end.until_closed()
    assert isinstance(error, TransportError)
    assert not isinstance(error, PeerClosed)
    assert end.messages == [Done()]


async def test_frames_written_before_a_death_count_even_if_the_peer_left_ours_unread(
    pair: tuple[socket.socket, socket.socket], end: End
) -> None:
    end.channel.send(Produce(1))
    await asyncio.sleep(0)
    Channel(pair[1]).send(*[LogLine(20, "x" * 1000)] * 100)
    pair[1].close()
    end.channel.send(Produce(2))
    end.channel.drain_and_close()
    assert len(end.messages) == 100
    assert end.closes == [None]


async def test_draining_does_not_wait_for_a_grandchild_that_holds_the_socket(
    pair: tuple[socket.socket, socket.socket], end: End
) -> None:
    held = os.dup(pair[1].fileno())
    try:
        Channel(pair[1]).send(Done())
        pair[1].close()
        end.channel.drain_and_close()
        assert end.messages == [Done()]
        assert end.closes == [None]
    finally:
        os.close(held)


async def test_sending_to_a_dead_peer_is_quiet_and_its_death_is_reported_once(
    pair: tuple[socket.socket, socket.socket], end: End
) -> None:
    pair[1].close()
    for number in range(3):
        end.channel.send(lease(number))
        await asyncio.sleep(0)
    assert await end.until_closed() is None
    end.channel.send(Finish())
    end.channel.drain_and_close()
    assert end.closes == [None]


async def test_a_channel_can_close_itself_from_inside_its_own_callback(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    seen: list[list[FromWorker]] = []
    closed = asyncio.Event()

    def got(messages: list[FromWorker]) -> None:
        seen.append(messages)
        channel.close()

    channel: AsyncChannel[FromWorker] = AsyncChannel(pair[0], got, lambda _error: closed.set())
    Channel(pair[1]).send(Done())
    await closed.wait()
    assert seen == [[Done()]]


async def test_the_same_channel_serves_the_other_direction(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    arrived: asyncio.Future[list[ToWorker]] = asyncio.get_running_loop().create_future()
    worker_end: AsyncChannel[ToWorker] = AsyncChannel(
        pair[1], arrived.set_result, lambda _error: None, decoder=TO_WORKER
    )
    end = End(pair[0])
    end.channel.send(lease(1))
    worker_end.send(Done())
    await end.until_messages(1)
    assert await arrived == [lease(1)]
    end.channel.close()
    worker_end.close()


def test_a_worker_waits_for_a_whole_message(pair: tuple[socket.socket, socket.socket]) -> None:
    worker = Channel(pair[1])
    pair[0].sendall(b"\x02\0")
    assert worker.receive(block=False) == []
    threading.Timer(0.01, pair[0].sendall, [b"\0\0\x91\x07"]).start()
    assert worker.wait(10)
    assert worker.receive() == [Finish()]


def test_a_worker_learns_that_the_supervisor_is_gone(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    worker = Channel(pair[1])
    pair[0].close()
    assert worker.wait(10)
    with pytest.raises(PeerClosed):
        worker.receive()
    with pytest.raises(PeerClosed):
        worker.send(Done())


def test_a_worker_refuses_garbage_from_the_supervisor_after_the_good_messages(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    worker = Channel(pair[1])
    pair[0].sendall(b"\x02\0\0\0\x91\x07" + b"\x01\0\0\0\xc1")
    assert worker.receive() == [Finish()]
    for _ in range(2):
        with pytest.raises(TransportError, match="no message"):
            worker.receive()


def test_a_worker_gets_what_it_gave_back_before_what_came_since(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    worker = Channel(pair[1])
    assert worker.fileno() == pair[1].fileno()
    assert not worker.wait(0)
    pair[0].sendall(b"\x02\0\0\0\x91\x07")
    (finish,) = worker.receive()
    worker.put_back([finish])
    worker.put_back([lease(1), lease(2)])
    pair[0].sendall(b"\x02\0\0\0\x91\x07")
    assert worker.wait(0)
    assert worker.receive(block=False) == [lease(1), lease(2), finish]
    assert worker.receive(block=False) == [Finish()]
    assert worker.receive(block=False) == []


def test_a_worker_whose_supervisor_died_with_its_messages_unread_learns_that_it_is_gone(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    worker = Channel(pair[1])
    worker.send(Done())
    pair[0].close()  # the kernel resets a stream whose data nobody took
    with pytest.raises(PeerClosed, match="reading"):
        worker.receive()


async def test_half_a_frame_is_no_news(pair: tuple[socket.socket, socket.socket], end: End) -> None:
    frame = b"\x02\0\0\0\x91" + b"\x2f"
    for part in (frame[:3], frame[3:5]):
        pair[1].sendall(part)
        while _unread(pair[0]):
            await a_turn()
        assert (end.batches, end.closes) == (0, [])
    pair[1].sendall(frame[5:])
    await end.until_messages(1)
    assert end.messages == [Done()]


async def a_turn() -> None:
    """Let the loop do what is due."""
    await asyncio.sleep(0)


def _unread(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return False


async def test_what_is_sent_while_nothing_fits_goes_out_as_soon_as_something_does(
    pair: tuple[socket.socket, socket.socket], end: End
) -> None:
    filled = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            filled += pair[0].send(bytes(4096))
    end.channel.send(lease(1))
    await a_turn()
    await a_turn()
    end.channel.send(lease(2))
    while filled:
        filled -= len(pair[1].recv(min(filled, 65536)))
    worker = Channel(pair[1])
    arrived: list[ToWorker] = []
    while len(arrived) < 2:
        arrived += await asyncio.to_thread(worker.receive)
    assert arrived == [lease(1), lease(2)]
