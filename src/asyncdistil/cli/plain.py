"""What was stored as it may be shown: without control characters, and in what JSON has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def table(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    """Cells in columns: the first to the left, the others to the right if they are numbers."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            text.rjust(width) if text[:1].isdigit() else text.ljust(width)
            for text, width in zip(line, widths, strict=True)
        ]
        yield "  ".join(cells).rstrip()


def printable(text: str) -> str:
    """Text without control characters, which a terminal would obey."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def json_ready(value: Any) -> Any:
    """A value of a row as JSON has it; what JSON lacks becomes text."""
    if isinstance(value, Mapping):
        return {json_ready(str(key)): json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_ready(item) for item in value]
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**63 else str(value)
    return value.hex() if isinstance(value, bytes | bytearray) else json_ready(str(value))
