"""Typed pools: what the memo stores as bytes, as the struct that it is."""

from __future__ import annotations

import logging
from typing import Generic, TypeVar

import msgspec

from asyncdistil.memo.key import Key
from asyncdistil.memo.memo import Memo

_log = logging.getLogger("asyncdistil.memo")

T = TypeVar("T", bound=msgspec.Struct)


class Replies(Generic[T]):
    """Pools of one kind of struct: whatever came back, refused and failed replies included."""

    def __init__(self, memo: Memo, kind: type[T], *, own_run: bool = False) -> None:
        """Look at a memo.

        Args:
            memo: Where they lie.
            kind: Class of the struct.
            own_run: Read only what this run wrote, as a run without cache does: what it paid for
                itself before its worker died is not paid for again.
        """
        self.memo = memo
        self._own_run = own_run
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(kind).decode

    def get(self, key: Key, sample: int) -> T | None:
        """The newest reply stored as this sample, or ``None``."""
        body = self.memo.get(key, sample, own_run=self._own_run)
        if body is None:
            return None
        try:
            return self._decode(body)
        except msgspec.DecodeError as error:
            _log.warning("a stored reply of %s has another form (%s): asked anew", key.model, error)
            return None

    def put(self, key: Key, sample: int, reply: T) -> None:
        """Store a reply in the place of an earlier one.

        Raises:
            StorageError: The disk refused.
        """
        self.memo.put(key, sample, self._encode(reply))

    def samples(self, key: Key) -> int:
        """How many samples are stored under a key."""
        return self.memo.samples(key)
