"""What a task adds to the ``distilabel_metadata`` column, and to what other columns. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from asyncdistil.models.typing import GenerateOutput
from asyncdistil.steps.metadata import METADATA_COLUMN, merge_metadata

_NOT_EXTRA = frozenset({"generations", "statistics", "failures", "samples"})


def merged(earlier: Any) -> dict[str, Any]:
    """Return what earlier tasks left in the column as one dict to add to.

    A list of dicts, as ``group_generations`` and joins leave it, becomes one dict in which a key
    with several values has the list of them. Anything else, ``None`` included, counts as empty.
    """
    if isinstance(earlier, Mapping):
        return dict(earlier)
    if not isinstance(earlier, list):
        return {}
    found = merge_metadata({METADATA_COLUMN: part} for part in earlier if isinstance(part, Mapping))
    return found if isinstance(found, dict) else {}


def statistics_of(reply: GenerateOutput, generation: int) -> dict[str, Any]:
    """Statistics of one generation; lists that are too short are repeated."""
    statistics = reply.get("statistics") or {}
    return {
        name: values[generation % len(values)] if isinstance(values, list) else values
        for name, values in statistics.items()
        if values or not isinstance(values, list)
    }


def extras_of(reply: GenerateOutput, generation: int, *, task: str) -> dict[str, Any]:
    """Columns ``llm_<task>_<key>`` for whatever else a model answers, such as ``logprobs``."""
    columns: dict[str, Any] = {}
    for key, values in reply.items():
        if key in _NOT_EXTRA:
            continue
        if isinstance(values, list):
            values = values[generation] if generation < len(values) else None
        columns[f"llm_{task}_{key}"] = values
    return columns


def summed(replies: Sequence[GenerateOutput]) -> dict[str, list[Any]]:
    """Statistics of several calls for one row: per key the values in the order of the calls."""
    statistics: dict[str, list[Any]] = {}
    for reply in replies:
        for name, value in statistics_of(reply, 0).items():
            statistics.setdefault(name, []).append(value)
    return statistics
