"""Steps as validation sees them: what they declare, read off the step objects."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from asyncdistil.batch import StepName
from asyncdistil.errors import GraphError
from asyncdistil.graph import NodeInfo
from asyncdistil.steps.base import BaseStep
from asyncdistil.steps.generator import GeneratorStep
from asyncdistil.steps.global_step import GlobalStep
from asyncdistil.steps.step import Step
from asyncdistil.typing import StepColumns, StepInputMark

_LIBRARY = "asyncdistil."
_NO_WORK = frozenset({Step.process, GlobalStep.process, GeneratorStep.process})


def describe(step: BaseStep) -> NodeInfo:
    """Read the declarations of a step.

    Raises:
        GraphError: Its ``process`` cannot be called by a run.
        UserError: Its ``inputs`` or ``outputs`` say that it can't work as it is.
    """
    check_process(step)
    required, optional = _split(step.inputs)
    outputs = step.outputs
    inputs_of = step.input_mappings
    return NodeInfo(
        name=StepName(step.name),
        kind=step.kind(),
        required=required,
        optional=optional,
        outputs=tuple(outputs),
        input_mappings=dict(inputs_of),
        output_mappings=dict(step.output_mappings),
        drops=tuple(inputs_of.get(column, column) for column in step.dropped_columns),
        drops_rest=step.drops_rest,
        open_columns=step.open_columns,
        input_batch_size=batch_size_of(step),
        accepts_many=isinstance(step, Step) and step.takes_many_ports,
        inner_join=isinstance(step, Step) and step.join == "inner",
    )


def batch_size_of(step: BaseStep) -> int:
    """Rows of a call, or of a yield of a generator."""
    if isinstance(step, Step):
        return step.input_batch_size
    return step.batch_size if isinstance(step, GeneratorStep) else 1


def check_process(step: BaseStep) -> None:
    """Check that a run can call the ``process`` that the user wrote.

    Raises:
        GraphError: Names what is wrong with its parameters.
    """
    if not isinstance(step, Step | GeneratorStep):
        return
    process = type(step).process
    if process in _NO_WORK and not _works_without(step):
        wanted = "offset=0" if isinstance(step, GeneratorStep) else "inputs: StepInput"
        raise GraphError(
            f"step {step.name!r} has no work to do: define `process(self, {wanted})` in"
            f" {type(step).__name__}"
        )
    if process.__module__.startswith(_LIBRARY):
        return
    rows = [name for name, annotation in _annotations(process) if _is_rows(annotation)]
    names = [name for name in inspect.signature(process).parameters if name != "self"]
    if isinstance(step, GeneratorStep):
        if "offset" not in names and not _takes_any_keyword(process):
            raise GraphError(
                f"process of generator {step.name!r} has no `offset`: declare it as"
                " `def process(self, offset: int = 0)`"
            )
        if rows:
            raise GraphError(
                f"process of generator {step.name!r} takes rows ({rows[0]}: StepInput), but a"
                " generator has none: make it a Step, or remove the parameter"
            )
    elif len(rows) != 1 and not _works_without(step):
        found = "several parameters" if rows else "no parameter"
        raise GraphError(
            f"process of step {step.name!r} has {found} annotated StepInput: declare it as"
            " `def process(self, inputs: StepInput)`, or `*inputs: StepInput` behind several steps"
        )


def _works_without(step: BaseStep) -> bool:
    """Whether the runtime never calls ``process``, because other code does the work."""
    if isinstance(step, GeneratorStep):
        return type(step).generate is not GeneratorStep.generate
    return isinstance(step, Step) and (
        step.asynchronous
        or type(step).entries is not Step.entries
        or (isinstance(step, GlobalStep) and step.takes_table)
    )


def _annotations(process: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    hints: Mapping[str, Any]
    try:
        hints = typing.get_type_hints(process, include_extras=True)
    except (NameError, TypeError, AttributeError):
        # Another annotation names something that only a type checker imports.
        hints = {}
    for name, parameter in inspect.signature(process).parameters.items():
        yield name, hints.get(name, parameter.annotation)


def _is_rows(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return annotation.rpartition(".")[2] == "StepInput"
    marks = getattr(annotation, "__metadata__", ())
    return any(isinstance(mark, StepInputMark) for mark in marks)


def _takes_any_keyword(process: Callable[..., Any]) -> bool:
    parameters = inspect.signature(process).parameters.values()
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _split(columns: StepColumns) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Required and optional columns of a declaration."""
    if not isinstance(columns, dict):
        return tuple(columns), ()
    needed = tuple(column for column, required in columns.items() if required)
    return needed, tuple(column for column, required in columns.items() if not required)
