"""Which columns reach which step, followed along the edges that rows really take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from asyncdistil.batch import StepName
from asyncdistil.errors import GraphError
from asyncdistil.graph.graph import Graph
from asyncdistil.graph.nodes import NodeInfo


@dataclass(slots=True)
class Columns:
    """The columns that rows carry at one point of the graph.

    Attributes:
        present: Column to the step that wrote it last.
        dropped: Column that was there further up, to the step that dropped it.
        open: Whether there may be more columns than these.
    """

    present: dict[str, StepName] = field(default_factory=dict)
    dropped: dict[str, StepName] = field(default_factory=dict)
    open: bool = False


def columns_into(graph: Graph, nodes: Mapping[StepName, NodeInfo]) -> dict[StepName, Columns]:
    """Follow the columns through the graph: what each step finds in its input rows.

    A step adds its outputs to the columns that reach it, unless it says that it drops some. Where
    several ports meet, a column is present if any of them brings it: a join sees them all, and
    which branch of a router brought a row is known only later.
    """
    found: dict[StepName, Columns] = {}
    leaving: dict[StepName, Columns] = {}
    for name in graph.order():
        found[name] = _merged([leaving[above] for above in graph.predecessors(name)])
        leaving[name] = _after(nodes[name], found[name])
    return found


def columns_out(graph: Graph, nodes: Mapping[StepName, NodeInfo]) -> dict[StepName, Columns]:
    """What each step's output rows carry."""
    return {name: _after(nodes[name], into) for name, into in columns_into(graph, nodes).items()}


def check_columns(graph: Graph, nodes: Mapping[StepName, NodeInfo]) -> None:
    """Refuse a step whose required columns do not reach it.

    Raises:
        GraphError: Names the step, the column, and what to change.
    """
    for name, columns in columns_into(graph, nodes).items():
        node = nodes[name]
        if node.is_generator or columns.open:
            continue
        for own, column in zip(node.required, node.reads, strict=True):
            if column not in columns.present:
                raise GraphError(_missing(name, own, column, columns))


def _merged(ports: list[Columns]) -> Columns:
    result = Columns()
    for port in ports:
        result.present |= port.present
        result.dropped |= port.dropped
        result.open |= port.open
    for column in result.present:
        result.dropped.pop(column, None)
    return result


def _after(node: NodeInfo, into: Columns) -> Columns:
    result = Columns(dict(into.present), dict(into.dropped), into.open or node.open_columns)
    gone = [*result.present] if node.drops_rest else node.drops
    for column in gone:
        if column in result.present:
            del result.present[column]
            result.dropped[column] = node.name
    if node.drops_rest:
        # Whatever came in undeclared is projected away with the rest.
        result.open = node.open_columns
    for column in node.writes:
        result.present[column] = node.name
        result.dropped.pop(column, None)
    return result


def _missing(name: StepName, own: str, column: str, columns: Columns) -> str:
    called = f"column {column!r}" if own == column else f"column {column!r} (its {own!r})"
    if column in columns.dropped:
        by = columns.dropped[column]
        return (
            f"step {name!r} needs {called}, which step {by!r} drops on the way: let {by!r} keep"
            f" it, or read it before"
        )
    there = ", ".join(map(repr, columns.present)) or "none"
    close = get_close_matches(column, columns.present, n=1)
    hint = (
        f'did you mean `input_mappings={{"{own}": "{close[0]}"}}`?'
        if close
        else "let a step above declare it in `outputs`, or map it with"
        f' `input_mappings={{"{own}": "<row column>"}}`'
    )
    return f"step {name!r} needs {called}, but no step above gives it (columns: {there}); {hint}"
