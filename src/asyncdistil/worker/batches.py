"""Run a step a batch at a time, on the thread that also reads the socket."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from asyncdistil.batch import FRESH_ORIGINS, Row
from asyncdistil.codec import EncodedRows, encode_rows
from asyncdistil.transport.brokers import LEDGER, Ledger
from asyncdistil.transport.messages import Failed, Finish, Lease, Survived
from asyncdistil.worker.bench import Bench
from asyncdistil.worker.isolate import Call, Trouble, attempt, culprits, divide
from asyncdistil.worker.memory import refuse_what_does_not_fit
from asyncdistil.worker.outcome import Outcome, missing_column, of_batch

if TYPE_CHECKING:
    from asyncdistil.steps import Entry, FailedRow

_NOTHING: tuple[list[Row], EncodedRows] = ([], EncodedRows(b"", [0], b""))


class BatchExecutor:
    """Works on one lease after the other."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._kind = bench.step.kind()
        self._encoded = _NOTHING  # the last checked output, so that it is encoded once

    def serve(self) -> None:
        """Work until `Finish`."""
        bench = self._bench
        mailbox, outbox = bench.mailbox, bench.outbox
        while True:
            message = mailbox.next(outbox.flush)
            if isinstance(message, Lease):
                ledger = Ledger(message.id)
                LEDGER.set(ledger)
                outbox.add(self.work(message, ledger))
            elif isinstance(message, Finish):
                outbox.flush()
                return

    def work(self, lease: Lease, ledger: Ledger) -> Any:
        """Do what a lease asks and return the message that settles it."""
        if lease.probe:
            return self._probe(lease)
        if self._kind == "row":
            return self._row_wise(lease, ledger)
        if self._kind == "global":
            return self._global(lease, ledger)
        return self._batch_wise(lease, ledger)

    # --- row-wise -----------------------------------------------------------------------------

    def _row_wise(self, lease: Lease, ledger: Ledger) -> Any:
        started = perf_counter()
        entries = self._entries(lease)
        return self._bench.record_entries(lease, 0, entries, ledger, perf_counter() - started)

    def _entries(self, lease: Lease) -> list[Entry]:
        """One entry per input row; rows that make the step raise are found and fail alone."""
        bench = self._bench
        if not lease.condemned:
            ports = bench.ports(lease)
            positions: Sequence[int] = range(len(ports[0]))
            made = attempt(lambda _all: self._apply(ports), positions) if positions else []
            if isinstance(made, list):
                return made
        else:
            positions = self._spared(lease)
            made = attempt(self._call(lease), positions) if positions else []
        given: dict[int, Entry] = {**bench.condemned(lease)}
        if isinstance(made, list):
            given.update(zip(positions, made, strict=True))
        else:
            for part, result in divide(self._call(lease), positions, made):
                if isinstance(result, Trouble):
                    failed = bench.failed_by(lease, part[0], result.error, result.tries)
                    given[part[0]] = failed
                else:
                    given.update(zip(part, result, strict=True))
        return [given[position] for position in range(len(given))]

    # --- batch-wise ---------------------------------------------------------------------------

    def _batch_wise(self, lease: Lease, ledger: Ledger) -> Any:
        bench = self._bench
        started = perf_counter()
        failed: dict[int, FailedRow] = bench.condemned(lease)
        positions = self._spared(lease)
        call = self._call_checked(lease)
        made = attempt(call, positions) if positions else []
        if isinstance(made, Trouble):
            made = self._without_culprits(lease, call, positions, made, failed)
        count = len(positions) + len(lease.condemned)
        outcome = of_batch(made, count, failed)
        encoded = self._encode(outcome.rows)
        seconds = perf_counter() - started
        return bench.record(lease, 0, count, outcome, encoded, ledger, seconds)

    def _without_culprits(
        self,
        lease: Lease,
        call: Call,
        positions: Sequence[int],
        trouble: Trouble,
        failed: dict[int, FailedRow],
    ) -> list[Row]:
        """Call the step once more without the rows that fail alone; notes those in ``failed``."""
        bench = self._bench
        found = culprits(call, positions, trouble) if len(positions) > 1 else {}
        rest = [position for position in positions if position not in found]
        made: list[Row] | Trouble = trouble
        if found:
            tries = max(each.tries for each in found.values()) + 1
            made = attempt(call, rest, tries) if rest else []
        for position, each in found.items():
            failed[position] = bench.failed_by(lease, position, each.error, each.tries)
        if isinstance(made, Trouble):
            for position in rest:
                failed[position] = bench.failed_by(lease, position, made.error, made.tries)
            return []
        return made

    # --- global -------------------------------------------------------------------------------

    def _global(self, lease: Lease, ledger: Ledger) -> Any:
        bench = self._bench
        refuse_what_does_not_fit(lease, bench.step.resources.memory, bench.name)
        started = perf_counter()
        # Decoded inside the call, so that memory that runs out fails the step, not the worker.
        call = self._call_checked(lease)
        count = sum(piece.rows for piece in lease.ports[0]) if lease.ports else 0
        by_row = bench.step.row_wise  # a task whose model answers in batches of its own
        made = attempt(self._call(lease) if by_row else call, range(count))
        if isinstance(made, Trouble):
            return Failed(lease.id, bench.scrubber.describe(made.error, attempts=lease.attempt))
        if by_row:
            seconds = perf_counter() - started
            return bench.record_entries(lease, 0, made, ledger, seconds, origins=FRESH_ORIGINS)
        outcome = Outcome(made, FRESH_ORIGINS)
        encoded = self._encode(made)
        seconds = perf_counter() - started
        return bench.record(lease, 0, count, outcome, encoded, ledger, seconds)

    # --- calling ------------------------------------------------------------------------------

    def _probe(self, lease: Lease) -> Survived:
        positions = self._spared(lease)
        made = attempt(self._call(lease), positions) if positions else []
        if isinstance(made, Trouble):
            failure = self._bench.scrubber.describe(made.error, attempts=lease.attempt)
            return Survived(lease.id, failure)
        return Survived(lease.id)

    def _spared(self, lease: Lease) -> Sequence[int]:
        count = sum(piece.rows for piece in lease.ports[0])
        if not lease.condemned:
            return range(count)
        condemned = {position for position, _ in lease.condemned}
        return [position for position in range(count) if position not in condemned]

    def _apply(self, ports: list[list[Row]]) -> list[Any]:
        made: list[Any] = []
        for entries in self._bench.caller.apply(*ports):
            made += entries
        return made

    def _call(self, lease: Lease) -> Call:
        """A call on chosen rows, each time decoded anew: the step may have changed them."""
        return lambda positions: self._apply(self._bench.ports(lease, positions))

    def _call_checked(self, lease: Lease) -> Call:
        """As `_call`; also fails if a declared column is missing or a row can't be encoded."""
        bench = self._bench

        def call(positions: Sequence[int]) -> list[Row]:
            rows = self._apply(bench.ports(lease, positions))
            column = missing_column(rows, bench.required)
            if column is not None:
                raise bench.lacks(column)
            self._encoded = rows, encode_rows(rows, step=bench.name)
            return rows

        return call

    def _encode(self, rows: list[Row]) -> EncodedRows:
        made, encoded = self._encoded
        self._encoded = _NOTHING
        return encoded if made is rows else encode_rows(rows, step=self._bench.name)
