"""Text of a pipeline file to plain data, whoever wrote it and whatever for.

A file may come from anybody. Reading one builds nothing but dicts, lists, texts, numbers and dates,
in memory and time bounded by `MAX_FILE_BYTES`, `MAX_VALUES` and `MAX_DEPTH`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError
from yaml.reader import ReaderError

from asyncdistil.errors import DataError
from asyncdistil.pipeline.bounds import MAX_DEPTH, MAX_VALUES, WAY_ON

Format: TypeAlias = Literal["json", "yaml"]

MAX_FILE_BYTES = 16 << 20
"""Largest file that is read."""

_MAX_DIGITS = 4_300  # as Python's own limit; parts of base 60 take quadratic time as well
_STUMBLES = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, yaml.YAMLError)
"""What PyYAML raises: its constructors stumble over text that does not fit the tag before it."""


def parsed_file(path: str | os.PathLike[str], form: Format | None = None) -> Any:
    """Read a file as plain data.

    Args:
        path: The file.
        form: What it holds; without it, the suffix says so.

    Raises:
        OSError: It can't be read.
        DataError: It holds neither, names a key twice, or is too large or too deep.
    """
    where = os.fspath(path)
    with Path(path).open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise DataError(f"{where} is larger than {MAX_FILE_BYTES >> 20} MiB: {WAY_ON}")
    if form is None:
        form = "json" if Path(path).suffix == ".json" else "yaml"
    try:
        # A byte order mark, as some editors leave it, is no part of the text.
        text = content.decode("utf-8-sig")
        # A subclass of the safe loader: lists for tuples, limits besides.
        return _json(text) if form == "json" else yaml.load(text, _Loader)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} is not UTF-8 at byte {error.start}: save it with that encoding"
        ) from error
    except RecursionError:
        raise DataError(f"{where} is nested too deeply: at most {MAX_DEPTH} levels") from None
    except _STUMBLES as error:
        # Not with what stands there, nor as a cause that would show it: it may be a secret.
        raise DataError(f"{where} is no {form.upper()} that can be read: {_why(error)}") from None


def _why(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{error.problem}, line {mark.line + 1}, column {mark.column + 1}"
    if isinstance(error, json.JSONDecodeError | _Twice):
        return str(error)
    if isinstance(error, ReaderError):
        return f"{error.reason}: character {error.character:#x} at position {error.position}"
    return f"a value has not the form of its type ({type(error).__name__})"


# --- JSON -------------------------------------------------------------------------------------


def _json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_object)


class _Twice(ValueError):
    """A key stands twice in one object."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = Counter(key for key, _ in pairs)
        twice = names.most_common(1)[0][0]
        raise _Twice(f"the key {twice!r} stands twice in one object")
    return made


# --- YAML -------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Reads the tuples that distilabel writes; builds no other object, and not too many."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._values = 0
        self._sizes: dict[str, int] = {}  # of what each anchor names, in values

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose the next node, with an eye on how many there are."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        anchor: str | None = event.anchor
        again = isinstance(event, yaml.AliasEvent)
        # Merged mappings are copied: an alias costs what it stands for.
        self._values += self._sizes.get(anchor, 1) if again and anchor else 1
        if self._values > MAX_VALUES:
            self._refuse(f"found more than {MAX_VALUES:,} values: {WAY_ON}", event)
        if self._depth > MAX_DEPTH:
            self._refuse(f"found more than {MAX_DEPTH} levels in each other", event)
        before = self._values
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if anchor is not None and not again:
            self._sizes[anchor] = self._values - before + 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping; what stands twice would silently win over what stood before."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    self._refuse(f"found the key {key.value!r} twice", key)
                seen.add((key.tag, key.value))
        return node

    def _refuse(self, why: str, where: Any) -> None:
        raise ComposerError(None, None, why, where.start_mark)


def _tuple(loader: _Loader, node: yaml.SequenceNode) -> list[Any]:
    return loader.construct_sequence(node, deep=True)


def _number(loader: _Loader, node: yaml.ScalarNode) -> int | float:
    if len(node.value) > _MAX_DIGITS:
        raise ConstructorError(
            None, None, f"found a number of more than {_MAX_DIGITS:,} digits", node.start_mark
        )
    whole = node.tag == "tag:yaml.org,2002:int"
    return loader.construct_yaml_int(node) if whole else loader.construct_yaml_float(node)


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _tuple)
_Loader.add_constructor("tag:yaml.org,2002:int", _number)
_Loader.add_constructor("tag:yaml.org,2002:float", _number)
