"""What a pipeline implements, as BibTeX, from what its steps say of themselves.

Offline: an entry that a docstring holds is taken as it is, in a list under ``Citations:`` as
distilabel's steps have it, or anywhere else; of a paper that is only linked on arXiv the number
and the words before the link are known.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable

_ENTRY_START = re.compile(r"@(?:article|book|inproceedings|misc|software|techreport)\s*\{", re.I)
_ARXIV = re.compile(r"https?://arxiv\.org/(?:abs|pdf)/(?P<id>\d{4}\.\d{4,5})(?:v\d+)?")
_UNSAFE = re.compile(r"[{}\\]")
_HEADING = re.compile(r"^\s*(?:Source|Sources|Paper|References?)\s*:\s*", re.I)


def citations_of(docstrings: Iterable[str | None]) -> list[str]:
    """BibTeX entries in docstrings, each once, in their order.

    Args:
        docstrings: Of the classes of steps and models.
    """
    found: dict[str, str] = {}
    for text in docstrings:
        clean = inspect.cleandoc(text or "")
        entries = _entries(clean)
        for entry in entries:
            found.setdefault(entry.partition(",")[0], entry)
        for match in _ARXIV.finditer(clean):
            number = match["id"]
            if not any(number in entry for entry in (*entries, *found.values())):
                found[number] = _of_arxiv(number, _title(clean, match.start()))
    return list(found.values())


def _entries(text: str) -> list[str]:
    """Entries in a text; one ends where its first brace is closed."""
    entries = []
    for match in _ENTRY_START.finditer(text):
        depth = 0
        for place in range(match.end() - 1, len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                lines = text[match.start() : place + 1].splitlines()
                entries.append("\n".join([lines[0], *_dedented(lines[1:])]))
                break
    return entries


def _dedented(lines: list[str]) -> list[str]:
    inner = inspect.cleandoc("\n".join(["", *lines])).splitlines()
    return ["}" if line.strip() == "}" else f"    {line.strip()}" for line in inner]


def _title(text: str, end: int) -> str:
    """The words before a link, such as ``Xu et al., WizardLM``, back to where they begin."""
    paragraph = text[:end].rpartition("\n\n")[2]
    words = re.split(r"https?://\S+", paragraph)[-1].replace("\n", " ")
    return _HEADING.sub("", words.strip(" \t;,.(")).strip(" ;,.(")


def _of_arxiv(number: str, title: str) -> str:
    lines = [f"@misc{{arxiv_{number.replace('.', '_')},"]
    # A brace that is not closed would end the entry, or never end it.
    title = _UNSAFE.sub("", title)
    if title:
        lines.append(f"    title = {{{title}}},")
    lines += [
        f"    eprint = {{{number}}},",
        "    archivePrefix = {arXiv},",
        f"    url = {{https://arxiv.org/abs/{number}}},",
        "}",
    ]
    return "\n".join(lines)
