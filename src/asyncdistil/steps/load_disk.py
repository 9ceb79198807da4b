"""`LoadDataFromDisk`: a dataset that ``save_to_disk`` wrote."""

from pathlib import Path
from typing import Any, ClassVar, Optional

from pydantic import Field, PositiveInt, PrivateAttr
from xxhash import xxh3_128_digest

from asyncdistil.codec import canonical_bytes
from asyncdistil.errors import DataError
from asyncdistil.mixins import RuntimeParameter
from asyncdistil.steps.batching import recut
from asyncdistil.steps.files import DataFile, digest_of_files
from asyncdistil.steps.generator import GeneratorStep
from asyncdistil.steps.load_dataset import dataset_chunks
from asyncdistil.typing import GeneratorStepOutput, StepColumns


class LoadDataFromDisk(GeneratorStep):
    """Yield the rows of a dataset on disk, written by ``datasets`` or by a `Distiset`.

    Inputs: none. Outputs: the columns of the dataset.

    Attributes:
        dataset_path: Directory or ``fsspec`` URL given to ``save_to_disk``.
        is_distiset: Whether a Distiset was saved there, with a folder per configuration.
        config: Which configuration of a Distiset; the only one if not given.
        split: Which split; the only one, or ``train``, if not given.
        num_examples: Rows to load; ``None`` for all.
        keep_in_memory: Whether to copy the data into memory instead of mapping the files.
        storage_options: For the file system, such as credentials.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from asyncdistil.distiset import Distiset
        >>> from asyncdistil.steps import LoadDataFromDisk
        >>> with TemporaryDirectory() as folder:
        ...     Distiset.from_rows({"default": [{"n": 1}, {"n": 2}]}).save_to_disk(folder)
        ...     load = LoadDataFromDisk(dataset_path=folder, is_distiset=True)
        ...     load.load()
        ...     list(load.process())
        [([{'n': 1}, {'n': 2}], True)]
    """

    version: ClassVar[int] = 1
    resumable: ClassVar[bool] = True
    signature_ignore: ClassVar[set[str]] = {
        "dataset_path",
        "is_distiset",
        "config",
        "split",
        "num_examples",
        "keep_in_memory",
        "storage_options",
    }

    dataset_path: RuntimeParameter[str | Path] = Field(
        default=None, description="Directory or URL of the dataset."
    )
    is_distiset: Optional[RuntimeParameter[bool]] = Field(  # noqa: UP045
        default=False, description="Whether a Distiset was saved there."
    )
    config: Optional[RuntimeParameter[str]] = Field(  # noqa: UP045
        default=None, description="Configuration of a Distiset; the only one if not given."
    )
    split: Optional[RuntimeParameter[str]] = Field(  # noqa: UP045
        default=None, description="Split; the only one, or train, if not given."
    )
    num_examples: Optional[RuntimeParameter[PositiveInt]] = Field(  # noqa: UP045
        default=None, description="Rows to load; all if not given."
    )
    keep_in_memory: Optional[RuntimeParameter[bool]] = Field(  # noqa: UP045
        default=None, description="Whether to copy the data into memory."
    )
    storage_options: Optional[RuntimeParameter[dict[str, Any]]] = Field(  # noqa: UP045
        default=None, exclude=True, repr=False, description="Options of the file system."
    )

    _dataset: Any = PrivateAttr(default=None)

    def load(self) -> None:
        """Open the dataset.

        Raises:
            DataError: There is none, or the configuration or split is missing.
        """
        super().load()
        self._dataset = self._open(keep_in_memory=self.keep_in_memory)

    def unload(self) -> None:
        """Let go of the files."""
        self._dataset = None

    @property
    def outputs(self) -> StepColumns:
        """The columns of the dataset.

        Raises:
            DataError: There is none, or the configuration or split is missing.
        """
        return list(self._open().column_names)

    def process(self, offset: int = 0) -> GeneratorStepOutput:
        """Yield the rows after the first ``offset``, ``batch_size`` at a time."""
        dataset = self._dataset if self._dataset is not None else self._open()
        limit = None if self.num_examples is None else self.num_examples - offset
        yield from recut(dataset_chunks(dataset, offset), self.batch_size, limit)

    def data_identity(self) -> bytes:
        """Digest of the files that hold the split."""
        from fsspec.core import url_to_fs

        files: list[DataFile] = []
        for cached in self._open().cache_files:
            system, path = url_to_fs(cached["filename"], **(self.storage_options or {}))
            files.append(DataFile(system, path, "parquet"))
        content = digest_of_files(files)
        return xxh3_128_digest(canonical_bytes("asyncdistil/disk/1", [content, self.num_examples]))

    def _open(self, *, keep_in_memory: bool | None = None) -> Any:
        import datasets
        from fsspec.core import url_to_fs

        if self.dataset_path is None:
            raise DataError(f"step {self.name!r} has no dataset to read: give it dataset_path=")
        path = str(self.dataset_path)
        if self.is_distiset:
            system, root = url_to_fs(path, **(self.storage_options or {}))
            path = f"{path.rstrip('/')}/{self._config_in(system, root)}"
        try:
            found = datasets.load_from_disk(
                path, keep_in_memory=keep_in_memory, storage_options=self.storage_options
            )
        except FileNotFoundError as error:
            raise DataError(f"there is no saved dataset at {path!r}: {error}") from error
        if isinstance(found, datasets.Dataset):
            return found
        return found[self._split_of(list(found), path)]

    def _config_in(self, system: Any, root: str) -> str:
        entries = system.ls(root, detail=False) if system.isdir(root) else []
        folders = [str(entry).rstrip("/") for entry in entries if system.isdir(entry)]
        beside = {"artifacts", "distiset_configs"}
        names = sorted({folder.rsplit("/", 1)[-1] for folder in folders} - beside)
        if self.config in names:
            return str(self.config)
        if self.config is None and len(names) == 1:
            return names[0]
        raise DataError(
            f"step {self.name!r} needs config= to be one of the configurations at {root!r}: {names}"
        )

    def _split_of(self, splits: list[str], path: str) -> str:
        split = self.split
        if split is None:
            split = splits[0] if len(splits) == 1 else "train"
        if split not in splits:
            raise DataError(f"the dataset at {path!r} has no split {split!r}: it has {splits}")
        return split
