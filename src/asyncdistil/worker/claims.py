"""Ask the supervisor for sample numbers and permits, from any thread and any event loop.

Implements the protocols of `asyncdistil.transport.brokers` over the worker's socket. Rows on the
loop that reads the socket take a shorter way: they wait on futures of that loop, and what they ask
for within one turn of it travels together. With 256 requests in flight this halves what a request
costs the worker besides HTTP.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from asyncdistil.errors import ModelRateLimited, TransportError
from asyncdistil.transport.brokers import UNLIMITED, Observation, RateLimits
from asyncdistil.transport.messages import Claim, Claimed, Granted, PermitRequest
from asyncdistil.worker.mailbox import Mailbox, Reply

if TYPE_CHECKING:
    from asyncio import Future as LoopFuture

Samples = tuple[tuple[int, ...], ...]
Permit: TypeAlias = "Future[None] | LoopFuture[None]"

GIVE_UP = "give-up"
"""`Granted.reason` by which the supervisor says that waiting is pointless."""


class _Alone:
    """A claim that one thread waits for."""

    def __init__(self) -> None:
        self.future: Future[Samples] = Future()

    def settle(self, samples: Samples) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(samples)

    def fail(self, error: TransportError) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class _Together:
    """Claims of one lease that were made within one turn of the loop."""

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self.counts: list[int] = []
        self._waiting: list[tuple[LoopFuture[Samples], int]] = []

    def add(
        self, keys: Sequence[bytes], counts: Sequence[int], future: LoopFuture[Samples]
    ) -> None:
        self.keys += keys
        self.counts += counts
        self._waiting.append((future, len(keys)))

    def settle(self, samples: Samples) -> None:
        start = 0
        for future, count in self._waiting:
            if not future.done():
                future.set_result(samples[start : start + count])
            start += count

    def fail(self, error: TransportError) -> None:
        for future, _ in self._waiting:
            if not future.done():
                future.set_exception(error)


class SocketClaims:
    """A `ClaimBroker` over the socket."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._numbers = itertools.count(1)
        self._open: dict[int, _Alone | _Together] = {}
        self._gathering: dict[int, _Together] = {}  # by lease

    def claim(self, keys: Sequence[bytes], counts: Sequence[int], *, lease: int) -> Samples:
        """See `ClaimBroker.claim`."""
        return self._ask(keys, counts, lease).result()

    async def aclaim(self, keys: Sequence[bytes], counts: Sequence[int], *, lease: int) -> Samples:
        """See `ClaimBroker.aclaim`."""
        loop = self._mailbox.loop_here()
        if loop is None:
            from asyncio import wrap_future

            return await wrap_future(self._ask(keys, counts, lease))
        if not self._gathering:
            loop.call_soon(self._ask_together)
        future: LoopFuture[Samples] = loop.create_future()
        self._gathering.setdefault(lease, _Together()).add(keys, counts, future)
        return await future

    def settle(self, reply: Claimed) -> None:
        """Pass an answer on to whoever asked."""
        claim = self._open.pop(reply.claim, None)
        if claim is not None:
            claim.settle(reply.samples)

    def fail(self, error: TransportError) -> None:
        """Tell everyone who waits that no answer will come."""
        for number in [*self._open]:
            claim = self._open.pop(number, None)
            if claim is not None:
                claim.fail(error)

    def _ask(self, keys: Sequence[bytes], counts: Sequence[int], lease: int) -> Future[Samples]:
        self._mailbox.expect_replies()
        number = next(self._numbers)
        claim = self._open[number] = _Alone()
        self._mailbox.post(Claim(number, lease, tuple(keys), tuple(counts)))
        return claim.future

    def _ask_together(self) -> None:
        gathered, self._gathering = self._gathering, {}
        for lease, claim in gathered.items():
            number = next(self._numbers)
            self._open[number] = claim
            self._mailbox.post(Claim(number, lease, tuple(claim.keys), tuple(claim.counts)))


