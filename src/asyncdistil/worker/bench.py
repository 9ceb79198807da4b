"""The workbench: what every executor of a step needs to read, record and report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from asyncdistil.batch import Digest, Failure, Origins, Row, RowSlice
from asyncdistil.codec import EncodedRows, encode_rows
from asyncdistil.errors import StepError, UnencodableValue
from asyncdistil.log import SegmentReader, SegmentWriter
from asyncdistil.transport.brokers import Ledger
from asyncdistil.transport.messages import Lease, Result
from asyncdistil.worker.mailbox import Mailbox, Outbox
from asyncdistil.worker.memo import MemoizedRows, MemoOfWorker
from asyncdistil.worker.outcome import (
    Outcome,
    cut,
    missing_column,
    of_entries,
    spans_of,
    with_short_details,
)
from asyncdistil.worker.scrub import Scrubber

if TYPE_CHECKING:
    from asyncdistil.memo import RowMemo
    from asyncdistil.steps import Entry, FailedRow, Step

_DETAIL_CHARS = 1024 * 1024
"""Details of the failures of one result, all together."""


class Bench:
    """One loaded step with its input, its segment and its way to the supervisor."""

    def __init__(
        self,
        step: Any,
        name: str,
        *,
        reader: SegmentReader,
        writer: SegmentWriter | None,
        mailbox: Mailbox,
        scrubber: Scrubber,
        memo: MemoOfWorker | None = None,
        rows: RowMemo | None = None,
    ) -> None:
        self.step: Step = step
        self.name = name
        self.reader = reader
        self.writer = writer
        self.mailbox = mailbox
        self.outbox = Outbox(mailbox.channel)
        self.scrubber = scrubber
        self.memo = memo
        self.caller: Step | MemoizedRows = MemoizedRows(step, rows) if rows else self.step
        self.required: tuple[str, ...] = ()
        if hasattr(step, "get_outputs"):
            declared = step.get_outputs()
            self.required = tuple(column for column, always in declared.items() if always)

    # --- reading ------------------------------------------------------------------------------

    def rows(self, slices: Sequence[RowSlice]) -> list[Row]:
        """Decode the rows of some slices, in order; nobody else holds these objects."""
        if len(slices) == 1:
            return self.reader.rows(slices[0])
        return [row for piece in slices for row in self.reader.rows(piece)]

    def ports(self, lease: Lease, positions: Sequence[int] | None = None) -> list[list[Row]]:
        """Decode the input of a lease, or only the rows at ``positions``."""
        if positions is None:
            return [self.rows(slices) for slices in lease.ports]
        # Only these rows: halving ten thousand must not decode all of them for every half.
        spans = spans_of(positions)
        return [
            [row for start, stop in spans for row in self.rows(cut(slices, start, stop))]
            for slices in lease.ports
        ]

    def input_row(self, lease: Lease, position: int) -> Row:
        """One input row as it was before the step saw it; ports joined, earlier ones win."""
        row: Row = {}
        for slices in lease.ports:
            for column, value in self.rows(cut(slices, position, position + 1))[0].items():
                row.setdefault(column, value)
        return row

    def digests(self, lease: Lease, start: int, stop: int) -> tuple[Digest, ...]:
        """Content digest per port of rows ``start`` to ``stop``."""
        return tuple(self.reader.digest(cut(slices, start, stop)) for slices in lease.ports)

    # --- failing ------------------------------------------------------------------------------

    def failed(self, lease: Lease, position: int, failure: Failure) -> FailedRow:
        """The null form of an input row, with the reason."""
        from asyncdistil.steps.rows import FailedRow

        return FailedRow(self.step.null_rows(self.input_row(lease, position)), failure)

    def failed_by(
        self, lease: Lease, position: int, error: BaseException, tries: int = 1
    ) -> FailedRow:
        """As `failed`, for an exception after so many tries within this lease."""
        attempts = lease.attempt - 1 + tries
        return self.failed(lease, position, self.scrubber.describe(error, attempts=attempts))

    def condemned(self, lease: Lease) -> dict[int, FailedRow]:
        """Null forms of the rows that must not be processed."""
        return {
            position: self.failed(lease, position, failure) for position, failure in lease.condemned
        }

    def lacks(self, column: str) -> StepError:
        """The error for a row without a declared column."""
        return StepError(
            f"step {self.name!r} declares the output column {column!r} and gave a row without it: "
            f"set it in every row, or declare it as optional: {{{column!r}: False}}"
        )

    # --- recording ----------------------------------------------------------------------------

    def record_entries(
        self,
        lease: Lease,
        start: int,
        entries: list[Entry],
        ledger: Ledger,
        seconds: float,
        *,
        origins: Origins | None = None,
    ) -> Result:
        """Append what became of the rows from ``start`` on and describe it.

        Rows that break the contract or can't be encoded fail alone.

        Args:
            lease: The work.
            start: First input row that the entries are for.
            entries: One per input row.
            ledger: What the work took.
            seconds: How long it took.
            origins: Where output rows come from, if the entries don't say it.
        """
        outcome = of_entries(entries)
        if missing_column(outcome.rows, self.required):
            entries = [self._complete(lease, start + n, e) for n, e in enumerate(entries)]
            outcome = of_entries(entries)
        try:
            encoded = encode_rows(outcome.rows, step=self.name)
        except UnencodableValue:
            entries = [self._encodable(lease, start + n, e) for n, e in enumerate(entries)]
            outcome = of_entries(entries)
            encoded = encode_rows(outcome.rows, step=self.name)
        if origins is not None:
            outcome = outcome._replace(origins=origins)
        return self.record(lease, start, start + len(entries), outcome, encoded, ledger, seconds)

    def record(
        self,
        lease: Lease,
        start: int,
        stop: int,
        outcome: Outcome,
        encoded: EncodedRows,
        ledger: Ledger,
        seconds: float,
    ) -> Result:
        """Append encoded rows and describe them."""
        assert self.writer is not None
        failures = outcome.failures
        if failures:
            failures = with_short_details(
                [
                    type(f)(f.input_row, f.output_row, self.scrubber.failure(f.failure))
                    for f in failures
                ],
                _DETAIL_CHARS,
            )
        whole = start == 0 and stop == sum(piece.rows for piece in lease.ports[0])
        return Result(
            lease.id,
            start,
            stop,
            self.writer.append(encoded),
            outcome.origins,
            failures,
            outcome.filtered,
            tuple(map(self.reader.digest, lease.ports))
            if whole
            else self.digests(lease, start, stop),
            seconds,
            ledger.usage,
            tuple(ledger.samples),
            ledger.wrote_memo,
            tuple(ledger.spare),
        )

    def _complete(self, lease: Lease, position: int, entry: Entry) -> Entry:
        rows = of_entries([entry]).rows
        column = missing_column(rows, self.required)
        if column is None:
            return entry
        if isinstance(entry, tuple):
            # The step's own null form; ours has every column.
            return self.failed(lease, position, entry.failure)
        return self.failed_by(lease, position, self.lacks(column))

    def _encodable(self, lease: Lease, position: int, entry: Entry) -> Entry:
        try:
            encode_rows(of_entries([entry]).rows, step=self.name)
        except UnencodableValue as error:
            return self.failed_by(lease, position, error)
        return entry
