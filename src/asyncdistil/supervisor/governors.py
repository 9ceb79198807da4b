"""Rate limits shared by every worker of a run that talks to the same service.

The supervisor knows a governor only as an opaque name and a pool of permits; which service stands
behind it, and what a permit is spent on, is the workers' business.
"""

from __future__ import annotations

from asyncdistil.supervisor.commands import WorkerId
from asyncdistil.transport.brokers import RateLimits
from asyncdistil.transport.messages import Granted, PermitRequest
from asyncdistil.transport.permits import START, Pool

_CLOSED_WAIT_SECONDS = 1.0


class Governors:
    """The pools of a run, made when first asked for."""

    def __init__(self) -> None:
        self._pools: dict[str, Pool] = {}
        self._asked: dict[WorkerId, set[str]] = {}
        self._denied: dict[WorkerId, int] = {}
        self._closed = ""
        self._winding_down = False

    def close(self, reason: str) -> None:
        """Grant nothing more: what is in flight may end, nothing new is sent."""
        self._closed = reason

    def wind_down(self) -> None:
        """Grant nothing more for services that fail: the run does not wait for them to return."""
        self._winding_down = True

    def waits_in_vain(self, worker: WorkerId) -> bool:
        """Whether a worker waits for what won't come, while no request of its is under way.

        A service that it asks fails; or permits were refused to it for long enough that it has
        reported every row that was answered before.
        """
        pools = [self._pools[governor] for governor in self._asked.get(worker, ())]
        if any(pool.held.get(worker) for pool in pools):
            return False
        return self._denied.get(worker, 0) > 1 or any(pool.failing for pool in pools)

    def answer(self, worker: WorkerId, request: PermitRequest, now_seconds: float) -> Granted:
        """Take a report and answer the question in it."""
        pool = self._pools.get(request.governor)
        if pool is None:
            # The first who asks decides: steps that share a service share its limits. A number of
            # requests that somebody declared is believed until the service objects.
            limits = RateLimits(*request.limits)
            start = float(limits.concurrent or START)
            pool = self._pools[request.governor] = Pool(limits, limit=start)
        self._asked.setdefault(worker, set()).add(request.governor)
        granted = pool.on(request, now_seconds, holder=worker)
        closed = self._closed
        if self._winding_down and pool.failing:
            closed = closed or "the run ends, and the service keeps failing"
        if closed and granted.permits:
            pool.on(_returned(request.governor, granted.permits), now_seconds, holder=worker)
            # Counted from its last answer on, so that the second is a wait later.
            idle = not pool.held.get(worker)
            self._denied[worker] = self._denied.get(worker, 0) + 1 if idle else 0
            return Granted(request.governor, 0, _CLOSED_WAIT_SECONDS, closed)
        return granted

    def forget(self, worker: WorkerId) -> None:
        """Take back what a dead worker held."""
        self._asked.pop(worker, None)
        self._denied.pop(worker, None)
        for pool in self._pools.values():
            pool.forget(worker)


def _returned(governor: str, permits: int) -> PermitRequest:
    return PermitRequest(governor, wanted=0, returned=permits)
