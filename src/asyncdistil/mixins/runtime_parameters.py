"""Fields that ``Pipeline.run(parameters=...)`` may set, nested ones included.

A field is one if its annotation carries the mark: ``RuntimeParameter[int]``, or
``Annotated[int, RUNTIME_PARAMETER]`` where ``None`` is no value. A field that holds an object
with runtime parameters of its own (a model, the resources), or a list of such, nests them:
``{"llm": {"generation_kwargs": {"temperature": 0.2}}}``, ``{"llms": {"0": {...}}}``.
"""

from __future__ import annotations

import difflib
import logging
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

from pydantic import BaseModel, GetCoreSchemaHandler, SecretBytes, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import core_schema

from asyncdistil.compat.hooks import stands_in
from asyncdistil.errors import ParameterError

_T = TypeVar("_T")
_log = logging.getLogger("asyncdistil.parameters")


class RuntimeParameterMark:
    """Marks an annotation; `RUNTIME_PARAMETER` is one, the one in `RuntimeParameter` another.

    Args:
        name: Under which this module has the mark.
        may_wait: Whether a field so marked is ``None`` until it gets a value.
    """

    __slots__ = ("_name", "may_wait")

    def __init__(self, name: str, *, may_wait: bool) -> None:
        self._name = name
        self.may_wait = may_wait

    def __repr__(self) -> str:
        return self._name

    def __reduce__(self) -> str:
        # By name, so that a field definition that travels to a worker keeps the one object.
        return self._name

    def __signature__(self) -> str:
        """What counts of the mark in the identity of a class that uses it."""
        return self._name

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        schema = handler(source)
        if not self.may_wait:
            return schema
        # Not `Field(default=None)`: pydantic warns of it inside `Optional[...]`.
        return core_schema.with_default_schema(schema, default=None)


RUNTIME_PARAMETER = RuntimeParameterMark("RUNTIME_PARAMETER", may_wait=False)
VALUE_BY_RUN = RuntimeParameterMark("VALUE_BY_RUN", may_wait=True)
RuntimeParameter: TypeAlias = Annotated[_T | None, VALUE_BY_RUN]
"""A field that a run may set. Without a default it must have a value by then; write
``Optional[RuntimeParameter[T]]`` if ``None`` is a value."""

RuntimeParameterNames: TypeAlias = dict[str, Any]
"""Parameter name to whether it is optional (``bool``), or to the names nested below it."""


def _is_mark(value: object) -> bool:
    return isinstance(value, RuntimeParameterMark)


