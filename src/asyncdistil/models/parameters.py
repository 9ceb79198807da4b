"""Generation parameters: what a model's ``generate`` takes, checked before it is called.

The parameters of ``generate`` (``agenerate`` of an asynchronous model) other than the input and the
number of generations are what ``generation_kwargs`` may hold. Values are converted by their
annotations, so that text from a command line becomes the number it stands for.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeAlias, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from asyncdistil.errors import ParameterError
from asyncdistil.mixins.runtime_parameters import RUNTIME_PARAMETER

_T = TypeVar("_T")

Setting: TypeAlias = Annotated[_T, RUNTIME_PARAMETER]
"""A field that a run may set, with a default of its own; ``Setting[T] | None`` may stay empty."""

_NOT_GENERATION = frozenset({"self", "input", "inputs", "num_generations"})


def generation_parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Parameters of ``generate`` that a caller may set, ``**kwargs`` included if there is one."""
    parameters = inspect.signature(function).parameters
    return [p for name, p in parameters.items() if name not in _NOT_GENERATION]


def parameter_names(function: Callable[..., Any]) -> dict[str, bool]:
    """Names a caller may set, and whether each may be left out; ``**kwargs`` is no name."""
    return {
        p.name: p.default is not p.empty
        for p in generation_parameters(function)
        if p.kind is not p.VAR_KEYWORD
    }


@functools.cache
def _adapters(function: Callable[..., Any]) -> Mapping[str, TypeAdapter[Any]]:
    """Converters by parameter name; a parameter without a usable annotation has none."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):  # names that exist only for type checkers
        hints = {
            name: p.annotation
            for name, p in inspect.signature(function).parameters.items()
            if p.annotation is not p.empty and not isinstance(p.annotation, str)
        }
    adapters: dict[str, TypeAdapter[Any]] = {}
    for parameter in generation_parameters(function):
        if parameter.kind is parameter.VAR_KEYWORD or parameter.name not in hints:
            continue
        try:
            adapters[parameter.name] = TypeAdapter(hints[parameter.name])
        except Exception:
            # Pydantic cannot build a schema for every annotation that is legal in Python; such a
            # value is passed as it is, and the model's own code judges it.
            continue
    return adapters


def checked_kwargs(
    function: Callable[..., Any], given: Mapping[str, Any], *, owner: str
) -> dict[str, Any]:
    """Check generation parameters and convert them to their annotated types.

    Args:
        function: The undecorated ``generate`` or ``agenerate`` of the class.
        given: What the user set.
        owner: Class name, for the message.

    Raises:
        ParameterError: A name that ``function`` does not take, or a value that its annotation
            refuses.
    """
    known = {p.name: p for p in generation_parameters(function)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in known.values())
    adapters = _adapters(function)
    checked: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known and not takes_any:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(known)}"
            raise ParameterError(f"{owner} has no generation parameter {name!r}: {hint}")
        adapter = adapters.get(name)
        if adapter is None:
            checked[name] = value
            continue
        try:
            checked[name] = adapter.validate_python(value)
        except ValidationError as error:
            reason = error.errors(include_url=False, include_input=False)[0]["msg"]
            raise ParameterError(
                f"generation parameter {name!r} of {owner} refuses {value!r}: {reason}"
            ) from None
    return checked
