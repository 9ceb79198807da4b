"""`LoadDataFromFileSystem`: rows in files, near or far."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Optional

from pydantic import Field, PositiveInt, PrivateAttr
from xxhash import xxh3_128_digest

from asyncdistil.batch import Row
from asyncdistil.codec import canonical_bytes
from asyncdistil.errors import DataError
from asyncdistil.mixins import RuntimeParameter
from asyncdistil.steps.batching import columns_of, recut
from asyncdistil.steps.files import DataFile, FileType, digest_of_files, find_files, read_files
from asyncdistil.steps.generator import GeneratorStep
from asyncdistil.typing import GeneratorStepOutput, StepColumns

_Place = str | Path
_Places = _Place | list[_Place]


class LoadDataFromFileSystem(GeneratorStep):
    r"""Yield the rows of JSON Lines, JSON, CSV, TSV, Parquet or text files.

    Local data is known by its content, so a file that moved is the same data and one that was
    edited is not.

    Inputs: none. Outputs: the columns of the files.

    Attributes:
        data_files: A path, a glob pattern, a directory or an ``fsspec`` URL, a list of such, or
            a dict of such by split. Compressed files (``.gz``, ``.bz2``, ``.xz``, ``.zst``) are
            read as they are.
        filetype: How the files are written, if their suffix does not say it.
        split: Which entry of ``data_files``, if that is a dict.
        streaming: Whether to read CSV files in pieces rather than at once: the first piece then
            settles the types of the columns.
        num_examples: Rows to load; ``None`` for all.
        storage_options: For the file system, such as credentials.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from asyncdistil.steps import LoadDataFromFileSystem
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "rows.csv")
        ...     _ = path.write_text("n,text\n1,a\n2,b")
        ...     load = LoadDataFromFileSystem(data_files=str(path))
        ...     load.load()
        ...     list(load.process())
        [([{'n': 1, 'text': 'a'}, {'n': 2, 'text': 'b'}], True)]
    """

    version: ClassVar[int] = 1
    resumable: ClassVar[bool] = True
    # What the data is enters by content; where it lies and how it is reached does not count.
    signature_ignore: ClassVar[set[str]] = {
        "data_files",
        "filetype",
        "split",
        "streaming",
        "num_examples",
        "storage_options",
    }

    data_files: RuntimeParameter[_Places | dict[str, _Places]] = Field(
        default=None, description="Path, glob pattern, directory or URL of the data, or several."
    )
    filetype: Optional[RuntimeParameter[FileType]] = Field(  # noqa: UP045
        default=None, description="How the files are written; told by their suffix if not given."
    )
    split: Optional[RuntimeParameter[str]] = Field(  # noqa: UP045
        default="train", description="Which entry of `data_files`, if that is a dict."
    )
    streaming: Optional[RuntimeParameter[bool]] = Field(  # noqa: UP045
        default=False, description="Whether to read CSV files in pieces."
    )
    num_examples: Optional[RuntimeParameter[PositiveInt]] = Field(  # noqa: UP045
        default=None, description="Rows to load; all if not given."
    )
    storage_options: Optional[RuntimeParameter[dict[str, Any]]] = Field(  # noqa: UP045
        default=None, exclude=True, repr=False, description="Options of the file system."
    )

    _columns: tuple[list[DataFile], list[str]] | None = PrivateAttr(default=None)

    @property
    def outputs(self) -> StepColumns:
        """The columns of the first rows.

        Raises:
            DataError: There are no files, or they can't be read.
        """
        files = self._files()
        if self._columns is None or self._columns[0] != files:
            first: list[Row] = next(filter(None, read_files(files, streaming=True)), [])
            self._columns = (files, columns_of(first))
        return self._columns[1]

    @property
    def open_columns(self) -> bool:
        """Whether later rows may have columns that the first ones lack, as in JSON."""
        return any(file.type in ("json", "jsonl") for file in self._files())

    def process(self, offset: int = 0) -> GeneratorStepOutput:
        """Yield the rows after the first ``offset``, ``batch_size`` at a time.

        Raises:
            DataError: There are no files, or one can't be read.
        """
        limit = None if self.num_examples is None else self.num_examples - offset
        yield from recut(self._chunks(offset), self.batch_size, limit)

    def data_identity(self) -> bytes:
        """Digest of the content of the files."""
        files = self._files()
        # Types of CSV columns depend on how the file is read, so that is part of the data.
        how = [
            [file.type for file in files],
            bool(self.streaming) and files[0].type in ("csv", "tsv"),
            self.num_examples,
        ]
        content = digest_of_files(files)
        return xxh3_128_digest(canonical_bytes("asyncdistil/file data/1", [content, how]))

    def _chunks(self, offset: int) -> Iterator[list[Row]]:
        return read_files(self._files(), offset=offset, streaming=bool(self.streaming))

    def _files(self) -> list[DataFile]:
        places = self.data_files
        if places is None:
            raise DataError(f"step {self.name!r} has no files to read: give it data_files=")
        if isinstance(places, dict):
            if self.split not in places:
                raise DataError(
                    f"data_files of step {self.name!r} has no split {self.split!r}: it has "
                    f"{list(places)}"
                )
            places = places[self.split]
        named = places if isinstance(places, list) else [places]
        return find_files(
            [str(place) for place in named],
            filetype=self.filetype,
            storage_options=self.storage_options,
        )
