"""Typed, deterministic bytes for keys.

Two values get the same bytes only if they are equal *and* of the same types all the way down:
``1``, ``True``, ``1.0`` and ``"1"`` are four values, so are ``[]``, ``()``, ``""`` and ``None``.
The order of a dict's keys does not count; that of a list does.
"""

from __future__ import annotations

from typing import Any

from asyncdistil.codec.values import encode_plain, flatten
from asyncdistil.errors import UnencodableValue


def canonical_bytes(domain: str, value: Any) -> bytes:
    """Encode ``value`` under a domain tag, for hashing and for comparing.

    `decode_value` gives back ``[domain, value]``, an Enum member as its plain value (its module
    is left out, so that moving a file changes no key).

    Args:
        domain: What the bytes are for, such as ``asyncdistil/step/1``.
        value: Anything that the codec covers.

    Raises:
        UnencodableValue: No codec type covers the value, or it is cyclic or too deep.
    """
    try:
        return encode_plain([domain, flatten(value, canonical=True)])
    except RecursionError:
        raise UnencodableValue(
            f"a value under {domain!r} is nested too deep for this call stack"
        ) from None
