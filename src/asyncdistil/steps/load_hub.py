"""`LoadDataFromHub`: a dataset of the Hugging Face hub."""

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
from asyncdistil.steps.hub import refuse_other_commit, remember_revision, resolve_revision
from asyncdistil.steps.load_dataset import dataset_chunks
from asyncdistil.typing import GeneratorStepOutput, StepColumns


class LoadDataFromHub(GeneratorStep):
    """Yield the rows of a dataset of the hub, or of a local folder laid out like one.

    The commit that the revision stands for is resolved once, before the run, and that commit is
    what is loaded and what names the data. Offline, the last commit loaded here is used.

    Inputs: none. Outputs: the columns of the dataset.

    Attributes:
        repo_id: Such as ``org/name``, or the path of a folder.
        split: Which split.
        config: Which configuration; the default one if not given.
        revision: Branch, tag or commit; the main branch if not given.
        streaming: Whether to read rows from the hub as they are needed, without a local copy.
        num_examples: Rows to load; ``None`` for all.
        storage_options: For the file system.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from asyncdistil.steps import LoadDataFromHub
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, "train.jsonl").write_text('{"n": 1}')
        ...     load = LoadDataFromHub(repo_id=folder)
        ...     load.load()
        ...     list(load.process())
        [([{'n': 1}], True)]
    """

    version: ClassVar[int] = 1
    resumable: ClassVar[bool] = True
    signature_ignore: ClassVar[set[str]] = {
        "repo_id",
        "split",
        "config",
        "revision",
        "streaming",
        "num_examples",
        "storage_options",
    }

    repo_id: RuntimeParameter[str] = Field(
        default=None, description="Name of the dataset, such as org/name."
    )
    split: RuntimeParameter[str] = Field(default="train", description="Which split.")
    config: Optional[RuntimeParameter[str]] = Field(  # noqa: UP045
        default=None, description="Which configuration; the default one if not given."
    )
    revision: Optional[RuntimeParameter[str]] = Field(  # noqa: UP045
        default=None, description="Branch, tag or commit; the main branch if not given."
    )
    streaming: Optional[RuntimeParameter[bool]] = Field(  # noqa: UP045
        default=False, description="Whether to read rows from the hub as they are needed."
    )
    num_examples: Optional[RuntimeParameter[PositiveInt]] = Field(  # noqa: UP045
        default=None, description="Rows to load; all if not given."
    )
    storage_options: Optional[RuntimeParameter[dict[str, Any]]] = Field(  # noqa: UP045
        default=None, exclude=True, repr=False, description="Options of the file system."
    )

    _dataset: Any = PrivateAttr(default=None)
    _resolved: tuple[str | None, str | None, str] | None = PrivateAttr(default=None)
    _columns: tuple[Any, list[str]] | None = PrivateAttr(default=None)

    @property
    def resolved_revision(self) -> str | None:
        """The commit that is loaded, asked for once; ``None`` for a local folder.

        Raises:
            DataError: It can't be found out; says why.
        """
        if self._is_folder():
            return None
        wanted = (self._repo(), self.revision)
        if self._resolved is None or self._resolved[:2] != wanted:
            # Kept in the step, so that its worker loads the commit that named the data.
            self._resolved = (*wanted, resolve_revision(*wanted))
        return self._resolved[2]

    def load(self) -> None:
        """Fetch the dataset, or open the stream.

        Raises:
            DataError: It can't be loaded; says why.
        """
        super().load()
        self._dataset = self._fetch()

    def unload(self) -> None:
        """Let go of the dataset."""
        self._dataset = None

    @property
    def outputs(self) -> StepColumns:
        """The columns that the dataset declares; none if it does not.

        Raises:
            DataError: The dataset or its configuration can't be found.
        """
        key = (self._repo(), self.config, self.resolved_revision)
        if self._columns is None or self._columns[0] != key:
            self._columns = (key, list(self._builder().info.features or ()))
        return self._columns[1]

    @property
    def open_columns(self) -> bool:
        """Whether the columns are known only once the data is read."""
        return not self.outputs

    def process(self, offset: int = 0) -> GeneratorStepOutput:
        """Yield the rows after the first ``offset``, ``batch_size`` at a time."""
        dataset = self._dataset if self._dataset is not None else self._fetch()
        limit = None if self.num_examples is None else self.num_examples - offset
        yield from recut(dataset_chunks(dataset, offset), self.batch_size, limit)

    def data_identity(self) -> bytes:
        """Digest of what is loaded: dataset, commit, configuration, split.

        It asks the hub anew, so that a later run of the same object sees a later commit.

        Raises:
            DataError: The commit can't be found out.
        """
        what: list[Any] = [self.config, self.split, self.num_examples]
        if self._is_folder():
            from fsspec.implementations.local import LocalFileSystem

            system = LocalFileSystem()
            paths = sorted(system.find(str(Path(self._repo()).resolve())))
            content = digest_of_files(DataFile(system, path, "parquet") for path in paths)
            what += ["folder", content]
        else:
            self._resolved = None
            what += ["hub", self.repo_id, self.resolved_revision]
        return xxh3_128_digest(canonical_bytes("asyncdistil/hub/1", what))

    def _repo(self) -> str:
        if self.repo_id is None:
            raise DataError(f"step {self.name!r} has no dataset to load: give it repo_id=")
        return self.repo_id

    def _is_folder(self) -> bool:
        return Path(self._repo()).is_dir()

    def _builder(self) -> Any:
        import datasets

        commit = self.resolved_revision
        try:
            builder = datasets.load_dataset_builder(
                self._repo(),
                name=self.config,
                revision=commit,
                storage_options=self.storage_options,
            )
        except (ValueError, FileNotFoundError) as error:
            raise DataError(f"dataset {self.repo_id!r} can't be found: {error}") from error
        if commit is not None:
            refuse_other_commit(self._repo(), commit, str(builder.hash))
        return builder

    def _fetch(self) -> Any:
        builder = self._builder()
        try:
            if self.streaming:
                dataset = builder.as_streaming_dataset(split=self.split)
            else:
                builder.download_and_prepare(storage_options=self.storage_options)
                dataset = builder.as_dataset(split=self.split)
        except (ValueError, FileNotFoundError) as error:
            raise DataError(f"dataset {self.repo_id!r} can't be loaded: {error}") from error
        if (commit := self.resolved_revision) is not None and not self.streaming:
            remember_revision(self._repo(), self.revision, commit)
        return dataset
