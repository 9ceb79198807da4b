"""A pipeline as plain data, and back: what ``dump``, ``save`` and the ``from_...`` methods do.

The form is that of distilabel's ``pipeline.yaml``, whose own files are read too. Reading one runs
no code but that of asyncdistil's classes, unless the caller says whose code it trusts; writing one
leaves every secret out, and the rows of loaders that were given in the program.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from uuid import uuid4

import msgspec
from pydantic import BaseModel, SecretBytes, SecretStr

from asyncdistil.errors import DataError
from asyncdistil.mixins.runtime_parameters import secret_class
from asyncdistil.pipeline.bounds import check_bounds
from asyncdistil.redaction import Redaction

if TYPE_CHECKING:
    from asyncdistil.pipeline.parsing import Format
    from asyncdistil.pipeline.pipeline import Pipeline
    from asyncdistil.steps.base import BaseStep

_P = TypeVar("_P")

_YAML = frozenset({".yaml", ".yml"})
_SECRET_NAME = re.compile(
    r"(.*[_-])?(api[_-]?key|secret|password|passwd|authorization|credentials?"
    r"|(access|auth|hf|bearer|api|hub)[_-]token)|token",
    re.IGNORECASE,
)
_URL_WITH_PASSWORD = re.compile(r"(\w+://)[^/\s@]*:[^/\s@]*@(\S+)")


# --- writing ----------------------------------------------------------------------------------


class Problem(NamedTuple):
    """A value that has no form in a file."""

    where: str
    why: str


def dumped(pipeline: Pipeline) -> dict[str, Any]:
    """Return a pipeline as plain data.

    Raises:
        DataError: Values of it have no form in a file; names all of them.
    """
    from asyncdistil import __version__

    problems: list[Problem] = []
    data = {
        "asyncdistil": {"version": __version__},
        "pipeline": {
            "name": pipeline.name,
            "description": pipeline.description,
            "enable_metadata": pipeline.enable_metadata,
            "steps": [
                {"name": name, "step": _model(step, name, problems)}
                for name, step in pipeline.steps.items()
            ],
            "connections": list(_connections(pipeline)),
            "routing_batch_functions": list(_routers(pipeline, problems)),
            "type_info": {"module": "asyncdistil.pipeline", "name": "Pipeline"},
        },
        "requirements": list(pipeline.requirements),
    }
    if problems:
        listed = "; ".join(f"{one.where} {one.why}" for one in problems)
        raise DataError(
            f"pipeline {pipeline.name!r} can't be written to a file: {listed}. Keep it as a "
            "script, or give these steps values that a file can hold"
        )
    secrets = [text for step in pipeline.steps.values() for text in step.secrets()]
    shown: dict[str, Any] = _without(data, Redaction(secrets))
    return shown


def save(pipeline: Pipeline, path: str | os.PathLike[str], form: Format | None) -> Path:
    """Write a pipeline to a file, whole or not at all, and return where."""
    target = Path(path)
    if form is None:
        form = "yaml" if target.suffix in _YAML else "json"
    if target.is_dir():
        target /= f"pipeline.{form}"
    text = as_text(dumped(pipeline), form)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def as_text(data: Mapping[str, Any], form: Format) -> str:
    """Return a dump as the text of a file."""
    if form == "yaml":
        import yaml  # only now, because a run's start waits for this module

        # Each run writes one: libyaml takes a quarter of the time, where it is there.
        dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
        text: str = yaml.dump(dict(data), Dumper=dumper, sort_keys=False, allow_unicode=True)
        return text
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def _connections(pipeline: Pipeline) -> Iterator[dict[str, Any]]:
    """Yield edges in an order that keeps both the ports of each step and its successors' order."""
    graph = pipeline.graph
    after = {name: list(graph.successors(name)) for name in graph.names}
    ports = {name: list(graph.predecessors(name)) for name in graph.names}
    entry: dict[str, Any] | None = None
    for _ in graph.edges:
        source = next(
            source for source, left in after.items() if left and ports[left[0]][0] == source
        )
        target = after[source].pop(0)
        ports[target].pop(0)
        if entry is not None and entry["from"] == source:
            entry["to"].append(str(target))
            continue
        if entry is not None:
            yield entry
        entry = {"from": str(source), "to": [str(target)]}
    if entry is not None:
        yield entry
    # Nothing to connect; distilabel names them too, and who draws a file may count on it.
    for name in graph.names:
        if not graph.successors(name):
            yield {"from": str(name), "to": []}


def _routers(pipeline: Pipeline, problems: list[Problem]) -> Iterator[dict[str, Any]]:
    routed = pipeline.graph.routed
    for source, router in pipeline.routers.items():
        if router.factory is None:
            problems.append(
                Problem(f"the routing function after step {source!r}", "is a function of a script")
            )
            continue
        place, arguments = router.factory
        module, _, name = place.partition(":")
        yield {
            "step": str(source),
            "to": [str(target) for target in routed[source]],
            "description": router.description,
            "type_info": {"module": module, "name": name, "kwargs": dict(arguments)},
        }


