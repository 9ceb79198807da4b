"""Files that a step leaves beside its rows: an index, a figure, a model."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from asyncdistil.errors import ParameterError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def save_artifact(
    directory: Path,
    name: str,
    write_function: Callable[[Path], None],
    metadata: Mapping[str, Any] | None,
) -> Path:
    """Write one artifact, whole or not at all; it survives a power cut once this returns.

    Args:
        directory: Where the artifacts of the step go.
        name: Folder of this one; letters, digits, ``_``, ``-`` and ``.``. An older one of the
            name is replaced.
        write_function: Called with an empty folder, writes any files into it.
        metadata: JSON data that goes into ``metadata.json`` beside them.

    Returns:
        The folder of the artifact.

    Raises:
        ParameterError: The name is not allowed.
    """
    if not _NAME.fullmatch(name):
        raise ParameterError(
            f"an artifact can't be called {name!r}: use letters, digits, '_', '-' and '.'"
        )
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / name
    draft = directory / f".{name}.{uuid4().hex}"
    draft.mkdir()
    try:
        write_function(draft)
        (draft / "metadata.json").write_text(
            json.dumps(dict(metadata or {}), indent=2, sort_keys=True), encoding="utf-8"
        )
        _sync(draft)
        if target.exists():
            # Out of the way first: a rename does not replace a folder that has files in it.
            target.rename(old := directory / f".{name}.{uuid4().hex}")
            draft.rename(target)
            shutil.rmtree(old)
        else:
            draft.rename(target)
        _sync_one(directory)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _sync(folder: Path) -> None:
    """Make a folder and everything in it durable."""
    for path in (*folder.rglob("*"), folder):
        if path.is_file() or path.is_dir():
            _sync_one(path)


def _sync_one(path: Path) -> None:
    if sys.platform == "win32":
        return  # folders can't be opened there
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
