"""``@step``: a step class out of a function."""

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import create_model

from asyncdistil.errors import ParameterError
from asyncdistil.mixins.runtime_parameters import RuntimeParameterMark
from asyncdistil.steps.base import BaseStep
from asyncdistil.steps.generator import GeneratorStep
from asyncdistil.steps.global_step import GlobalStep
from asyncdistil.steps.step import Step
from asyncdistil.typing import StepColumns, StepInputMark

StepType = Literal["normal", "global", "generator"]


class _FunctionStep(BaseStep):
    """What makes a step of a function; the function and its parameters are per class."""

    function: ClassVar[Callable[..., Any]]
    parameter_names: ClassVar[tuple[str, ...]] = ()
    declared_inputs: ClassVar[StepColumns] = []
    declared_outputs: ClassVar[StepColumns] = []

    @property
    def inputs(self) -> StepColumns:
        """Columns given to the decorator."""
        return self.declared_inputs

    @property
    def outputs(self) -> StepColumns:
        """Columns given to the decorator."""
        return self.declared_outputs

    def extra_code(self) -> Mapping[str, Callable[..., Any]]:
        """The function; the class around it is the library's."""
        return {"function": type(self).function}

    def _parameters(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.parameter_names}


class _NormalFunctionStep(_FunctionStep, Step):
    @property
    def takes_many_ports(self) -> bool:
        return _takes_many(type(self).function)

    def process(self, *inputs: Any) -> Any:
        return type(self).function(*inputs, **self._parameters())


class _GlobalFunctionStep(_FunctionStep, GlobalStep):
    @property
    def takes_many_ports(self) -> bool:
        return _takes_many(type(self).function)

    def process(self, *inputs: Any) -> Any:
        return type(self).function(*inputs, **self._parameters())


class _GeneratorFunctionStep(_FunctionStep, GeneratorStep):
    def process(self, offset: int = 0) -> Any:
        return type(self).function(offset=offset, **self._parameters())


_BASES: dict[StepType, type[BaseStep]] = {
    "normal": _NormalFunctionStep,
    "global": _GlobalFunctionStep,
    "generator": _GeneratorFunctionStep,
}


def step(
    inputs: StepColumns | None = None,
    outputs: StepColumns | None = None,
    step_type: StepType = "normal",
    *,
    row_wise: bool = False,
    resumable: bool = False,
    reads_only_fields: bool = False,
) -> Callable[[Callable[..., Any]], Any]:
    """Make a step class of a function; it is named after the function.

    The first parameter of the function gets the rows (``*inputs`` those of several steps; a
    generator has ``offset`` instead). Every other parameter becomes a field of the class, set in
    its constructor; one annotated ``RuntimeParameter`` also by ``run(parameters=...)``.

    Args:
        inputs: Columns that the function reads.
        outputs: Columns that it adds or replaces.
        step_type: ``normal``, ``global`` or ``generator``.
        row_wise: As `Step.row_wise`.
        resumable: As `GeneratorStep.resumable`.
        reads_only_fields: As `GeneratorStep.reads_only_fields`.

    Raises:
        ParameterError: The function's parameters don't suit the type, or the type is unknown.
    """
    if step_type not in _BASES:
        raise ParameterError(f"step_type must be one of {list(_BASES)}, not {step_type!r}")

    def decorate(function: Callable[..., Any]) -> Any:
        fields = _fields_of(function, step_type)
        base = _BASES[step_type]
        definitions: dict[str, Any] = dict(fields)
        if row_wise:
            definitions["row_wise"] = (bool, True)
        # Through Any: the class attributes below are not known to type checkers.
        make: Any = create_model
        made = make(
            function.__name__,
            __base__=base,
            __module__=function.__module__,
            __doc__=function.__doc__,
            **definitions,
        )
        # Where the function stood the class stands now, so it is found by the same name.
        made.__qualname__ = function.__qualname__
        made.function = function
        made.parameter_names = tuple(fields)
        made.declared_inputs = inputs or []
        made.declared_outputs = outputs or []
        if issubclass(made, GeneratorStep):
            made.resumable = resumable
            made.reads_only_fields = reads_only_fields
        return made

    return decorate


def _takes_many(function: Callable[..., Any]) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(p.kind is p.VAR_POSITIONAL for p in parameters)


def _fields_of(function: Callable[..., Any], step_type: StepType) -> dict[str, tuple[Any, Any]]:
    """Return the parameters that become fields, with annotation and default."""
    parameters = dict(inspect.signature(function).parameters)
    hints = {name: _hint(function, name, p.annotation) for name, p in parameters.items()}
    if step_type == "generator":
        rows = "offset"
        if rows not in parameters:
            raise ParameterError(
                f"generator function {function.__name__!r} needs a parameter `offset`: write "
                f"`def {function.__name__}(offset: int = 0, ...)`"
            )
    else:
        marked = [name for name in parameters if _is_rows(hints[name])]
        rows = (marked or list(parameters) or [""])[0]
        if not rows or len(marked) > 1:
            raise ParameterError(
                f"step function {function.__name__!r} needs exactly one parameter for its rows: "
                f"write `def {function.__name__}(inputs: StepInput, ...)`, or `*inputs: StepInput`"
            )
    fields: dict[str, tuple[Any, Any]] = {}
    for name, parameter in parameters.items():
        if name == rows:
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ParameterError(
                f"step function {function.__name__!r} takes `{parameter}`: name every parameter, "
                f"each becomes a field"
            )
        if name in Step.model_fields or name in GeneratorStep.model_fields:
            raise ParameterError(
                f"step function {function.__name__!r} has a parameter {name!r}, which every step "
                f"has already: call it something else"
            )
        if parameter.default is not parameter.empty:
            default = parameter.default
        else:
            # A runtime parameter may get its value as late as the run.
            default = None if _is_runtime_parameter(hints[name]) else ...
        fields[name] = (hints[name], default)
    return fields


def _hint(function: Callable[..., Any], name: str, annotation: Any) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    holder = type("_", (), {"__annotations__": {name: annotation}})
    scope = inspect.unwrap(function).__globals__
    try:
        return typing.get_type_hints(holder, scope, include_extras=True)[name]
    except NameError as error:
        raise ParameterError(
            f"annotation {annotation!r} of parameter {name!r} of step function "
            f"{function.__name__!r} can't be read ({error}): import its names at module level"
        ) from None


def _marks(annotation: Any) -> tuple[Any, ...]:
    return getattr(annotation, "__metadata__", ())


def _is_rows(annotation: Any) -> bool:
    return any(isinstance(mark, StepInputMark) for mark in _marks(annotation))


def _is_runtime_parameter(annotation: Any) -> bool:
    return any(isinstance(mark, RuntimeParameterMark) for mark in _marks(annotation))
