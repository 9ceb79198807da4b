"""What a step, or a model, says that can't be made with the parameters that it was given."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from asyncdistil.errors import ParameterError
from asyncdistil.mixins.runtime_parameters import secret_class

_PLAIN = (str, int, float, bool, type(None))
_OWN_WORDS = (
    "Value error, ",
    "Assertion failed, ",
)  # what pydantic puts before those of a validator


class RefusedParameters(ParameterError, ValidationError):
    """Something can't be made with these parameters; pydantic's own error too, with its details."""

    _said: str

    @classmethod
    def of(cls, error: ValidationError, kind: type[BaseModel], who: str) -> Self:
        """Say in words what pydantic says of a class.

        Args:
            error: What pydantic raised.
            kind: Class that was to be made.
            who: What can't be made, such as ``a step TextGeneration``.
        """
        details = error.errors(include_url=False)
        made = cls.from_exception_data(error.title, [_again(each) for each in details])
        made._said = f"{who} can't be made: {'; '.join(_problems(details, kind))}"
        return made

    def __str__(self) -> str:
        return self._said

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._said!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # The inputs in the details need not be picklable.
        return ParameterError, (self._said,)


def _again(problem: ErrorDetails) -> InitErrorDetails:
    # Without what it was told of: that is no template any more, and may hold a secret.
    kind = PydanticCustomError(problem["type"], problem["msg"])
    return InitErrorDetails(type=kind, loc=problem["loc"], input=problem["input"])


def _problems(details: Sequence[ErrorDetails], kind: type[BaseModel]) -> Iterable[str]:
    told: list[str] = []
    missing: list[str] = []
    meant: set[str] = set()
    for problem in details:
        *above, last = problem["loc"] or ("",)
        where = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            known = _fields(kind, above)
            close = difflib.get_close_matches(str(last), known, n=1)
            meant.update(".".join(map(str, [*above, each])) for each in close)
            hint = (
                f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known) or 'none'}"
            )
            told.append(f"it has no parameter {where!r}: {hint}")
        elif problem["type"] == "missing":
            missing.append(where)
        elif not where:
            told.append(_words(problem))
        else:
            told.append(
                f"parameter {where!r}{_given(problem, kind)} can't be used: {_words(problem)}"
            )
    told += [f"it needs a value for {where!r}" for where in missing if where not in meant]
    return told


def _words(problem: ErrorDetails) -> str:
    context: Mapping[str, Any] = problem.get("ctx", {})
    if "class_name" in context and problem["type"] == "model_type":
        return f"give an instance of {context['class_name']}"
    text = problem["msg"]
    for prefix in _OWN_WORDS:
        text = text.removeprefix(prefix)
    return text


def _given(problem: ErrorDetails, kind: type[BaseModel]) -> str:
    """Show what was given, unless it may be a secret or is long-winded."""
    value = problem["input"]
    name, *below = problem["loc"]
    field = kind.model_fields.get(str(name))
    if below or field is None or secret_class(field.annotation) is not None:
        return ""
    if not isinstance(value, _PLAIN):
        return f" (given one of type {type(value).__name__})"
    return f" (given {value!r:.80})"


def _fields(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """Names that a parameter at the end of a path could have."""
    for part in path:
        field = model.model_fields.get(str(part))
        kind = field.annotation if field else None
        if not isinstance(kind, type) or not issubclass(kind, BaseModel):
            return []
        model = kind
    # Those of its own before those that every step has.
    return [name for name in reversed(model.model_fields) if name != "pipeline"]
