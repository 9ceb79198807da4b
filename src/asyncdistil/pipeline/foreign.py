"""Which classes a pipeline file names, whether they may be used, and objects made of them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Any, NamedTuple, get_args

import msgspec
from pydantic import AliasChoices, BaseModel, ValidationError

from asyncdistil.compat.aliases import hint, resolve
from asyncdistil.compat.table import ABSENT, HOME
from asyncdistil.errors import AsyncDistilError, DataError, ParameterError
from asyncdistil.steps.routing import RoutingBatchFunction

_log = logging.getLogger("asyncdistil.pipeline")
_OWN, _THEIRS = "asyncdistil", "distilabel"
_NOT_FIELDS = frozenset({"type_info", "runtime_parameters_info"})
_TYPE = "type_info"
_SHOWN_CHARACTERS = 200
_NOTHING: tuple[Any, ...] = (None, False, "", "auto", [], {})
"""Values that a field may have which we don't know, without anybody missing it."""


class _Name(NamedTuple):
    module: str
    name: str

    @property
    def shown(self) -> str:
        text = f"{self.module}.{self.name}"
        return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."

    @property
    def root(self) -> str:
        return self.module.partition(".")[0]


class Classes:
    """The classes of one file, found first and used afterwards.

    Args:
        trust: Modules, packages or classes from outside that may be used.
        where: The file, for messages.
    """

    def __init__(self, trust: Iterable[str | type], where: str) -> None:
        given = [trust] if isinstance(trust, str | type) else list(trust)
        self._modules = tuple(one for one in given if isinstance(one, str))
        self._given = {
            _Name(one.__module__, one.__qualname__): one for one in given if isinstance(one, type)
        }
        self._where = where
        self._found: dict[_Name, Any] = {}
        self._unknown: dict[str, None] = {}
        self._strangers: dict[_Name, None] = {}

    # --- finding ------------------------------------------------------------------------------

    def find(self, value: Any, place: str) -> None:
        """Look for every class that a value names, however deep."""
        if isinstance(value, list):
            for item in value:
                self.find(item, place)
        elif isinstance(value, dict):
            if _TYPE in value:
                self._look(self._name(value[_TYPE], place), place)
            for key, item in value.items():
                if key not in _NOT_FIELDS:
                    self.find(item, place)

    def find_router(self, info: Any, place: str) -> None:
        """Look for the function that makes a router."""
        if not info:
            self._unknown[f"{place} (a function of a script, which a file can't hold)"] = None
        else:
            self._look(self._name(info, place), place)

    def refuse_unknown(self) -> None:
        """Raise one error for all that was not found or may not be used.

        Raises:
            DataError: There is something.
        """
        problems: list[str] = []
        if self._unknown:
            problems.append("there is nothing here for " + "; ".join(self._unknown))
        if self._strangers:
            modules = sorted({name.module for name in self._strangers})
            listed = ", ".join(name.shown for name in self._strangers)
            problems.append(
                f"{listed} would run code from outside asyncdistil: if you trust it, say "
                f"trust={modules!r}"
            )
        if problems:
            raise DataError(f"{self._where} can't be used: {'. And '.join(problems)}")

    def _name(self, info: Any, place: str) -> _Name:
        if not isinstance(info, dict) or not all(
            isinstance(info.get(key), str) for key in ("module", "name")
        ):
            raise DataError(f"type_info of {place} in {self._where} must have a module and a name")
        return _Name(info["module"], info["name"])

    def _look(self, name: _Name, place: str) -> None:
        if name in self._found:
            return
        if name in self._given:
            self._found[name] = self._given[name]
        elif name.root in {_OWN, _THEIRS}:
            found = self._ours(name)
            if found is None:
                why = f" ({ABSENT[name.name]})" if name.name in ABSENT else ""
                self._unknown[f"{name.shown} of {place}{why or self._near(name)}"] = None
            else:
                self._found[name] = found
        elif self._trusts(name.module):
            self._import(name, place)
        else:
            self._strangers[name] = None

    def _near(self, name: _Name) -> str:
        return f" ({hint(name.module.partition('.')[2], name.name)})"

    def _ours(self, name: _Name) -> Any:
        """A class of this library, by its present or any former place; ``None`` if none."""
        found: Any = None
        # Importing a `__main__` would run a program.
        if name.root == _OWN and "._" not in name.module:
            try:
                found = getattr(import_module(name.module), name.name)
            except (ImportError, AttributeError):
                found = None
        if found is None and name.name in HOME:
            found = resolve(name.name)
        # A module may hold anything: only what declares fields, or makes routers, is meant.
        usable = isinstance(found, type) and issubclass(found, BaseModel)
        return found if usable or name.name == "sample_n_steps" else None

    def _trusts(self, module: str) -> bool:
        return any(module == one or module.startswith(f"{one}.") for one in self._modules)

    def _import(self, name: _Name, place: str) -> None:
        try:
            found: Any = sys.modules.get(name.module) or import_module(name.module)
            for part in name.name.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError, ValueError) as error:
            self._unknown[f"{name.shown} of {place} ({error})"] = None
            return
        # A trusted module imports others, and `mine:os.system` is not what was trusted.
        home = getattr(found, "__module__", None)
        part = getattr(found, "__qualname__", name.name)
        if not isinstance(home, str) or not isinstance(part, str):
            self._unknown[f"{name.shown} of {place} (neither a class nor a function)"] = None
        elif self._trusts(home) or home.partition(".")[0] == _OWN:
            self._found[name] = found
        else:
            self._strangers[_Name(home, part)] = None

    # --- building -----------------------------------------------------------------------------

    def build(self, value: Any, place: str) -> Any:
        """Turn mappings with ``type_info`` into objects, from the inside out.

        Raises:
            ParameterError: An object can't have its fields.
        """
        if isinstance(value, list):
            return [self.build(item, place) for item in value]
        if not isinstance(value, dict):
            return value
        if value.get("_type") == "enum" and isinstance(value.get("_values"), dict):
            # How distilabel writes a set of named texts.
            return value["_values"]
        fields = {
            key: self.build(item, place) for key, item in value.items() if key not in _NOT_FIELDS
        }
        if _TYPE not in value:
            return fields
        name = self._name(value[_TYPE], place)
        kind = self._found[name]
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return kind
        odd = [key for key in fields if not isinstance(key, str) or key == "self"]
        if odd:
            raise ParameterError(
                f"{place} in {self._where}, a {kind.__name__}, can't be built: {odd[0]!r} can't "
                "be the name of a field, take it out"
            )
        if name.root == _THEIRS:
            fields = self._known_fields(kind, fields, place)
        if "image_generation_model" in fields:
            # The same model once more, as tasks for images have it under both names.
            fields.pop("llm", None)
        try:
            return kind(**fields)
        except ValidationError as error:
            # Values stay out of the message: they may be secrets.
            why = "; ".join(
                f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
                for problem in error.errors(include_input=False, include_url=False)
            )
            raise ParameterError(
                f"{place} in {self._where}, a {kind.__name__}, can't be built: {why}"
            ) from None

    def build_router(self, info: Any) -> RoutingBatchFunction:
        """Call the function that makes a router.

        Raises:
            DataError: Its arguments are no mapping of names to values.
            ParameterError: It can't have these arguments, or made something else.
        """
        name = self._name(info, "a routing function")
        try:
            arguments = msgspec.convert(info.get("kwargs") or {}, type=dict[str, Any])
        except msgspec.ValidationError as error:
            raise DataError(
                f"kwargs of {name.shown} in {self._where} must be arguments by name: {error}"
            ) from error
        try:
            made = self._found[name](**arguments)
        except AsyncDistilError:
            raise
        except (TypeError, ValueError) as error:
            raise ParameterError(
                f"{name.shown} in {self._where} can't be called with {sorted(arguments)}: "
                f"{type(error).__name__}, compare its signature"
            ) from error
        if not isinstance(made, RoutingBatchFunction):
            raise ParameterError(
                f"{name.shown} in {self._where} made a {type(made).__name__}, no routing function"
            )
        if made.factory is None:
            made.factory = (f"{name.module}:{name.name}", arguments)
        return made

    def _known_fields(
        self, kind: type[BaseModel], fields: dict[str, Any], place: str
    ) -> dict[str, Any]:
        """Fields of a class of distilabel that ours has too; its lists of models are dicts."""
        for key, value in fields.items():
            if isinstance(value, dict) and value and list(value) == [*map(str, range(len(value)))]:
                fields[key] = list(value.values())
        names = _names(kind)
        unknown = {key: value for key, value in fields.items() if key not in names}
        # Their default may be None where ours is what they make of it.
        unset = {key for key in names.keys() & fields if fields[key] is None and not names[key]}
        told = sorted(key for key, value in unknown.items() if value not in _NOTHING)
        if told:
            _log.warning(
                "%s in %s: %s has no %s here, left out", place, self._where, kind.__name__, told
            )
        known = {key: value for key, value in fields.items() if key in names.keys() - unset}
        # What has no common identity is joined row by row there.
        return {"align": "position", **known} if "align" in kind.model_fields else known


def _names(kind: type[BaseModel]) -> dict[str, bool]:
    """Names under which fields of a class are given, and whether each may be ``None``."""
    names: dict[str, bool] = {}
    for name, field in kind.model_fields.items():
        optional = field.annotation is Any or type(None) in get_args(field.annotation)
        given = [name, field.alias, field.validation_alias]
        if isinstance(field.validation_alias, AliasChoices):
            given += field.validation_alias.choices
        names |= {one: optional for one in given if isinstance(one, str)}
    return names
