"""Questions and answers out of documentation, by plain rules. Pure.

The rules are honest about what they are: they know nothing but the form of a documentation string.
Its first sentence says what a thing is or does, the rest tells more, ``>>>`` begins an example.
"""

from __future__ import annotations

import re

_SPACE = re.compile(r"[ \t\r\f\v]+")
_PARAGRAPH = re.compile(r"\n\s*\n")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`'\"(])")
_WORD = re.compile(r"[A-Za-z][A-Za-z_']*")
_HEADING = re.compile(r"^[\w.]*\w(\(.*\)(\s*->\s*[\w.\[\], ]+)?)?$")
_FEWEST_WORDS = 6
_MOST_CHARS = 1500


def cleaned(text: str) -> str | None:
    """Tidy a documentation string; ``None`` if too little of it is language."""
    lines = [_SPACE.sub(" ", line).rstrip() for line in text.strip().splitlines()]
    # Some begin with the name of the module, or with the signature: the question says it already.
    while lines and (not lines[0].strip() or _HEADING.match(lines[0].strip())):
        lines.pop(0)
    tidy = "\n".join(lines).strip()
    # Of what is no example: some documentation is nothing else.
    return tidy if len(_WORD.findall(answer(tidy))) >= _FEWEST_WORDS else None


def fingerprint(text: str) -> str:
    """What two documentation strings share that differ in nothing but form."""
    return " ".join(word.lower() for word in _WORD.findall(text))


def summary(text: str) -> str:
    """The first sentence of a text, on one line."""
    first = " ".join(_PARAGRAPH.split(text, maxsplit=1)[0].split())
    return _SENTENCE_END.split(first, maxsplit=1)[0]


def example(text: str) -> str | None:
    """The first example in a text, as a reader would type it; ``None`` if there is none."""
    lines: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith((">>>", "...")) or (lines and stripped):
            lines.append(stripped)
        elif lines:
            break
    return "\n".join(lines) or None


def question(kind: str, module: str, name: str) -> str:
    """Ask for what the documentation of a thing answers."""
    full = f"{module}.{name}" if name else module
    match kind:
        case "module":
            return f"What is the Python module `{full}` for?"
        case "class":
            return f"What is the class `{full}` in Python's standard library?"
        case "method":
            return f"What does the method `{full}()` do in Python?"
        case _:
            return f"What does `{full}()` do in Python's standard library?"


def answer(text: str) -> str:
    """The documentation as an answer: whole paragraphs, as many as fit, no examples."""
    kept: list[str] = []
    size = 0
    for paragraph in _PARAGRAPH.split(text):
        if ">>>" in paragraph:
            continue
        flat = " ".join(paragraph.split())
        if kept and size + len(flat) > _MOST_CHARS:
            break
        kept.append(flat[:_MOST_CHARS])
        size += len(flat)
    return "\n\n".join(kept)


def score(text: str, arguments: list[str]) -> float:
    """How much a reader learns, from 0 to 1: length, arguments that it names, an example."""
    words = _WORD.findall(text)
    length = min(len(words), 60) / 60
    mentioned = sum(name in words for name in arguments) / len(arguments) if arguments else 1.0
    return round(0.6 * length + 0.25 * mentioned + 0.15 * (example(text) is not None), 3)
