"""Everything that can be known to be wrong before a process starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from asyncdistil.batch import StepName
from asyncdistil.errors import GraphError
from asyncdistil.graph.columns import check_columns
from asyncdistil.graph.graph import Graph
from asyncdistil.graph.nodes import NodeInfo
from asyncdistil.graph.routes import convergences


def validate(graph: Graph, nodes: Mapping[StepName, NodeInfo]) -> None:
    """Check that the declared steps can run as they are wired.

    A step without successors is a leaf, generators too. The rules are checked from the outside in,
    so that the first error names the cause and not a consequence of it.

    Args:
        graph: The wiring.
        nodes: Declarations, one for every step of the graph.

    Raises:
        GraphError: Names the step and the next move.
    """
    if not len(graph):
        raise GraphError(
            "the pipeline has no steps: create them inside `with Pipeline(...)`, or pass"
            " `pipeline=` to each"
        )
    for name in graph.order():
        _check_ends(graph, nodes[name])
        _check_sizes(nodes[name])
        _check_mappings(nodes[name])
    converging = convergences(graph, nodes)
    for name in graph.order():
        _check_ports(graph, nodes[name], converges=converging[name] is not None)
    check_columns(graph, nodes)


def _check_ends(graph: Graph, node: NodeInfo) -> None:
    ports = graph.predecessors(node.name)
    if node.is_generator and ports:
        raise GraphError(
            f"generator {node.name!r} comes after {ports[0]!r}: a generator reads no rows, make it"
            " a Step or remove the connection"
        )
    if not node.is_generator and not ports:
        raise GraphError(
            f"step {node.name!r} has no predecessor and is not a GeneratorStep: connect it after"
            " one, or give the rows with `run(dataset=...)`"
        )


def _check_sizes(node: NodeInfo) -> None:
    if node.input_batch_size < 1:
        which = "batch_size" if node.is_generator else "input_batch_size"
        raise GraphError(
            f"step {node.name!r} has {which}={node.input_batch_size}: set it to 1 or more"
        )


def _check_mappings(node: NodeInfo) -> None:
    if node.is_generator and node.input_mappings:
        raise GraphError(
            f"generator {node.name!r} has input_mappings, but reads no rows: remove them"
        )
    declared = (*node.required, *node.optional)
    _check_keys(node, "input_mappings", node.input_mappings, "inputs", declared)
    _check_keys(node, "output_mappings", node.output_mappings, "outputs", node.outputs)
    for column, count in _counted(node.writes).items():
        if count > 1:
            raise GraphError(
                f"step {node.name!r} writes two outputs into column {column!r}: give each output"
                " a name of its own in output_mappings"
            )


def _check_keys(
    node: NodeInfo,
    option: str,
    mappings: Mapping[str, str],
    declaration: str,
    declared: tuple[str, ...],
) -> None:
    for own, column in mappings.items():
        if own in declared:
            continue
        shown = ", ".join(map(repr, declared)) or "none"
        if column in declared:
            hint = f'the direction is step column to row column: write {{"{column}": "{own}"}}'
        elif close := get_close_matches(own, declared, n=1):
            hint = f"did you mean {close[0]!r}?"
        else:
            hint = f"use one of its {declaration}"
        raise GraphError(
            f"step {node.name!r} has {own!r} in {option}, which is not one of its {declaration}"
            f" ({shown}); {hint}"
        )


def _check_ports(graph: Graph, node: NodeInfo, *, converges: bool) -> None:
    ports = graph.predecessors(node.name)
    # Branches of a router meet as one list of rows, so any step can take them.
    if len(ports) > 1 and not node.accepts_many and not converges:
        shown = ", ".join(repr(str(port)) for port in ports)
        raise GraphError(
            f"step {node.name!r} reads {shown}, but its process takes one list of rows: declare"
            " it as `def process(self, *inputs: StepInput)`"
        )


def _counted(columns: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for column in columns:
        counts[column] = counts.get(column, 0) + 1
    return counts
