"""A pipeline declared in YAML or JSON: steps by class, connections by name.

The form is that of ``pipeline.yaml`` files::

    pipeline:
      name: greetings
      steps:
        - name: load
          step:
            type_info: {module: asyncdistil.steps, name: LoadDataFromDicts}
            data: [{instruction: Say hello.}]
        - name: keep
          step:
            type_info: {module: asyncdistil.steps, name: KeepColumns}
            columns: [instruction]
      connections:
        - {from: load, to: [keep]}

A file may name classes of asyncdistil only: loading one never imports code of anybody else.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import yaml
from pydantic import BaseModel, ValidationError

from asyncdistil.cli.ending import UsageError
from asyncdistil.errors import DataError, ParameterError
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps.base import BaseStep

_NOT_FIELDS = frozenset({"type_info", "runtime_parameters_info"})


class _TypeInfo(msgspec.Struct):
    module: str
    name: str


class _Step(msgspec.Struct):
    name: str
    step: dict[str, Any]


class _Connection(msgspec.Struct, rename={"source": "from"}):
    source: str
    to: list[str]


class _Pipeline(msgspec.Struct):
    name: str
    steps: list[_Step]
    connections: list[_Connection] = []
    description: str | None = None
    routing_batch_functions: list[Any] = []


class _File(msgspec.Struct):
    pipeline: _Pipeline
    requirements: list[str] = []


def read_pipeline(path: Path) -> Pipeline:
    """Build the pipeline that a file declares.

    Raises:
        UsageError: The file can't be read.
        UserError: It does not declare a pipeline that can be built here; says where.
    """
    declared = _parsed(path)
    if declared.pipeline.routing_batch_functions:
        raise DataError(
            f"{path} has routing functions, which a file can't hold: write it as a script"
        )
    with Pipeline(
        declared.pipeline.name,
        declared.pipeline.description,
        requirements=declared.requirements,
    ) as pipeline:
        for step in declared.pipeline.steps:
            where = f"step {step.name!r} in {path}"
            made = _built({**step.step, "name": step.name}, where)
            if not isinstance(made, BaseStep):
                raise DataError(f"{where} names the class {type(made).__name__}, which is no step")
    for connection in declared.pipeline.connections:
        for target in connection.to:
            pipeline.connect(connection.source, target)
    return pipeline


def _parsed(path: Path) -> _File:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} can't be read ({error.strerror}): name a file") from error
    try:
        # JSON is YAML too.
        return msgspec.convert(yaml.safe_load(text), type=_File)
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise DataError(f"{path} declares no pipeline: {error}") from error


def _built(value: Any, where: str) -> Any:
    """Turn mappings with ``type_info`` into objects, from the inside out."""
    if isinstance(value, list):
        return [_built(item, where) for item in value]
    if not isinstance(value, dict):
        return value
    if "type_info" not in value:
        return {key: _built(item, where) for key, item in value.items()}
    kind = _class(value["type_info"], where)
    fields = {key: _built(item, where) for key, item in value.items() if key not in _NOT_FIELDS}
    try:
        return kind(**fields)
    except ValidationError as error:
        raise ParameterError(f"{where} can't be built: {error}") from error


def _class(info: Any, where: str) -> type[BaseModel]:
    try:
        named = msgspec.convert(info, type=_TypeInfo)
    except msgspec.ValidationError as error:
        raise DataError(f"type_info of {where} can't be read: {error}") from error
    if named.module.partition(".")[0] != "asyncdistil":
        raise DataError(
            f"{where} names {named.module}.{named.name}: a file may name classes of asyncdistil "
            "only, for others write the pipeline as a script"
        )
    try:
        kind = getattr(import_module(named.module), named.name)
    except (ImportError, AttributeError) as error:
        raise DataError(
            f"{where} names {named.module}.{named.name}, which is not there: {error}"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        raise DataError(f"{where} names {named.module}.{named.name}, which is no step or model")
    return kind
