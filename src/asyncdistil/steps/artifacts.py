"""Files that a step leaves beside its rows: an index, a figure, a model."""

from __future__ import annotations

import json
import re
import shutil
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
    """Write one artifact, whole or not at all.

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
        if target.exists():
            shutil.rmtree(target)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target
