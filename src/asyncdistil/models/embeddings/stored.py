"""Vectors that were computed once: looked up by text and model before anybody is asked."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from asyncdistil.batch import Usage
from asyncdistil.memo import Key
from asyncdistil.models.memoized import (
    Memoized,
    NotStored,
    book,
    book_cached,
    current_store,
    request_key,
)
from asyncdistil.models.reply import Reply

Vector = list[float]

_FLOATS, _DOUBLES, _OTHER = b"f", b"d", b"m"


def pack(vector: Sequence[float]) -> bytes:
    """A vector as bytes, exactly: 4 a number where that loses nothing, else 8.

    Whole numbers, as quantised models give them, stay whole numbers.
    """
    values = list(vector)
    if all(type(value) is float for value in values):
        try:
            short = array("f", values)
        except OverflowError:
            short = array("f")
        if short.tolist() == values:
            return _FLOATS + short.tobytes()
        return _DOUBLES + array("d", values).tobytes()
    return _OTHER + msgspec.msgpack.encode(values)


def unpack(data: bytes) -> Vector:
    """What `pack` packed."""
    kind, body = data[:1], data[1:]
    if kind == _OTHER:
        return msgspec.msgpack.decode(body, type=list[Any])
    values = array(kind.decode())
    values.frombytes(body)
    numbers: Any = values.tolist()
    return list(numbers)


class Lookup:
    """Texts whose vectors are wanted, and the vectors as far as they are known.

    Equal texts are asked for once: an embedding model does not sample.

    Attributes:
        missing: Texts without a vector, each once, in order.
    """

    def __init__(
        self, texts: Sequence[str], identity: Mapping[str, Any], *, model: str, memoized: Memoized
    ) -> None:
        """Look all texts up in the memo.

        Args:
            texts: In the order of the vectors wanted.
            identity: All that can change a vector, besides the text; no secrets.
            model: Readable name, for reports.
            memoized: Knows whether a stand-in answers, whose vectors lie apart.
        """
        self._texts = texts
        self._store = current_store()
        self._memoized = memoized
        self._keys: dict[str, Key] = {}
        self._vectors: dict[str, Vector] = {}
        if self._store is not None:
            self._keys = {
                text: request_key(identity, {"text": text}, model=model) for text in set(texts)
            }
            found = {text: self._get(key) for text, key in self._keys.items()}
            known = {text: reply for text, reply in found.items() if reply is not None}
            self._vectors = {text: unpack(reply.body) for text, reply in known.items()}
            book_cached(list(known.values()))
        self.missing = [text for text in dict.fromkeys(texts) if text not in self._vectors]

    def _get(self, key: Key) -> Reply | None:
        if self._store is None:
            return None
        return self._store.get(self._memoized.home(key), 0)

    def learn(
        self,
        texts: Sequence[str],
        vectors: Sequence[Vector],
        *,
        usage: Usage,
        reported: str = "",
    ) -> None:
        """Take and keep the vectors of some texts.

        Args:
            texts: Of those `missing`.
            vectors: One for each.
            usage: What they took together; of it each text is charged by its length.
            reported: How the service called itself.
        """
        self._vectors.update(zip(texts, vectors, strict=True))
        if self._store is None:
            return
        self._memoized.hear(reported)
        sizes = [len(text) + 1 for text in texts]
        tokens = _shares(usage.input_tokens, sizes)
        costs = _shares(usage.cost_microusd, sizes)
        for text, vector, spent, cost in zip(texts, vectors, tokens, costs, strict=True):
            reply = Reply("ok", pack(vector), reported, spent, 0, cost)
            self._store.put(self._memoized.home(self._keys[text]), 0, reply)
        book(Usage(), wrote_memo=True)

    def vectors(self) -> list[Vector]:
        """All of them, in the order of the texts."""
        # Copies: who changes the vector of one row must not change another's.
        return [list(self._vectors[text]) for text in self._texts]


class StoredVectors:
    """Stands in the place of a model: gives vectors that it gave before, and no others.

    Attributes:
        model_name: Of the model.
    """

    def __init__(self, model_name: str, look_up: Callable[[list[str]], Lookup]) -> None:
        self.model_name = model_name
        self._look_up = look_up

    def encode(self, inputs: list[str]) -> list[Vector]:
        """One vector per text, in order.

        Raises:
            NotStored: One of them is not known.
        """
        wanted = self._look_up(inputs)
        if wanted.missing:
            raise NotStored
        return wanted.vectors()


def _shares(total: int, sizes: Sequence[int]) -> list[int]:
    """Whole parts of a total in proportion to sizes; they add up to it."""
    shares: list[int] = []
    passed, whole = 0, sum(sizes)
    for size in sizes:
        before = total * passed // whole
        passed += size
        shares.append(total * passed // whole - before)
    return shares
