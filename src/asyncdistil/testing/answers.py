"""What the stand-in model says: deterministic, drawn from the prompt, in the shape asked for.

The answers are worth nothing as language. They are worth something as data: equal prompts get equal
answers, different prompts different ones, a JSON schema is obeyed, and a prompt that asks for
scores gets scores that the usual parsers can read.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from xxhash import xxh3_64_intdigest

from asyncdistil.models.json_schema import target_of
from asyncdistil.testing import forms

_WORD = re.compile(r"\w+", re.UNICODE)
_MAX_DEPTH = 8  # of nested schemas; a recursive schema ends here


def draw(*parts: object) -> int:
    """A 64-bit number that depends on ``parts`` and nothing else."""
    return xxh3_64_intdigest("\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass"))


def count_tokens(text: str) -> int:
    """About four characters a token, at least one for a text that is not empty."""
    return (len(text) + 3) // 4


def prompt_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The texts of all messages, one after another; image parts count by their URL."""
    pieces: list[str] = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            pieces.append(content)
        elif isinstance(content, list):
            for part in content:
                url = part.get("image_url", {})
                pieces.append(part.get("text") or (url.get("url", "") if url else ""))
    return "\n".join(pieces)


def answer(prompt: str, *, index: int = 0, schema: Mapping[str, Any] | None = None) -> str:
    """Answer a prompt.

    Args:
        prompt: All of the conversation as text.
        index: Which of several choices; each gets words of its own.
        schema: JSON schema that the answer must satisfy, if any.

    Returns:
        JSON text if there is a schema; what the prompt describes if it describes a form; scores if
        it asks for them; else a sentence or two of words from the prompt.
    """
    if schema is not None:
        return msgspec.json.encode(instance(schema, prompt, index=index)).decode()

    def say(subject: str, part: str) -> str:
        return extract(subject, index=draw(prompt, index, part), words=12)

    def pick(what: str, count: int) -> int:
        return draw("form", prompt, index, what) % count

    filled = forms.fill(prompt, say, pick)
    return filled or _scores(prompt, index) or extract(prompt, index=index)


def extract(prompt: str, *, index: int = 0, words: int = 18) -> str:
    """Words of the prompt, from a place that depends on prompt and index, and a mark of both."""
    found = _WORD.findall(prompt)
    number = draw("extract", prompt, index)
    mark = f"{number & 0xFFFFFF:06x}"
    if not found:
        return f"Nothing was asked ({mark})."
    start = number % max(1, len(found) - words + 1)
    return f"{' '.join(found[start : start + words])} ({mark})."


def _scores(prompt: str, index: int) -> str | None:
    """Scores in the format that the prompt describes, or ``None`` if it asks for none."""

    def score(item: object, top: int = 5) -> int:
        return 1 + draw("score", prompt, index, item) % top

    if "[RESULT]" in prompt:
        relative = re.search(r"\bA\b.{0,20}\bor\b.{0,20}\bB\b", prompt) is not None
        verdict = "AB"[score(0, 2) - 1] if relative else str(score(0))
        return f"Feedback: {extract(prompt, index=index)} [RESULT] {verdict}"
    texts = {int(n) for n in re.findall(r"<text (\d+)>", prompt)}
    if texts and re.search(r"\bRating\b", prompt):
        typed = re.search(r"^Type:", prompt, re.MULTILINE) is not None
        blocks = []
        for n in sorted(texts):
            head = f"#### Output for Text {n}\n"
            reason = extract(prompt, index=n, words=8)
            kind = f"Type: {score((n, 'type'), 3)}\nRationale: {reason}\n" if typed else ""
            blocks.append(f"{head}{kind}Rating: {score(n)}\nRationale: {reason}")
        return "\n\n".join(blocks)
    if re.search(r"\[\d+\]\s*[Ss]core", prompt):
        items = sorted({int(n) for n in re.findall(r"\[(\d+)\]", prompt)})
        return "\n".join(f"[{n}] Score: {score(n)}" for n in items)
    if re.search(r"\bscore:", prompt, re.IGNORECASE):
        return f"{extract(prompt, index=index)}\nScore: {score(0)}"
    return None


