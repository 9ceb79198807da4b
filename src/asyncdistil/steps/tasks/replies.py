"""Taking model replies apart: pure functions from text to values.

Models add fences, headings, bold marks and remarks that nobody asked for, so each reader takes the
loosest form that still has one meaning. What has none raises `ModelReplyError`; the task turns
that into a failed row which keeps the raw reply.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from asyncdistil.errors import ModelReplyError

_FENCE = re.compile(r"```[\w+-]*[ \t]*\r?\n(.*?)\r?\n?[ \t]*```", re.DOTALL)
_SCORE = re.compile(r"^\W*(\d+)\W+score\W*?(-?\d+(?:\.\d+)?)", re.IGNORECASE | re.MULTILINE)
_BARE_SCORE = re.compile(r"^\W*score\W*?(-?\d+(?:\.\d+)?)", re.IGNORECASE | re.MULTILINE)
_INTEGER = re.compile(r"(?<![\d.])\d+(?!\.?\d)")
# LaTeX inside JSON: a backslash that begins no escape stands for itself.
_LONE_BACKSLASH = re.compile(r'\\(?!["\\/bfnrtu])')
_SHOWN_CHARACTERS = 160


def without_fences(reply: str) -> str:
    """Content of the first fenced block, or the whole reply if it has none."""
    found = _FENCE.search(reply)
    return (found.group(1) if found else reply).strip()


def read_json(reply: str, *, kind: type[dict[str, Any]] | type[list[Any]] | None = None) -> Any:
    """Read the JSON value in a reply, past fences and remarks around it.

    Raw line breaks inside strings are accepted, backslashes that begin no escape, and Python
    literals (single quotes, ``None``), which small models write in place of JSON.

    Args:
        reply: Text as the model wrote it.
        kind: ``dict`` or ``list`` to look only for that; ``None`` takes either.

    Raises:
        ModelReplyError: There is no such value.
    """
    opening = "{[" if kind is None else "{" if kind is dict else "["
    decoder = json.JSONDecoder(strict=False)
    texts = [without_fences(reply), reply]
    for text in [*texts, *(_LONE_BACKSLASH.sub(r"\\\\", text) for text in texts)]:
        for position in (i for i, character in enumerate(text) if character in opening):
            try:
                value, _ = decoder.raw_decode(text, position)
            except (json.JSONDecodeError, RecursionError):
                continue
            return value
    for text in (without_fences(reply), reply.strip()):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, kind or (dict, list)):
            return value
    raise ModelReplyError(f"no JSON {_kind_name(kind)} in the reply: {shown(reply)}")


def read_object(reply: str, *keys: str) -> dict[str, Any]:
    """Read a JSON object that has at least ``keys``.

    Raises:
        ModelReplyError: There is no object, or a key is missing.
    """
    value: dict[str, Any] = read_json(reply, kind=dict)
    if missing := [key for key in keys if key not in value]:
        raise ModelReplyError(f"the JSON object in the reply lacks {missing}: {shown(reply)}")
    return value


def read_scores(reply: str, count: int) -> list[float | None]:
    """Read lines like ``[2] Score: 3`` into ``count`` scores.

    Lines are placed by their number, so a reply that skips or swaps some keeps the others right.
    Scores without numbers are taken in order if there are exactly ``count``.

    Raises:
        ModelReplyError: No line could be read.
    """
    scores: list[float | None] = [None] * count
    found = False
    for number, score in _SCORE.findall(reply):
        if 1 <= int(number) <= count and scores[int(number) - 1] is None:
            scores[int(number) - 1] = float(score)
            found = True
    if not found and len(bare := _BARE_SCORE.findall(reply)) == count:
        return [float(score) for score in bare]
    if not found:
        raise ModelReplyError(f'no line like "[1] Score: 1" in the reply: {shown(reply)}')
    return scores


def first_integer(text: str, lowest: int, highest: int) -> int | None:
    """First whole number in ``text`` if it lies in the range; ``None`` otherwise, as for N/A."""
    found = _INTEGER.search(text)
    if found is None or not lowest <= int(found.group()) <= highest:
        return None
    return int(found.group())


def lines(reply: str) -> list[str]:
    """Lines with something on them, without bullets and numbers in front."""
    bare = (re.sub(r"^\s*(?:[-*•]|\(?\d{1,3}[.):])\s+", "", line) for line in reply.splitlines())
    return [line.strip() for line in bare if line.strip()]


def sections(reply: str, label: str, count: int) -> list[str | None]:
    """Cut a reply at headings like ``### Text 2`` into ``count`` parts, placed by their number.

    Args:
        reply: Text as the model wrote it.
        label: Word before the number; case is ignored.
        count: Parts wanted; headings with other numbers are ignored.
    """
    heading = re.compile(
        rf"^[ \t#*]*(?:[\w ]*[ \t])?{re.escape(label)}\s*(\d+)[ \t#*:.]*$",
        re.IGNORECASE | re.MULTILINE,
    )
    parts: list[str | None] = [None] * count
    for found, text in _cut(reply, heading):
        number = int(found)
        if 1 <= number <= count and parts[number - 1] is None:
            parts[number - 1] = text
    return parts


def headed(reply: str, headings: Sequence[str]) -> dict[str, str]:
    """What stands below lines that hold nothing but one of ``headings``.

    Marks around a heading, a colon after it and case are ignored; of two equal ones the first
    counts.
    """
    pattern = re.compile(
        rf"^[ \t#*_>]*({'|'.join(map(re.escape, headings))})[ \t*_:]*$",
        re.IGNORECASE | re.MULTILINE,
    )
    parts: dict[str, str] = {}
    for heading, text in _cut(reply, pattern):
        parts.setdefault(heading.lower(), text)
    return parts


def labelled(text: str, labels: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield ``(label, value)`` for each line that begins with one of ``labels`` and a colon.

    A value runs to the next label or to the end. Bold marks and bullets around labels are
    ignored, and so is case; labels come back as given.
    """
    by_lower = {label.lower(): label for label in labels}
    pattern = re.compile(
        rf"^[ \t>#*_-]*({'|'.join(map(re.escape, by_lower))})[ \t*_]*:[ \t*_]*",
        re.IGNORECASE | re.MULTILINE,
    )
    for label, value in _cut(text, pattern):
        yield by_lower[label.lower()], value


def shown(reply: str) -> str:
    """The start of a reply, quoted for a message."""
    cut = reply if len(reply) <= _SHOWN_CHARACTERS else reply[:_SHOWN_CHARACTERS] + "…"
    return repr(cut)


def _cut(text: str, mark: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    """Yield the first group of every mark, and what stands between it and the next one."""
    found = list(mark.finditer(text))
    stops = [following.start() for following in found[1:]]
    for this, stop in zip(found, [*stops, len(text)], strict=False):
        yield this.group(1), text[this.end() : stop].strip()


def _kind_name(kind: type[Any] | None) -> str:
    if kind is None:
        return "value"
    return "object" if kind is dict else "array"
