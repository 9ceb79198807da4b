"""Columns of base64 text become columns of images."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets

_BATCH_ROWS = 100


def with_images(dataset: datasets.Dataset, columns: Sequence[str]) -> datasets.Dataset:
    """Turn base64 text into the image files that it stands for.

    Args:
        dataset: Its columns of other names stay as they are.
        columns: Names of columns of base64 text; those it lacks are passed over.
    """
    import datasets

    found = [name for name in columns if name in dataset.column_names]
    if not found:
        return dataset
    features = dataset.features.copy()
    for name in found:
        features[name] = datasets.Image()

    def decoded(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {name: [_image_file(text) for text in batch[name]] for name in found}

    return dataset.map(decoded, batched=True, batch_size=_BATCH_ROWS, features=features)


def _image_file(text: str | None) -> dict[str, Any] | None:
    return None if text is None else {"bytes": base64.b64decode(text), "path": None}
