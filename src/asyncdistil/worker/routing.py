"""The router role: which successors get a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncdistil.batch import StepName
from asyncdistil.transport.messages import Failed, Finish, Lease, Routed
from asyncdistil.worker.bench import Bench
from asyncdistil.worker.isolate import Trouble, attempt

if TYPE_CHECKING:
    from asyncdistil.steps import RoutingBatchFunction


class RouterExecutor:
    """Answers one lease after the other.

    The payload of a router is a pair: the `RoutingBatchFunction`, and the names of the successors
    in the order in which they were connected.
    """

    def __init__(self, bench: Bench, made: tuple[RoutingBatchFunction, tuple[str, ...]]) -> None:
        self._bench = bench
        self._function, self._successors = made

    def serve(self) -> None:
        """Work until `Finish`."""
        bench = self._bench
        while True:
            message = bench.mailbox.next(bench.outbox.flush)
            if isinstance(message, Lease):
                bench.outbox.add(self.work(message))
            elif isinstance(message, Finish):
                bench.outbox.flush()
                return

    def work(self, lease: Lease) -> Routed | Failed:
        """Decide for one routing batch."""
        bench = self._bench
        (slices,) = lease.ports
        digest = bench.reader.digest(slices)

        def choose(_positions: Any) -> list[str]:
            rows = bench.rows(slices) if self._function.takes_rows else ()
            return self._function.choose(self._successors, rows, digest)

        chosen = attempt(choose, ())
        if isinstance(chosen, Trouble):
            failure = bench.scrubber.describe(chosen.error, attempts=lease.attempt)
            return Failed(lease.id, failure)
        return Routed(lease.id, tuple(map(StepName, chosen)), digest)
