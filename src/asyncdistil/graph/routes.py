"""Where routed rows part and where they meet again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from asyncdistil.batch import StepName
from asyncdistil.errors import GraphError
from asyncdistil.graph.graph import Graph
from asyncdistil.graph.nodes import NodeInfo


class Fork(NamedTuple):
    """One choice that a router took: ``source`` routed the row to ``branch``."""

    source: StepName
    branch: StepName


Trail: TypeAlias = tuple[Fork, ...]
"""The choices behind the rows at one point of the graph, outermost first."""


def convergences(
    graph: Graph, nodes: Mapping[StepName, NodeInfo]
) -> dict[StepName, StepName | None]:
    """Say for each step which source's router it converges, or ``None``.

    A step converges a router when its ports carry rows that took different branches of it, however
    many steps each branch is long.

    Raises:
        GraphError: A routed step has a second predecessor, or a join mixes rows that took one
            branch of a router with rows that did not pass that router, so that most of its rows
            would wait for a partner that never comes.
    """
    trails: dict[StepName, Trail] = {}
    result: dict[StepName, StepName | None] = {}
    for name in graph.order():
        ports = graph.predecessors(name)
        routed = [above for above in ports if graph.is_routed(above, name)]
        if routed and len(ports) > 1:
            raise GraphError(
                f"step {name!r} gets routed rows from {routed[0]!r} and also reads"
                f" {_others(ports, routed[0])}: a routed step has one predecessor, join the rows"
                " in a step after it"
            )
        if routed:
            fork = Fork(routed[0], name)
            trails[name], result[name] = (*trails[routed[0]], fork), None
        else:
            trails[name], result[name] = _meet(nodes[name], ports, trails)
    return result


def _meet(
    node: NodeInfo, ports: tuple[StepName, ...], trails: Mapping[StepName, Trail]
) -> tuple[Trail, StepName | None]:
    """Trail behind a step that reads ``ports``, and the source whose branches meet in it."""
    above = {trails[port] for port in ports}
    if not above:
        return (), None
    if len(above) == 1:
        return above.pop(), None
    common = _common_start(above)
    following = {trail[len(common) : len(common) + 1] for trail in above}
    one_level = all(len(trail) == len(common) + 1 for trail in above)
    sources = {fork.source for part in following for fork in part}
    if one_level and len(sources) == 1:
        return common, sources.pop()
    if node.inner_join:
        return common, None
    longest = max(above, key=len)
    raise GraphError(
        f"step {node.name!r} joins rows that {longest[-1].source!r} routed to"
        f" {longest[-1].branch!r} with rows that took another way: let all branches of"
        f' {longest[-1].source!r} meet in one step first, or set `join="inner"` on'
        f" {node.name!r} to keep only rows that arrive on every port"
    )


def _common_start(trails: set[Trail]) -> Trail:
    first, *rest = trails
    length = 0
    while all(len(first) > length and trail[: length + 1] == first[: length + 1] for trail in rest):
        length += 1
    return first[:length]


def _others(ports: tuple[StepName, ...], routed: StepName) -> str:
    return ", ".join(repr(str(port)) for port in ports if port != routed)