def instance(
    schema: Mapping[str, Any],
    prompt: str,
    *,
    index: int = 0,
    path: str = "$",
    depth: int = 0,
    root: Mapping[str, Any] | None = None,
    within: frozenset[str] = frozenset(),
) -> Any:
    """A value that satisfies a JSON schema, drawn from the prompt.

    Covers ``type``, ``enum``, ``const``, ``$ref`` into the same document, ``anyOf``, ``oneOf``,
    ``allOf``, objects, arrays, and the bounds of strings, numbers and arrays. Keywords beyond those
    (``pattern``, ``format``, ``not``) are ignored. What refers to a definition that it is
    ``within`` holds no more than it must.
    """
    root = schema if root is None else root
    reference = schema.get("$ref")
    if isinstance(reference, str):
        depth = max(depth, _MAX_DEPTH) if reference in within else depth
        within |= {reference}
    schema = _resolved(schema, root)
    number = draw("schema", prompt, index, path)

    def inner(part: Mapping[str, Any], step: str) -> Any:
        place = f"{path}/{step}"
        return instance(
            part, prompt, index=index, path=place, depth=depth + 1, root=root, within=within
        )

    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][number % len(schema["enum"])]
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            options = schema[key]
            # Deep inside a recursive schema the last option is the way out, usually null.
            return inner(
                options[-1] if depth >= _MAX_DEPTH else options[number % len(options)], key
            )
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[number % len(kind)]
    if kind is None:
        kind = "object" if "properties" in schema else "array" if "items" in schema else "string"
    match kind:
        case "object":
            properties = schema.get("properties", {})
            names = properties if depth < _MAX_DEPTH else schema.get("required", ())
            return {name: inner(properties.get(name, {}), name) for name in names}
        case "array":
            return _array(schema, number, inner, depth)
        case "boolean":
            return bool(number & 1)
        case "null":
            return None
        case "integer" | "number":
            return _number(schema, number, whole=kind == "integer")
        case _:
            text = extract(prompt, index=number % 1000, words=5)
            text = text.ljust(schema.get("minLength", 0), ".")
            return text[: schema.get("maxLength", len(text))]


class SchemaError(ValueError):
    """A schema that no answer can be made for; a service would refuse it."""


def _resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow ``$ref`` and fold ``allOf`` into one schema."""
    for _ in range(_MAX_DEPTH):
        reference = schema.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#"):
            break
        target = target_of(reference, root)
        if not isinstance(target, Mapping):
            raise SchemaError(f"the schema refers to {reference!r}, and there is nothing there")
        schema = {**target, **{k: v for k, v in schema.items() if k != "$ref"}}
    for part in schema.get("allOf", ()):
        schema = {**{k: v for k, v in schema.items() if k != "allOf"}, **_resolved(part, root)}
    return schema


def _array(schema: Mapping[str, Any], number: int, inner: Any, depth: int) -> list[Any]:
    fixed = schema.get("prefixItems", [])
    least = max(schema.get("minItems", 0 if depth >= _MAX_DEPTH else 1), len(fixed))
    most = max(least, min(schema.get("maxItems", least + 2), least + 2))
    size = least + number % (most - least + 1)
    items = schema.get("items")
    return [
        inner(fixed[i] if i < len(fixed) else items if isinstance(items, Mapping) else {}, str(i))
        for i in range(size)
    ]


def _number(schema: Mapping[str, Any], number: int, *, whole: bool) -> int | float:
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    high = schema.get("maximum", schema.get("exclusiveMaximum", max(low + 10, 10)))
    if not whole:
        return float(low + (high - low) * (1 + number % 98) / 100)
    first = math.floor(low) + 1 if "exclusiveMinimum" in schema else math.ceil(low)
    last = math.ceil(high) - 1 if "exclusiveMaximum" in schema else math.floor(high)
    whole_range = max(1, last - first + 1)
    return int(first + number % whole_range)


def embedding(text: str, dimensions: int) -> list[float]:
    """A unit vector: the sum of one pseudo-random vector per word, so like texts lie close."""
    total = [0.0] * dimensions
    for word in _WORD.findall(text.lower()) or [""]:
        state = draw("word", word)
        for i in range(dimensions):
            # Numerical Recipes' 64-bit LCG; the high half is random enough for a direction.
            state = (state * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
            total[i] += (state >> 32) / 2**31 - 1.0
    norm = math.sqrt(sum(x * x for x in total)) or 1.0
    return [x / norm for x in total]


def picture(prompt: str, *, side: int = 16) -> bytes:
    """A small PNG in one colour that depends on the prompt."""
    red, green, blue = draw("picture", prompt).to_bytes(8, "big")[:3]
    rows = (b"\x00" + bytes((red, green, blue)) * side) * side

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