def _marked_inside(annotation: Any) -> bool:
    """Whether a member of a union carries the mark."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return False
    for member in get_args(annotation):
        if get_origin(member) is Annotated and any(map(_is_mark, get_args(member)[1:])):
            return True
        if _marked_inside(member):
            return True
    return False


def is_runtime_parameter(field: FieldInfo) -> tuple[bool, bool]:
    """Say whether a field is a runtime parameter, and whether it may stay without a value."""
    if any(map(_is_mark, field.metadata)):
        has_default = field.default_factory is not None or (
            not field.is_required() and field.default is not None
        )
        return True, has_default
    if _marked_inside(field.annotation):
        return True, True
    return False, True


def secret_class(annotation: Any) -> type[SecretStr | SecretBytes] | None:
    """Return the secret type that an annotation admits, alone or in a union; or ``None``."""
    if isinstance(annotation, type) and issubclass(annotation, SecretStr | SecretBytes):
        return annotation
    for member in get_args(annotation):
        if (found := secret_class(member)) is not None:
            return found
    return None


def _nested(value: object) -> dict[str, HasRuntimeParameters]:
    """Return the objects with parameters of their own in a list, by position as text."""
    if isinstance(value, list | tuple):
        return {
            str(position): item
            for position, item in enumerate(value)
            if isinstance(item, HasRuntimeParameters)
        }
    return {}


def _called(kind: type[HasRuntimeParameters], name: object) -> str:
    noun = kind._noun
    if noun and name:
        return f"{noun} {name!r}, a {kind.__name__},"
    return f"a {noun} {kind.__name__}" if noun else kind.__name__


class HasRuntimeParameters(BaseModel):
    """A pydantic model some of whose fields a run may set."""

    # What it is called where it can't be made: ``step``, ``model``.
    _noun: ClassVar[str] = ""

    if not TYPE_CHECKING:  # type checkers shall see the parameters of each class

        def __init__(self, **data: Any) -> None:
            try:
                super().__init__(**data)
            except ValidationError as error:
                from asyncdistil.mixins.refusal import RefusedParameters

                who = _called(type(self), data.get("name"))
                raise RefusedParameters.of(error, type(self), who) from None

    @property
    def runtime_parameters_names(self) -> RuntimeParameterNames:
        """Names of the parameters; override to add names that are no fields."""
        names: RuntimeParameterNames = {}
        for name, field in type(self).model_fields.items():
            marked, optional = is_runtime_parameter(field)
            value = getattr(self, name)
            if isinstance(value, HasRuntimeParameters):
                if below := value.runtime_parameters_names:
                    names[name] = below
            elif items := _nested(value):
                names[name] = {
                    position: item.runtime_parameters_names for position, item in items.items()
                }
            elif marked:
                names[name] = optional
        return names

    def get_runtime_parameters_info(self) -> list[dict[str, Any]]:
        """Describe every parameter for people.

        Returns:
            One dict per parameter: ``name``, ``optional`` and, if it has one, ``description``;
            or ``name`` and ``runtime_parameters_info`` for a nested object.
        """
        info: list[dict[str, Any]] = []
        names = self.runtime_parameters_names
        for name, optional in names.items():
            value = getattr(self, name, None)
            if isinstance(value, HasRuntimeParameters):
                entry: dict[str, Any] = {
                    "name": name,
                    "runtime_parameters_info": value.get_runtime_parameters_info(),
                }
            elif items := _nested(value):
                entry = {
                    "name": name,
                    "runtime_parameters_info": {
                        position: item.get_runtime_parameters_info()
                        for position, item in items.items()
                    },
                }
            else:
                entry = {"name": name, "optional": optional if optional in (True, False) else True}
                field = type(self).model_fields.get(name)
                if field is not None and field.description:
                    entry["description"] = field.description
            info.append(entry)
        return info

    def set_runtime_parameters(self, parameters: Mapping[str, Any], *, path: str = "") -> None:
        """Set parameters; they stay set.

        Args:
            parameters: Name to value; to a mapping for nested objects.
            path: Dotted place of this object, for messages.

        Raises:
            ParameterError: A name is unknown, a value of the wrong type, or not a mapping where one
                is needed.
        """
        known = self.runtime_parameters_names
        unknown = [name for name in parameters if name not in known]
        for name in unknown:
            is_field = name in type(self).model_fields
            refuse_unknown(name, known, path or type(self).__name__, is_field=is_field)
        for name, value in parameters.items():
            where = f"{path}.{name}" if path else name
            if name in unknown:
                continue
            current = getattr(self, name, None)
            if isinstance(current, HasRuntimeParameters):
                current.set_runtime_parameters(_mapping(value, where), path=where)
            elif items := _nested(current):
                for position, below in _mapping(value, where).items():
                    item = items.get(str(position))
                    if item is None:
                        refuse_unknown(str(position), items, where)
                    else:
                        item.set_runtime_parameters(
                            _mapping(below, where), path=f"{where}.{position}"
                        )
            else:
                self._set_parameter(name, value, where)

    def _set_parameter(self, name: str, value: Any, where: str) -> None:
        try:
            setattr(self, name, value)
        except ValidationError as error:
            # The value itself stays out of the message where it may be a secret.
            field = type(self).model_fields[name]
            secret = secret_class(field.annotation) is not None
            given = "" if secret else f" (given {value!r:.80})"
            why = "; ".join(problem["msg"] for problem in error.errors(include_input=False))
            raise ParameterError(f"parameter {where!r}{given} can't be set: {why}") from None

    def missing_runtime_parameters(self) -> list[str]:
        """Dotted paths of the required parameters that have no value yet."""
        return list(_missing(self, self.runtime_parameters_names, ""))


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ParameterError(
            f"parameter {where!r} holds parameters of its own: give it a dict, not {value!r:.80}"
        )
    return value


def refuse_unknown(name: str, known: Iterable[str], where: str, *, is_field: bool = False) -> None:
    """Say that a name is unknown, with the nearest known one.

    Scripts written for distilabel rely on its warning; everywhere else a misspelt parameter that
    is left out would be a run with the wrong setting, paid for.

    Args:
        name: What was given.
        known: Names that could have been.
        where: Whose parameters they are.
        is_field: Whether it is a field, though not one that a run may set.

    Raises:
        ParameterError: Unless such a script runs.
    """
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known) or 'none'}"
    if is_field:
        hint = (
            "it is a field, set where the object is made; declare it as RuntimeParameter[...] to "
            f"set it for a run ({hint})"
        )
    if not stands_in():
        raise ParameterError(f"{where} has no runtime parameter {name!r}: {hint}")
    _log.warning("%s has no runtime parameter %r, it is left out: %s", where, name, hint)


def _missing(owner: object, names: RuntimeParameterNames, path: str) -> Iterator[str]:
    for name, optional in names.items():
        where = f"{path}.{name}" if path else name
        if isinstance(owner, Mapping):
            value = owner.get(name)
        elif isinstance(owner, list | tuple):
            value = owner[int(name)]
        else:
            value = getattr(owner, name, None)
        if isinstance(optional, Mapping):
            yield from _missing({} if value is None else value, dict(optional), where)
        elif not optional and value is None:
            yield where


def call_to_write(step: str, missing: Iterable[str]) -> str:
    """Return the ``run`` call that gives a step its missing parameters."""
    tree: dict[str, Any] = {}
    for path in missing:
        *above, last = path.split(".")
        node = tree
        for part in above:
            node = node.setdefault(part, {})
        node[last] = ...
    return f"pipeline.run(parameters={{{step!r}: {tree!r}}})".replace("Ellipsis", "...")


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Names that distilabel has in this module; type checkers are not to see them."""
        from asyncdistil.compat.aliases import old_names

        return old_names(__name__)(name)
