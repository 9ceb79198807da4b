"""The ``distilabel_metadata`` column: what tasks leave beside their answers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from asyncdistil.batch import Row

METADATA_COLUMN = "distilabel_metadata"
_STATISTICS = "statistics_"


def merge_metadata(rows: Iterable[Row]) -> dict[str, Any] | list[Any] | None:
    """Merge the metadata of rows that become one row.

    A key that several rows have gets the list of its values, in the order of the rows, equal
    ones too: a list whose length depends on the values could not be read back by position.

    Returns:
        A dict; a list if every row holds a list of dicts (grouped generations), one after the
        other; ``None`` if no row has metadata.
    """
    found = [row[METADATA_COLUMN] for row in rows if row.get(METADATA_COLUMN) is not None]
    if not found:
        return None
    if all(isinstance(metadata, list) for metadata in found):
        return [item for metadata in found for item in metadata]
    values: dict[str, list[Any]] = {}
    for metadata in found:
        for item in metadata if isinstance(metadata, list) else [metadata]:
            for key, value in item.items():
                values.setdefault(key, []).append(value)
    return {key: kept[0] if len(kept) == 1 else kept for key, kept in values.items()}


def split_statistics(metadata: Any, parts: int) -> list[Any]:
    """Share the statistics of one row out among the rows that it becomes.

    Args:
        metadata: The column's value: a dict, a list of one dict per part, or ``None``.
        parts: Rows that the row becomes, at least 1.

    Returns:
        One value per part. A list as long as there are parts is dealt out; whole numbers are
        split so that their parts add up to them again; everything else is repeated.
    """
    if isinstance(metadata, list) and len(metadata) == parts:
        return list(metadata)
    if not isinstance(metadata, Mapping):
        return [metadata] * parts
    return [
        {
            key: _part_of_statistics(value, part, parts) if _counts(key, value) else value
            for key, value in metadata.items()
        }
        for part in range(parts)
    ]


def _counts(key: str, value: Any) -> bool:
    return key.startswith(_STATISTICS) and isinstance(value, Mapping)


def _part_of_statistics(statistics: Mapping[str, Any], part: int, parts: int) -> dict[str, Any]:
    return {name: _part(value, part, parts) for name, value in statistics.items()}


def _part(value: Any, part: int, parts: int) -> Any:
    if isinstance(value, list) and len(value) == parts:
        return value[part]
    if isinstance(value, list):
        return [_part(item, part, parts) for item in value]
    if isinstance(value, int) and not isinstance(value, bool):
        share, rest = divmod(value, parts)
        return share + (part < rest)
    return value
