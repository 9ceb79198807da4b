"""What a run returns: one dataset per leaf of the pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncdistil.distiset.lazy import LazyDatasets, PathArgument
from asyncdistil.distiset.tables import SPLIT, MemoryTable, StoredTable
from asyncdistil.errors import DataError, ParameterError

if TYPE_CHECKING:
    import pyarrow as pa

    from asyncdistil.log.events import Emit


class Distiset(LazyDatasets):
    """Configuration name to `datasets.DatasetDict`, in the order of the leaves.

    Nothing is read, and ``datasets`` is not imported, before a configuration is touched; then its
    files are mapped into memory, not copied. `table` gives the rows as Arrow without ``datasets``.
    What ``Dataset.map`` and its like cache lies beside the mapped files and goes when they go.

    Attributes:
        citations: BibTeX entries of what the pipeline implements.
        failures: Failed rows per step, where there are any.
        notes: Per configuration the columns that had to change form, one sentence each.
        partial: Whether the run had not ended, so that more rows are to come.
        report: Plain data about the run.
    """

    citations: list[str]
    failures: dict[str, Any]
    notes: dict[str, tuple[str, ...]]
    partial: bool
    report: Any

    def __init__(
        self, configs: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), /, **more: Any
    ) -> None:
        super().__init__(configs, **more)
        self._pipeline_path: Path | None = None
        self._log_filename_path: Path | None = None
        self._artifacts_path: Path | None = None
        self.citations = []
        self.failures = {}
        self.notes = {}
        self.partial = False
        self.report = None

    def __repr__(self) -> str:
        return f"{super().__repr__()}{', of a run that has not ended' if self.partial else ''}"

    @classmethod
    def from_emits(
        cls, root: PathArgument, emits: Sequence[Emit], *, verified: bool = False
    ) -> Distiset:
        """Make a Distiset of finished exports without reading them.

        Args:
            root: Directory of the store.
            emits: What the run emitted, one for each configuration.
            verified: Whether this very run wrote the files. Otherwise each is hashed at its first
                touch, which raises `CorruptRecord` if it is not what was written.
        """
        distiset = cls()
        for emit in emits:
            source = StoredTable(Path(root), emit.files, rows=emit.rows, verified=verified)
            distiset[emit.config] = source
            if emit.failed:
                distiset.failures[emit.leaf] = emit.failed
            if emit.notes:
                distiset.notes[emit.config] = emit.notes
        return distiset

    @classmethod
    def from_tables(cls, tables: Mapping[str, pa.Table]) -> Distiset:
        """Make a Distiset of Arrow tables in memory."""
        return cls({config: MemoryTable(table) for config, table in tables.items()})

    @classmethod
    def from_rows(
        cls,
        rows: Mapping[str, Sequence[Mapping[str, Any]]],
        *,
        columns: Mapping[str, Sequence[str]] | None = None,
    ) -> Distiset:
        """Make a Distiset of rows in memory; columns become what an export makes of them.

        Args:
            rows: Rows of each configuration.
            columns: Columns that a configuration without any row has.
        """
        from asyncdistil.distiset.arrow import empty_table, table_of

        distiset = cls()
        for config, each in rows.items():
            table, notes = table_of([dict(row) for row in each])
            if not each and columns is not None:
                table = empty_table(columns[config])
            distiset[config] = MemoryTable(table)
            if notes:
                distiset.notes[config] = notes
        return distiset

    def train_test_split(
        self, train_size: float, shuffle: bool = True, seed: int | None = None
    ) -> Distiset:
        """Split every configuration into ``train`` and ``test``, in place.

        Args:
            train_size: Part of the rows that goes to ``train``, between 0 and 1.
            shuffle: Whether to shuffle the rows before.
            seed: Makes the shuffling repeatable.

        Returns:
            This Distiset.

        Raises:
            ParameterError: ``train_size`` is not between 0 and 1.
            DataError: A configuration has been split already.
            ValueError: So few rows leave nothing for ``train``.
        """
        if not 0 < train_size < 1:
            raise ParameterError(f"train_size must be between 0 and 1, it is {train_size}")
        from asyncdistil.distiset.splits import train_and_test

        for config in self:
            (dataset,) = self._unsplit(config).values()
            self[config] = train_and_test(dataset, train_size, shuffle=shuffle, seed=seed)
        return self

    def transform_columns_to_image(self, columns: str | Sequence[str]) -> Distiset:
        """Turn columns of base64 text into images, in place.

        Args:
            columns: Names; configurations that lack one keep what they have.

        Returns:
            This Distiset.
        """
        from asyncdistil.distiset.images import with_images

        names = [columns] if isinstance(columns, str) else list(columns)
        for config in self:
            self[config] = _per_split(self[config], lambda dataset: with_images(dataset, names))
        return self

    def _unsplit(self, config: str) -> Mapping[str, Any]:
        value = self[config]
        splits = value if isinstance(value, dict) else {SPLIT: value}
        if len(splits) != 1:
            names = ", ".join(splits)
            raise DataError(f"configuration {config!r} has been split already: {names}")
        return splits

    # --- disk and hub ------------------------------------------------------------------------

    def save_to_disk(
        self,
        distiset_path: PathArgument,
        max_shard_size: str | int | None = None,
        num_shards: int | None = None,
        num_proc: int | None = None,
        storage_options: dict[str, Any] | None = None,
        save_card: bool = True,
        save_pipeline_config: bool = True,
        save_pipeline_log: bool = True,
    ) -> None:
        """Save to a directory: one folder per configuration, as ``datasets`` saves it.

        Args:
            distiset_path: Local path, or a URL that fsspec knows.
            max_shard_size: Size of a file, such as ``"500MB"``.
            num_shards: Files per split.
            num_proc: Processes that write.
            storage_options: For fsspec.
            save_card: Whether to write ``distiset_configs/README.md``.
            save_pipeline_config: Whether to add ``pipeline.yaml``, if there is one.
            save_pipeline_log: Whether to add ``pipeline.log``, if there is one.
        """
        from asyncdistil.distiset import disk

        shards = disk.Sharding(max_shard_size, num_shards, num_proc)
        disk.save(
            self,
            str(distiset_path),
            shards,
            storage_options or {},
            card=save_card,
            pipeline=save_pipeline_config,
            log=save_pipeline_log,
        )

    @classmethod
    def load_from_disk(
        cls,
        distiset_path: PathArgument,
        keep_in_memory: bool | None = None,
        storage_options: dict[str, Any] | None = None,
        download_dir: PathArgument | None = None,
    ) -> Distiset:
        """Load what `save_to_disk`, or distilabel's, has saved.

        Args:
            distiset_path: Local path, or a URL that fsspec knows.
            keep_in_memory: Whether to copy the rows into memory instead of mapping them.
            storage_options: For fsspec.
            download_dir: Where to put remote files; a temporary directory by default.

        Raises:
            DataError: There is no such directory.
        """
        from asyncdistil.distiset import disk

        return disk.load(
            cls(),
            str(distiset_path),
            storage_options or {},
            keep_in_memory=keep_in_memory,
            download_dir=None if download_dir is None else Path(download_dir),
        )

    def push_to_hub(
        self,
        repo_id: str,
        private: bool = False,
        token: str | None = None,
        generate_card: bool = True,
        include_script: bool = False,
        **kwargs: Any,
    ) -> None:
        """Push every configuration to a dataset repository of the Hugging Face Hub.

        Args:
            repo_id: ``owner/name``, or ``name`` for your own.
            private: Whether a repository that has to be created is private.
            token: By default the one that ``huggingface_hub`` finds.
            generate_card: Whether to write a dataset card.
            include_script: Whether to add the script that is running, as it is: look for secrets.
            **kwargs: For `datasets.DatasetDict.push_to_hub`.
        """
        from asyncdistil.distiset import hub

        hub.push(
            self,
            repo_id,
            private=private,
            token=token,
            generate_card=generate_card,
            include_script=include_script,
            **kwargs,
        )

    @property
    def pipeline_path(self) -> Path | None:
        """File that describes the pipeline, ``pipeline.yaml``."""
        return self._pipeline_path

    @pipeline_path.setter
    def pipeline_path(self, path: PathArgument | None) -> None:
        self._pipeline_path = None if path is None else Path(path)

    @property
    def log_filename_path(self) -> Path | None:
        """Log of the run, ``pipeline.log``."""
        return self._log_filename_path

    @log_filename_path.setter
    def log_filename_path(self, path: PathArgument | None) -> None:
        self._log_filename_path = None if path is None else Path(path)

    @property
    def artifacts_path(self) -> Path | None:
        """Directory of the artifacts that steps saved."""
        return self._artifacts_path

    @artifacts_path.setter
    def artifacts_path(self, path: PathArgument | None) -> None:
        self._artifacts_path = None if path is None else Path(path)


def _per_split(value: Any, change: Any) -> Any:
    if not isinstance(value, dict):
        return change(value)
    return type(value)({split: change(dataset) for split, dataset in value.items()})
