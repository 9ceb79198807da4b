"""What an answer is stored under."""

from __future__ import annotations

from typing import NamedTuple

from xxhash import xxh3_128_digest


class Key(NamedTuple):
    """Name of a request, with all that went into it.

    The digest finds an entry; the preimage, stored beside it and compared on every hit, makes
    sure that it is the right one.

    Attributes:
        digest: XXH3-128 of ``preimage``, 16 bytes.
        preimage: Canonical bytes of everything that can change the answer; no secrets.
        model: Who answers, readable, for reports and for clearing by model; not part of the name.
    """

    digest: bytes
    preimage: bytes
    model: str

    @classmethod
    def of(cls, preimage: bytes, *, model: str) -> Key:
        """Name a preimage."""
        return cls(xxh3_128_digest(preimage), preimage, model)