@dataclass(slots=True)
class _Governor:
    """What this worker knows of one permit pool."""

    limits: RateLimits
    waiting: deque[Permit] = field(default_factory=deque)
    asked: bool = False
    due: bool = False  # a request is composed at the end of this turn of the loop
    timed: bool = False
    paused_until: float = 0.0
    # Seen since the last report:
    returned: int = 0
    succeeded: int = 0
    throttled: int = 0
    failed: int = 0
    retry_after_seconds: float = 0.0
    latency_seconds: float = 0.0
    tokens: int = 0

    def has_news(self) -> bool:
        return bool(self.returned or self.throttled or self.failed)


class SocketPermits:
    """A `PermitBroker` over the socket.

    At most one `PermitRequest` per governor is under way. What happens meanwhile goes into the
    next one, so the busier the worker, the more each message carries.
    """

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._governors: dict[str, _Governor] = {}
        self._lock = threading.Lock()
        self._broken: TransportError | None = None

    async def acquire(self, governor: str, limits: RateLimits = UNLIMITED) -> None:
        """See `PermitBroker.acquire`.

        Raises:
            ModelRateLimited: The supervisor says that waiting is pointless.
        """
        from asyncio import CancelledError, wrap_future

        loop = self._mailbox.loop_here()
        permit: Permit = Future() if loop is None else loop.create_future()
        self._enqueue(governor, limits, permit)
        try:
            await (wrap_future(permit) if isinstance(permit, Future) else permit)
        except CancelledError:
            if not permit.cancel() and not permit.cancelled():
                # Granted in the very moment in which we stopped waiting for it.
                permit.add_done_callback(lambda granted: self._forgo(governor, granted))
            raise

    def acquire_blocking(self, governor: str, limits: RateLimits = UNLIMITED) -> None:
        """See `PermitBroker.acquire_blocking`."""
        permit: Future[None] = Future()
        self._enqueue(governor, limits, permit)
        permit.result()

    def release(self, governor: str, observation: Observation) -> None:
        """See `PermitBroker.release`."""
        with self._lock:
            pool = self._governors[governor]
            pool.returned += 1
            pool.tokens += observation.tokens
            match observation.outcome:
                case "ok":
                    # A running mean, because one report may stand for many requests.
                    pool.succeeded += 1
                    pool.latency_seconds += (
                        observation.latency_seconds - pool.latency_seconds
                    ) / pool.succeeded
                case "throttled":
                    pool.throttled += 1
                    pool.retry_after_seconds = max(
                        pool.retry_after_seconds, observation.retry_after_seconds
                    )
                case "failed":
                    pool.failed += 1
            request = self._due_request(governor, pool)
        self._send(request)

    def settle(self, reply: Granted) -> None:
        """Hand granted permits out, give surplus ones back, plan the next question."""
        served: list[Permit] = []
        hopeless: list[Permit] = []
        with self._lock:
            pool = self._governors.get(reply.governor)
            if pool is None:
                return
            pool.asked = False
            while len(served) < reply.permits and pool.waiting:
                permit = pool.waiting.popleft()
                if _still_wanted(permit):
                    served.append(permit)
            pool.returned += reply.permits - len(served)
            if reply.reason.startswith(GIVE_UP):
                hopeless, pool.waiting = [*pool.waiting], deque()
            pool.paused_until = time.monotonic() + reply.wait_seconds
            wait = reply.wait_seconds if pool.waiting and not pool.has_news() else 0.0
            request = None if wait else self._next_request(reply.governor, pool)
            # One timer at most, or every answer would begin a chain of questions of its own.
            start_timer = wait > 0 and not pool.timed
            pool.timed = pool.timed or start_timer
        # Outside of the lock, because whoever waits may act at once on this very thread.
        for permit in served:
            permit.set_result(None)
        if start_timer:
            self._start_timer(reply.governor, wait)
        self._send(request)
        for permit in hopeless:
            _refuse(permit, ModelRateLimited(reply.reason.partition(":")[2].strip()))

    def fail(self, error: TransportError) -> None:
        """Tell everyone who waits that no answer will come."""
        with self._lock:
            self._broken = error
            waiting = [permit for pool in self._governors.values() for permit in pool.waiting]
            for pool in self._governors.values():
                pool.waiting.clear()
        for permit in waiting:
            if isinstance(permit, Future):
                _refuse(permit, error)
            else:
                permit.get_loop().call_soon_threadsafe(_refuse, permit, error)

    def _enqueue(self, governor: str, limits: RateLimits, permit: Permit) -> None:
        self._mailbox.expect_replies()
        with self._lock:
            if self._broken is not None:
                raise self._broken
            pool = self._governors.setdefault(governor, _Governor(limits))
            pool.waiting.append(permit)
            early = time.monotonic() < pool.paused_until and len(pool.waiting) > 1
            request = None if early else self._due_request(governor, pool)
        self._send(request)

    def _start_timer(self, governor: str, seconds: float) -> None:
        loop = self._mailbox.loop_here()
        if loop is not None:
            loop.call_later(seconds, self._ask_again, governor)
            return
        timer = threading.Timer(seconds, self._ask_again, [governor])
        timer.daemon = True
        timer.start()

    def _forgo(self, governor: str, granted: Permit) -> None:
        if granted.exception() is None:
            self.release(governor, Observation("cancelled"))

    def _ask_again(self, governor: str) -> None:
        with self._lock:
            pool = self._governors[governor]
            left = pool.paused_until - time.monotonic()
            again = left > 0 and bool(pool.waiting) and not pool.asked
            pool.timed = again
            request = None if again else self._next_request(governor, pool)
        if again:
            self._start_timer(governor, left)
        try:
            self._send(request)
        except TransportError as error:
            self.fail(error)

    def _due_request(self, governor: str, pool: _Governor) -> PermitRequest | None:
        """The request that is due now; on the loop it is put off to the end of this turn."""
        loop = self._mailbox.loop_here()
        if loop is None:
            return self._next_request(governor, pool)
        if not pool.due:
            pool.due = True
            loop.call_soon(self._ask_what_is_due, governor)
        return None

    def _ask_what_is_due(self, governor: str) -> None:
        with self._lock:
            pool = self._governors[governor]
            pool.due = False
            request = self._next_request(governor, pool)
        self._send(request)

    def _next_request(self, governor: str, pool: _Governor) -> PermitRequest | None:
        """The report and question that is due, if none is under way; the lock is held."""
        while pool.waiting and pool.waiting[0].cancelled():
            pool.waiting.popleft()
        if pool.asked or not (pool.waiting or pool.has_news()):
            return None
        request = PermitRequest(
            governor,
            len(pool.waiting),
            pool.returned,
            pool.succeeded,
            pool.throttled,
            pool.failed,
            pool.retry_after_seconds,
            pool.latency_seconds,
            (*pool.limits,),
            pool.tokens,
        )
        pool.asked = True
        pool.returned = pool.succeeded = pool.throttled = pool.failed = pool.tokens = 0
        pool.retry_after_seconds = pool.latency_seconds = 0.0
        return request

    def _send(self, request: PermitRequest | None) -> None:
        if request is not None:
            self._mailbox.post(request)


def _still_wanted(permit: Permit) -> bool:
    """Whether somebody waits for it; from here on a thread's can't be cancelled any more."""
    if isinstance(permit, Future):
        return permit.set_running_or_notify_cancel()
    return not permit.done()


def _refuse(permit: Permit, error: Exception) -> None:
    if _still_wanted(permit):
        permit.set_exception(error)


def connect_brokers(mailbox: Mailbox) -> tuple[SocketClaims, SocketPermits]:
    """Make both brokers and let the mailbox pass replies on to them."""
    claims, permits = SocketClaims(mailbox), SocketPermits(mailbox)

    def settle(reply: Reply) -> None:
        if isinstance(reply, Claimed):
            claims.settle(reply)
        else:
            permits.settle(reply)

    def fail(error: TransportError) -> None:
        claims.fail(error)
        permits.fail(error)

    mailbox.on_reply = settle
    mailbox.on_broken = fail
    return claims, permits
