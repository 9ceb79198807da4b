"""The methods of a pipeline that write it to a file and build it from one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

if TYPE_CHECKING:
    from asyncdistil.pipeline.pipeline import Pipeline


class InFiles:
    """What can be written to a file and built from one: `Pipeline` is."""

    def dump(self) -> dict[str, Any]:
        """Return the pipeline as plain data, without secrets and without rows of its loaders.

        Raises:
            DataError: A value has no form in a file, such as a function of a script.
        """
        from asyncdistil.pipeline import serialise

        return serialise.dumped(cast("Pipeline", self))

    def save(
        self, path: str | os.PathLike[str], format: Literal["json", "yaml"] | None = None
    ) -> Path:
        """Write the pipeline to a file and return where; `from_file` reads it again.

        Args:
            path: The file, or a directory for ``pipeline.json`` or ``pipeline.yaml`` in it.
            format: Without it, the suffix says so; JSON if there is none.

        Raises:
            DataError: As for `dump`.
        """
        from asyncdistil.pipeline import serialise

        return serialise.save(cast("Pipeline", self), path, format)

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], *, trust: Iterable[str | type] = (), **options: Any
    ) -> Self:
        """Build a pipeline of plain data: of a `dump`, or of one of distilabel.

        Args:
            data: The data.
            trust: Whose classes may be used besides asyncdistil's: modules or packages by name,
                which are imported then, or the classes themselves.
            options: Further arguments of the pipeline, such as ``cache_dir``.

        Raises:
            DataError: It declares no pipeline, or names classes that are unknown or not trusted.
            ParameterError: A step can't have the fields that it is given.
        """
        from asyncdistil.pipeline import serialise

        return serialise.built(cls, data, trust=trust, where="the dict", **options)

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], *, trust: Iterable[str | type] = (), **options: Any
    ) -> Self:
        """Build the pipeline that a JSON or YAML file declares; by its suffix.

        Arguments and errors are those of `from_dict`.
        """
        from asyncdistil.pipeline import parsing, serialise

        data = parsing.parsed_file(path)
        return serialise.built(cls, data, trust=trust, where=os.fspath(path), **options)

    @classmethod
    def from_json(
        cls, path: str | os.PathLike[str], *, trust: Iterable[str | type] = (), **options: Any
    ) -> Self:
        """Build the pipeline that a JSON file declares; see `from_dict`."""
        from asyncdistil.pipeline import parsing, serialise

        data = parsing.parsed_file(path, "json")
        return serialise.built(cls, data, trust=trust, where=os.fspath(path), **options)

    @classmethod
    def from_yaml(
        cls, path: str | os.PathLike[str], *, trust: Iterable[str | type] = (), **options: Any
    ) -> Self:
        """Build the pipeline that a YAML file declares; see `from_dict`."""
        from asyncdistil.pipeline import parsing, serialise

        data = parsing.parsed_file(path, "yaml")
        return serialise.built(cls, data, trust=trust, where=os.fspath(path), **options)