def _model(model: BaseModel, where: str, problems: list[Problem]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if (
            field.exclude
            or secret_class(field.annotation) is not None
            or (value is None and field.default is None and field.default_factory is None)
            or (isinstance(value, str) and _SECRET_NAME.fullmatch(name))
        ):
            continue
        fields[name] = _plain(value, f"{where}.{name}", problems)
    kind = type(model)
    if "<locals>" in kind.__qualname__:
        problems.append(Problem(where, f"is of class {kind.__name__}, defined in a function"))
    return fields | {"type_info": {"module": kind.__module__, "name": kind.__qualname__}}


def _plain(value: Any, where: str, problems: list[Problem]) -> Any:
    """Return a value as what JSON and YAML hold; what has no such form is added to problems."""
    match value:
        case None | bool():
            return value
        case Enum():
            return _plain(value.value, where, problems)
        case str():
            return _URL_WITH_PASSWORD.sub(r"\1\2", value) if "://" in value else str(value)
        case int():
            return int(value)
        case float():
            return float(value)
        case PurePath():
            return str(value)
        case SecretStr() | SecretBytes():
            return None
        case BaseModel():
            return _model(value, where, problems)
        case Mapping():
            return {
                str(key): _plain(item, f"{where}.{key}", problems)
                for key, item in value.items()
                if not isinstance(item, SecretStr | SecretBytes)
                and not (isinstance(item, str) and _SECRET_NAME.fullmatch(str(key)))
            }
        case list() | tuple():
            return [_plain(one, f"{where}.{n}", problems) for n, one in enumerate(value)]
        case set() | frozenset():
            return [_plain(one, where, problems) for one in sorted(value, key=repr)]
        case re.Pattern():
            return value.pattern
    if isinstance(value, type) and issubclass(value, BaseModel):
        # What a model's answer must look like: the schema says it all.
        return value.model_json_schema()
    name = getattr(value, "__qualname__", None)
    if name is not None and "<" not in name:
        return {"type_info": {"module": value.__module__, "name": name}}
    problems.append(Problem(where, f"is a {type(value).__name__}"))
    return None


def _without(value: Any, redact: Redaction) -> Any:
    """Hide known secrets wherever they stand, however they came there."""
    match value:
        case str():
            return redact(value)
        case dict():
            return {key: _without(item, redact) for key, item in value.items()}
        case list():
            return [_without(item, redact) for item in value]
    return value


# --- reading ----------------------------------------------------------------------------------


class _Step(msgspec.Struct):
    name: str
    step: dict[str, Any]


class _Connection(msgspec.Struct, rename={"source": "from"}):
    source: str
    to: list[str]


class _Router(msgspec.Struct):
    step: str
    to: list[str] = []
    description: str | None = None
    type_info: dict[str, Any] | None = None


class _Pipeline(msgspec.Struct):
    name: str | None = None
    steps: list[_Step] = []
    connections: list[_Connection] = []
    description: str | None = None
    enable_metadata: bool = True
    routing_batch_functions: list[_Router] = []


class _File(msgspec.Struct):
    pipeline: _Pipeline
    requirements: list[str] = []


def built(
    kind: type[_P], data: Any, *, trust: Iterable[str | type], where: str, **options: Any
) -> _P:
    """Build the pipeline that plain data declares.

    Args:
        kind: Class of the pipeline.
        data: As `dumped` returns it, or as distilabel wrote it.
        trust: Whose classes may be used besides asyncdistil's: modules or packages by name,
            which are imported then, or the classes themselves.
        where: What it was read from, for messages.
        options: Further arguments of the pipeline, such as ``cache_dir``.

    Raises:
        DataError: It declares no pipeline, goes beyond the bounds of `parsing`, or names classes
            that are unknown or not trusted; lists all of them.
        ParameterError: A step can't have the fields that it is given.
    """
    from asyncdistil.pipeline.foreign import Classes

    check_bounds(data, where)
    try:
        declared = msgspec.convert(data, type=_File)
    except msgspec.ValidationError as error:
        raise DataError(f"{where} declares no pipeline: {error}") from error
    classes = Classes(trust, where)
    for step in declared.pipeline.steps:
        classes.find(step.step, f"step {step.name!r}")
    for router in declared.pipeline.routing_batch_functions:
        classes.find_router(router.type_info, f"the routing function after step {router.step!r}")
    classes.refuse_unknown()
    head = declared.pipeline
    requirements = [text for text in declared.requirements if not _names_distilabel(text)]
    make: Any = kind
    with make(
        head.name,
        head.description,
        enable_metadata=head.enable_metadata,
        requirements=requirements,
        **options,
    ) as pipeline:
        for step in head.steps:
            _add(classes.build({**step.step, "name": step.name}, f"step {step.name!r}"), where)
    _connect(pipeline, head, classes)
    made: _P = pipeline
    return made


def _names_distilabel(requirement: str) -> bool:
    return re.match(r"distilabel\b", requirement) is not None


def _add(made: Any, where: str) -> BaseStep:
    from asyncdistil.steps.base import BaseStep

    if not isinstance(made, BaseStep):
        raise DataError(f"{where} has a {type(made).__name__} among its steps, which is no step")
    return made


def _connect(pipeline: Pipeline, declared: _Pipeline, classes: Any) -> None:
    for connection in declared.connections:
        for target in connection.to:
            pipeline.connect(connection.source, target)
    for router in declared.routing_batch_functions:
        targets = router.to or list(pipeline.graph.successors(router.step))
        made = classes.build_router(router.type_info)
        if router.description:
            made.description = router.description
        pipeline.add_router(router.step, made, targets)
