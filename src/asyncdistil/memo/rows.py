"""Results of row-wise steps, found by the content of the columns that they read.

The step sees those columns only: so its result can't hang on another one, and can be put onto any
row that agrees in them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final, TypeAlias

from asyncdistil.batch import Digest, Row
from asyncdistil.codec import decode_value, encode_value
from asyncdistil.errors import FormatError, UnencodableValue
from asyncdistil.memo.key import Key
from asyncdistil.memo.memo import Memo

_log = logging.getLogger("asyncdistil.memo")

Made: TypeAlias = "Row | list[Row] | None"
"""What a step made of a row: a row, several, or nothing (filtered)."""


class _Unknown:
    """Nothing is stored; ``None`` is a result."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = _Unknown()


class RowMemo:
    """Results of one step."""

    def __init__(
        self,
        memo: Memo,
        *,
        step: str,
        signature: Digest,
        columns: Iterable[str],
        keeps_rest: bool = True,
        own_run: bool = False,
    ) -> None:
        """Look at a memo.

        Args:
            memo: Where results lie.
            step: Readable name of the step's class.
            signature: Everything of the step itself that can change its results.
            columns: Columns that it reads, named as in the rows given here.
            keeps_rest: Whether the other columns of a row survive the step.
            own_run: Read only what this run wrote.
        """
        self._memo = memo
        self._step = f"step {step}"
        self._signature = signature
        self._columns = tuple(dict.fromkeys(columns))
        self._keeps_rest = keeps_rest
        self._own_run = own_run

    def read_part(self, row: Row) -> Row:
        """The columns of a row that the step may see."""
        return {column: row[column] for column in self._columns if column in row}

    def key(self, part: Row) -> Key | None:
        """Name what the step would be given; ``None`` if it can't be named."""
        # Not canonical bytes: they forget the order of a dict, which a step may print.
        try:
            preimage = encode_value(["asyncdistil/row/2", self._signature, part])
        except UnencodableValue:
            return None
        return Key.of(preimage, model=self._step)

    def get(self, key: Key) -> Made | _Unknown:
        """What the step made of it, or `UNKNOWN`."""
        body = self._memo.get(key, own_run=self._own_run)
        if body is None:
            return UNKNOWN
        try:
            made: Made = decode_value(body)
        except FormatError as error:
            _log.warning("a stored row of %s can't be read (%s): made anew", self._step, error)
            return UNKNOWN
        return made

    def put(self, key: Key, made: Made) -> bool:
        """Store a result; ``False`` if the codec does not cover it.

        Raises:
            StorageError: The disk refused.
        """
        try:
            body = encode_value(made)
        except UnencodableValue:
            return False
        self._memo.put(key, 0, body)
        return True

    def complete(self, row: Row, made: Made) -> Made:
        """Put a result onto the row that it belongs to: the columns that the step did not see."""
        if made is None or not self._keeps_rest:
            return made
        if isinstance(made, list):
            return [self._complete(row, each) for each in made]
        return self._complete(row, made)

    def _complete(self, row: Row, made: Row) -> Row:
        seen = self._columns
        kept = {c: made.get(c, v) for c, v in row.items() if c not in seen or c in made}
        return kept | made
