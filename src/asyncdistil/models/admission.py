"""Permits to send a request: from the supervisor inside a worker, from a local pool elsewhere.

The pool decides (how many at once, how long everyone waits after a 429); this module only queues
whoever asks and wakes them in order.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict, deque
from concurrent.futures import Future

from asyncdistil.clock import Clock, SystemClock
from asyncdistil.models import loop
from asyncdistil.transport import brokers
from asyncdistil.transport.brokers import Observation, PermitBroker, RateLimits
from asyncdistil.transport.messages import Granted, PermitRequest
from asyncdistil.transport.permits import START, Pool

NO_LIMITS = RateLimits()
_SMOOTHING = 0.08
_LEAST_WAIT_SECONDS = 0.01  # before a pool that granted nothing is asked again


class _Queue:
    """One governor: its pool and who waits for it."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.waiting: deque[Future[None]] = deque()
        self.out = 0  # permits in use
        self.asking_again = False
        self.latency_seconds = 0.0  # moving average over about a dozen answers

    def smoothed(self, seen: Observation) -> Observation:
        """An observation whose latency is the average of late: one long answer says nothing."""
        if seen.outcome != "ok":
            return seen
        if not self.latency_seconds:
            self.latency_seconds = seen.latency_seconds
        self.latency_seconds += _SMOOTHING * (seen.latency_seconds - self.latency_seconds)
        return seen._replace(latency_seconds=self.latency_seconds)


class LocalPermits:
    """A `PermitBroker` for one process without a supervisor; callable from any thread."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._queues: dict[str, _Queue] = {}
        self._lock = threading.Lock()

    async def acquire(self, governor: str, limits: RateLimits = NO_LIMITS) -> None:
        """Wait for the right to send one request."""
        waiter = self._enqueue(governor, limits)
        if waiter.done():
            return
        try:
            await asyncio.wrap_future(waiter)
        except asyncio.CancelledError:
            if not waiter.cancel() and not waiter.cancelled():
                # It was granted in the same moment: nobody else would ever give it back.
                self.release(governor, Observation("cancelled"))
            raise

    def acquire_blocking(self, governor: str, limits: RateLimits = NO_LIMITS) -> None:
        """As `acquire`, for code on a thread without a loop."""
        self._enqueue(governor, limits).result()

    def release(self, governor: str, observation: Observation) -> None:
        """Give a permit back with what was seen."""
        with self._lock:
            queue = self._queues[governor]
            queue.out -= 1
            granted = self._pump(governor, queue, queue.smoothed(observation))
        _wake(granted)

    def _enqueue(self, governor: str, limits: RateLimits) -> Future[None]:
        waiter: Future[None] = Future()
        with self._lock:
            queue = self._queues.get(governor)
            if queue is None:
                # Outside a worker nobody else asks this service: what the user declared is tried
                # at once, and lowered if the service objects.
                start = limits.concurrent or START
                queue = self._queues[governor] = _Queue(Pool(limits, float(start)))
            queue.waiting.append(waiter)
            granted = self._pump(governor, queue)
        _wake(granted)
        return waiter

    def _pump(
        self, governor: str, queue: _Queue, seen: Observation | None = None
    ) -> list[Future[None]]:
        """Tell the pool what was seen, and take who may go now off the queue."""
        while queue.waiting and queue.waiting[0].cancelled():
            queue.waiting.popleft()
        request = _request(governor, len(queue.waiting), seen)
        answer = queue.pool.on(request, self._clock.monotonic())
        return self._take(governor, queue, answer)

    def _take(self, governor: str, queue: _Queue, answer: Granted) -> list[Future[None]]:
        granted: list[Future[None]] = []
        while queue.waiting and len(granted) < answer.permits:
            waiter = queue.waiting.popleft()
            # From here on it can't be cancelled unnoticed.
            if waiter.set_running_or_notify_cancel():
                granted.append(waiter)
        queue.out += len(granted)
        for _ in range(answer.permits - len(granted)):
            queue.pool.on(_request(governor, 0, Observation("cancelled")), self._clock.monotonic())
        if queue.waiting and not queue.asking_again and (answer.wait_seconds > 0 or not queue.out):
            # Nobody's release may come to ask again.
            queue.asking_again = True
            timers = loop.background_loop()
            wait = max(answer.wait_seconds, _LEAST_WAIT_SECONDS)
            timers.call_soon_threadsafe(timers.call_later, wait, self._ask_again, governor)
        return granted

    def _ask_again(self, governor: str) -> None:
        with self._lock:
            queue = self._queues[governor]
            queue.asking_again = False
            granted = self._pump(governor, queue)
        _wake(granted)


def _request(governor: str, wanted: int, seen: Observation | None) -> PermitRequest:
    if seen is None:
        return PermitRequest(governor, wanted)
    return PermitRequest(
        governor,
        wanted,
        returned=1,
        succeeded=int(seen.outcome == "ok"),
        throttled=int(seen.outcome == "throttled"),
        failed=int(seen.outcome == "failed"),
        retry_after_seconds=seen.retry_after_seconds,
        latency_seconds=seen.latency_seconds if seen.outcome == "ok" else 0.0,
        tokens=seen.tokens,
    )


def _wake(granted: list[Future[None]]) -> None:
    # Outside the lock: the callbacks of a future run on this thread.
    for waiter in granted:
        waiter.set_result(None)


_queues_by_need: defaultdict[None, LocalPermits] = defaultdict(LocalPermits)


def permits() -> PermitBroker:
    """Whom to ask for a permit here and now."""
    around = brokers.current()
    return around.permits if around is not None else _queues_by_need[None]
