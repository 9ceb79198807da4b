"""A dictionary of datasets that are made when someone asks for them."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from os import PathLike
from typing import TYPE_CHECKING, Any, Self, TypeAlias, cast

from asyncdistil.distiset.tables import SPLIT, MemoryTable, StoredTable, table_of_dataset
from asyncdistil.errors import ParameterError

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    import pyarrow as pa

PathArgument: TypeAlias = "str | PathLike[str]"


class LazyDatasets(dict[str, Any]):
    """Configuration name to `datasets.DatasetDict`, which is made at the first access.

    Until then a value is a `MemoryTable` or a `StoredTable`; methods that need only rows or their
    number work on those, and never import ``datasets``.
    """

    def __getitem__(self, config: str) -> datasets.DatasetDict:
        value = self._raw(config)
        if isinstance(value, (MemoryTable, StoredTable)):
            import datasets

            value = datasets.DatasetDict({SPLIT: value.dataset()})
            super().__setitem__(config, value)
        return value

    # Without a method of its own here, dict(distiset) would copy the values behind its back.
    def __iter__(self) -> Iterator[str]:
        return super().__iter__()

    def get(self, config: str, default: Any = None) -> Any:
        """Datasets of a configuration, or ``default``."""
        try:
            return self[config]
        except KeyError:
            return default

    def items(self) -> Any:
        """Pairs of configuration and datasets, each made when it is reached."""
        return ItemsView(self)

    def values(self) -> Any:
        """Datasets, each made when it is reached."""
        return ValuesView(self)

    def pop(self, config: str, *default: Any) -> Any:
        """Remove a configuration and give its datasets."""
        value = self.get(config, *default)
        super().pop(config, *default)
        return value

    def popitem(self) -> tuple[str, Any]:
        """Remove the last configuration and give its name and datasets."""
        config = next(reversed(self), None)
        if config is None:
            raise KeyError("the Distiset is empty")
        return config, self.pop(config)

    def setdefault(self, config: str, default: Any = None) -> Any:
        """Datasets of a configuration, which is added if it is missing."""
        if config not in self:
            self[config] = default
        return self[config]

    def copy(self) -> Self:
        """Copy the dictionary and what is known about the run; no rows."""
        twin = type(self)()
        twin.__dict__.update(self.__dict__)
        for config in self:
            dict.__setitem__(twin, config, self._raw(config))
        return twin

    def __or__(self, other: Any) -> Any:
        if not isinstance(other, Mapping):
            return NotImplemented
        both = self.copy()
        both.update(other)
        return both

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LazyDatasets):
            return isinstance(other, dict) and dict(self) == other
        return self.keys() == other.keys() and all(
            _same_rows(self._raw(config), other._raw(config)) for config in self
        )

    __hash__ = None

    def __repr__(self) -> str:
        parts = []
        for config in self:
            splits = _rows(self._raw(config)).items()
            listed = ", ".join(f"{split}: {rows} rows" for split, rows in splits)
            parts.append(f"{config}: DatasetDict({listed})")
        return f"{type(self).__name__}({{{', '.join(parts)}}})"

    def _raw(self, config: str) -> Any:
        try:
            return super().__getitem__(config)
        except KeyError:
            known = ", ".join(map(repr, self)) or "none"
            raise KeyError(f"no configuration {config!r}; there are: {known}") from None

    @property
    def num_rows(self) -> dict[str, int]:
        """Rows of each configuration, all splits together."""
        return {config: sum(_rows(self._raw(config)).values()) for config in self}

    def table(self, config: str | None = None) -> pa.Table:
        """Rows of one configuration as an Arrow table, splits one after another.

        Args:
            config: May be left out if there is only one.
        """
        return _table(self._raw(self._only(config)))

    def to_pandas(self, config: str | None = None) -> pd.DataFrame:
        """Rows of one configuration as a pandas data frame.

        Args:
            config: May be left out if there is only one.
        """
        return cast("pd.DataFrame", self.table(config).to_pandas())

    def to_parquet(self, path: PathArgument, config: str | None = None) -> None:
        """Write one configuration as a Parquet file.

        Args:
            path: File to write; an old one is replaced.
            config: May be left out if there is only one.
        """
        import pyarrow.parquet as pq

        pq.write_table(self.table(config), path)

    def _only(self, config: str | None) -> str:
        if config is not None:
            return config
        if len(self) != 1:
            raise ParameterError(f"say which configuration: there are {', '.join(self) or 'none'}")
        return next(iter(self))


def _rows(value: Any) -> dict[str, int]:
    if isinstance(value, (MemoryTable, StoredTable)):
        return {SPLIT: value.rows}
    if isinstance(value, dict):
        return {str(split): len(dataset) for split, dataset in value.items()}
    return {SPLIT: len(value)}


def _table(value: Any) -> pa.Table:
    if isinstance(value, (MemoryTable, StoredTable)):
        return value.table()
    import pyarrow as pa

    splits = value.values() if isinstance(value, dict) else [value]
    return pa.concat_tables([table_of_dataset(dataset) for dataset in splits])


def _same_rows(left: Any, right: Any) -> bool:
    if left is right:
        return True
    both_stored = isinstance(left, StoredTable) and isinstance(right, StoredTable)
    if both_stored and left.fingerprint == right.fingerprint:
        return True
    return _rows(left) == _rows(right) and bool(_table(left).equals(_table(right)))
