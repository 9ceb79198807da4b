"""What comes to a worker, and what leaves it in small bundles."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeAlias

from asyncdistil.errors import TransportError
from asyncdistil.transport import Channel
from asyncdistil.transport.messages import Claimed, Finish, FromWorker, Granted, ToWorker

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

Reply: TypeAlias = Claimed | Granted
_BUNDLE_SECONDS = 0.002


class Mailbox:
    """Work for the step, apart from replies to its questions.

    Normally the thread that works also reads, which costs no thread switch per batch. Once the
    step's code has asked the supervisor something (`expect_replies`) it may wait inside that very
    thread, so from then on another thread reads. A worker on an event loop reads there, by `poll`.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.on_reply: Callable[[Reply], None] = lambda _reply: None
        self.on_broken: Callable[[TransportError], None] = lambda _error: None
        self.on_unsent: Callable[[TransportError], None] = lambda _error: None
        self._work: deque[ToWorker] = deque()
        self._reading = threading.Lock()
        self._pumped: SimpleQueue[list[ToWorker] | TransportError] | None = None
        self._loop: AbstractEventLoop | None = None
        self._loop_thread = 0
        self._posted: list[FromWorker] = []
        self._starting = threading.Lock()

    def next(self, before_waiting: Callable[[], None]) -> ToWorker:
        """The next message that is work; ``before_waiting`` is called if that takes waiting.

        Raises:
            TransportError: The supervisor is gone or broke the protocol.
        """
        work = self._work
        while not work:
            self._take(False)
            if not work:
                before_waiting()
                self._take(True)
        return work.popleft()

    def waiting(self, *, block: bool, before_waiting: Callable[[], None]) -> Iterator[ToWorker]:
        """Give every message that is there; with ``block`` wait for one if there is none.

        Raises:
            TransportError: The supervisor is gone or broke the protocol.
        """
        if not self._work:
            self._take(False)
        if not self._work and block:
            before_waiting()
            self._take(True)
        while self._work:
            yield self._work.popleft()

    def poll(self) -> list[ToWorker]:
        """All work that is there, for a reader on an event loop; from now on it alone reads.

        Raises:
            TransportError: The supervisor is gone or broke the protocol.
        """
        if self._loop is None:
            from asyncio import get_running_loop

            self._loop_thread = threading.get_ident()
            self._loop = get_running_loop()
        self._take(False)
        work = [*self._work]
        self._work.clear()
        return work

    def loop_here(self) -> AbstractEventLoop | None:
        """The loop that reads by `poll`, if this is its thread."""
        loop = self._loop
        if loop is None or threading.get_ident() != self._loop_thread or loop.is_closed():
            return None
        return loop

    def post(self, message: FromWorker) -> None:
        """Send a message; on the loop that reads, with all others of this turn in one write.

        Raises:
            TransportError: The supervisor is gone; on the loop ``on_unsent`` is told instead.
        """
        loop = self.loop_here()
        if loop is None:
            self.channel.send(message)
            return
        if not self._posted:
            loop.call_soon(self.flush)
        self._posted.append(message)

    def flush(self) -> None:
        """Send what was posted and is still here."""
        messages, self._posted = self._posted, []
        try:
            if messages:
                self.channel.send(*messages)
        except TransportError as error:
            self.on_unsent(error)

    def put_back(self, messages: list[ToWorker]) -> None:
        """Return messages that were taken and not worked on; they come first again."""
        self._work.extendleft(reversed(messages))

    def expect_replies(self) -> None:
        """Make sure that replies are read even while the working thread waits for one."""
        with self._starting:
            if self._loop is not None or self._pumped is not None:
                return
            self._pumped = SimpleQueue()
        threading.Thread(target=self._pump, name="asyncdistil-mailbox", daemon=True).start()

    def _take(self, block: bool) -> None:
        pumped = self._pumped
        if pumped is None:
            with self._reading:
                if self._pumped is None:
                    self._work.extend(self._sorted(self.channel.receive(block)))
                    return
                pumped = self._pumped
        if not block and pumped.empty():
            return
        got = pumped.get()
        if isinstance(got, TransportError):
            pumped.put(got)
            raise got
        self._work.extend(got)

    def _pump(self) -> None:
        assert self._pumped is not None
        try:
            while True:
                with self._reading:
                    work = self._sorted(self.channel.receive())
                if work:
                    self._pumped.put(work)
        except TransportError as error:
            self._pumped.put(error)
            self.on_broken(error)

    def _sorted(self, messages: list[ToWorker]) -> list[ToWorker]:
        work: list[ToWorker] = []
        for message in messages:
            if isinstance(message, Reply):
                self.on_reply(message)
            else:
                work.append(message)
        return work


class Outbox:
    """Messages of the working thread, sent in bundles.

    The first message after a pause leaves at once; those that follow within `_BUNDLE_SECONDS` wait
    for each other, and for the worker to run out of work. A thread sees to it that none of them
    waits for a batch that takes long: a result that is not sent is lost when the worker dies.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._messages: list[FromWorker] = []
        self._sent = 0.0
        self._lock = threading.Lock()
        self._overdue = threading.Event()
        self._watched = False

    def add(self, message: FromWorker) -> None:
        """Queue a message, and send all if the last bundle left long enough ago.

        Raises:
            TransportError: The supervisor is gone.
        """
        with self._lock:
            self._messages.append(message)
            if time.monotonic() - self._sent > _BUNDLE_SECONDS:
                self._flush()
            elif len(self._messages) == 1:
                self._watch()

    def flush(self) -> None:
        """Send everything that is queued.

        Raises:
            TransportError: The supervisor is gone.
        """
        with self._lock:
            if self._messages:
                self._flush()

    def _flush(self) -> None:
        messages, self._messages = self._messages, []
        self._channel.send(*messages)
        self._sent = time.monotonic()

    def _watch(self) -> None:
        if not self._watched:
            self._watched = True
            threading.Thread(target=self._see_to_it, name="asyncdistil-outbox", daemon=True).start()
        self._overdue.set()

    def _see_to_it(self) -> None:
        with suppress(TransportError):  # the working thread meets it too, and ends the process
            while self._overdue.wait():
                self._overdue.clear()
                time.sleep(2 * _BUNDLE_SECONDS)
                self.flush()


def await_finish(mailbox: Mailbox) -> None:
    """Stay until we are told to go: an exit now would be taken for a death."""
    while not isinstance(mailbox.next(lambda: None), Finish):
        pass
