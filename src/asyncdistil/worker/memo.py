"""What a worker does about the memo: open it once, tell of what must be synced, recall rows."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncdistil.batch import Row
from asyncdistil.transport import Channel
from asyncdistil.transport.brokers import LEDGER, Surroundings
from asyncdistil.transport.messages import Load, MemoUsed

if TYPE_CHECKING:
    from asyncdistil.memo import Memo, RowMemo
    from asyncdistil.steps import Entry, Step

_log = logging.getLogger("asyncdistil.worker")


class MemoOfWorker:
    """The memo as this process sees it; opened by whoever needs it first, if anybody does."""

    def __init__(self, load: Load, channel: Channel) -> None:
        self._load = load
        self._channel = channel
        self._memo: Memo | None = None
        self._opening = threading.Lock()

    def offered(self, around: Surroundings, *, use_cache: bool) -> Surroundings:
        """Surroundings by which a step finds the memo."""
        if not self._load.memo:
            return around
        return replace(around, memo_own_run=not use_cache, open_memo=self.open)

    def open(self) -> Memo:
        """The memo.

        Raises:
            StorageError: It can't be opened.
        """
        with self._opening:
            if self._memo is None:
                # Only workers that use it pay for the import.
                from asyncdistil.memo import Memo

                self._memo = Memo.open(
                    Path(self._load.memo), run=self._load.run, on_segment=self._tell
                )
            return self._memo

    def close(self) -> None:
        """Close the memo, if it was opened."""
        if self._memo is not None:
            self._memo.close()

    def rows_of(self, step: Step) -> RowMemo | None:
        """Where results of a memoized step lie; ``None``, with a warning, if they can't be kept."""
        inputs = step.get_inputs()
        reason = ""
        if not inputs:
            reason = "it declares no input columns to find them by"
        elif foreign := set(step.dropped_columns) - {*step.inputs}:
            reason = f"it drops {sorted(foreign)}, which it does not declare as inputs"
        elif reasons := step.identity().uncacheable:
            reason = "; ".join(reasons)
        if reason:
            _log.warning("results of step %r are not memoized: %s", self._load.step, reason)
            return None
        from asyncdistil.memo import RowMemo
        from asyncdistil.steps.metadata import METADATA_COLUMN

        return RowMemo(
            self.open(),
            step=type(step).__qualname__,
            signature=step.identity().digest,
            # Tasks add to the metadata that earlier tasks left, without declaring the column.
            columns=[*inputs, METADATA_COLUMN],
            keeps_rest=not step.drops_rest,
            own_run=not step.use_cache,
        )

    def _tell(self, segment: int) -> None:
        self._channel.send(MemoUsed(segment))


class MemoizedRows:
    """Calls a row-wise step only for rows whose result is not known."""

    def __init__(self, step: Step, memo: RowMemo) -> None:
        self._step = step
        self._memo = memo

    def apply(self, *ports: list[Row]) -> Iterator[list[Any]]:
        """As `Step.apply`."""
        from asyncdistil.memo import UNKNOWN

        if len(ports) != 1:
            yield from self._step.apply(*ports)
            return
        (rows,) = ports
        memo = self._memo
        parts = [memo.read_part(row) for row in rows]
        keys = [memo.key(part) for part in parts]
        known: list[Any] = [UNKNOWN if key is None else memo.get(key) for key in keys]
        missing = [position for position, made in enumerate(known) if made is UNKNOWN]
        if missing:
            made: list[Entry] = []
            for entries in self._step.apply([parts[position] for position in missing]):
                made += entries
            for position, entry in zip(missing, made, strict=True):
                known[position] = entry
                self._keep(keys[position], entry)
        yield [self._complete(row, made) for row, made in zip(rows, known, strict=True)]

    async def aapply(self, row: Row) -> Entry:
        """As `Step.aapply`."""
        from asyncdistil.memo import UNKNOWN

        part = self._memo.read_part(row)
        key = self._memo.key(part)
        made: Any = UNKNOWN if key is None else self._memo.get(key)
        if made is UNKNOWN:
            made = await self._step.aapply(part)
            self._keep(key, made)
        return self._complete(row, made)

    def _keep(self, key: Any, entry: Any) -> None:
        # A failed row is tried again next time.
        from asyncdistil.steps.rows import has_failed

        if key is None or has_failed(entry):
            return
        if self._memo.put(key, entry):
            ledger = LEDGER.get()
            if ledger is not None:
                ledger.wrote_memo = True

    def _complete(self, row: Row, entry: Any) -> Entry:
        from asyncdistil.steps.rows import FailedRow, has_failed

        if isinstance(entry, FailedRow):
            return FailedRow({**row, **entry.row}, entry.failure)
        if isinstance(entry, list) and has_failed(entry):
            several: list[Any] = [self._complete(row, each) for each in entry]
            return several
        completed: Entry = self._memo.complete(row, entry)
        return completed
