"""A dataset is split into two."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import datasets


def train_and_test(
    dataset: datasets.Dataset, train_size: float, *, shuffle: bool, seed: int | None
) -> datasets.DatasetDict:
    """Split as `datasets.Dataset.train_test_split` does, without writing anything.

    That method puts the chosen positions into a file beside the stored rows, and refuses
    ``keep_in_memory`` for datasets that are mapped from files (as of datasets 5.2). So it is the
    positions that are split here.

    Args:
        dataset: What to split.
        train_size: Part of the rows that goes to ``train``, between 0 and 1.
        shuffle: Whether to shuffle the rows before.
        seed: Makes the shuffling repeatable.

    Raises:
        ValueError: So few rows leave nothing for ``train``.
    """
    import datasets
    import numpy as np

    positions = datasets.Dataset.from_dict({"position": np.arange(len(dataset))})
    halves = positions.train_test_split(train_size=train_size, shuffle=shuffle, seed=seed)
    return datasets.DatasetDict(
        {
            split: dataset.select(half.with_format("numpy")["position"][:], keep_in_memory=True)
            for split, half in halves.items()
        }
    )
