"""Load groups: which steps are loaded together, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from asyncdistil.batch import StepName
from asyncdistil.errors import GraphError
from asyncdistil.graph.graph import Graph

LoadGroups: TypeAlias = Sequence[Sequence[str]] | Literal["sequential_step_execution"]
"""Groups of step names, each loaded together and alone; or one stage per step."""


def stages(graph: Graph, load_groups: LoadGroups | None) -> tuple[tuple[StepName, ...], ...]:
    """Cut the graph into stages: a stage is loaded when every earlier one is done.

    Each load group is a stage of its own. The other steps share as few stages as the groups leave
    room for; without groups everything is one stage, global steps included: they wait for
    their rows whatever is loaded.

    Args:
        graph: The wiring.
        load_groups: Groups of names, ``"sequential_step_execution"``, or ``None``.

    Returns:
        Steps per stage, in topological order within a stage.

    Raises:
        GraphError: A step is unknown or in two groups, a group is empty, or rows would have to
            leave a group and come back into it.
    """
    ordered = graph.order()
    if load_groups == "sequential_step_execution":
        return tuple((name,) for name in ordered)
    if isinstance(load_groups, str):
        raise GraphError(
            f'load_groups={load_groups!r} is not known: use "sequential_step_execution" or a list'
            " of lists of steps"
        )
    groups = _resolved(graph, load_groups or ())
    member = {name: index for index, group in enumerate(groups) for name in group}
    _refuse_detours(graph, groups)
    done: set[StepName] = set()
    result: list[tuple[StepName, ...]] = []
    waiting = list(range(len(groups)))
    while len(done) < len(ordered):
        free: list[StepName] = []
        for name in ordered:
            if (
                name not in done
                and name not in member
                and done.issuperset(graph.predecessors(name))
            ):
                done.add(name)
                free.append(name)
        if free:
            result.append(tuple(free))
        ready = [index for index in waiting if _is_ready(graph, groups[index], done)]
        if ready:
            waiting.remove(ready[0])
            done |= groups[ready[0]]
            result.append(tuple(name for name in ordered if name in groups[ready[0]]))
        elif not free:
            raise GraphError(_crossing(groups, waiting))
    return tuple(result)


def _resolved(graph: Graph, load_groups: Sequence[Sequence[str]]) -> list[frozenset[StepName]]:
    groups: list[frozenset[StepName]] = []
    seen: set[StepName] = set()
    for group in load_groups:
        if isinstance(group, str) or not group:
            raise GraphError(
                f"load group {group!r} must be a list with at least one step, as in"
                ' `load_groups=[["step_a", "step_b"]]`'
            )
        names = [graph.resolve(name) for name in group]
        for name in names:
            if name in seen:
                raise GraphError(f"step {name!r} is named twice in load_groups: keep one of them")
            seen.add(name)
        groups.append(frozenset(names))
    return groups


def _is_ready(graph: Graph, group: frozenset[StepName], done: set[StepName]) -> bool:
    return all(
        above in done or above in group for name in group for above in graph.predecessors(name)
    )


def _refuse_detours(graph: Graph, groups: list[frozenset[StepName]]) -> None:
    for group in groups:
        below = frozenset().union(*(graph.descendants(name) for name in group))
        above = frozenset().union(*(graph.ancestors(name) for name in group))
        if between := (below & above) - group:
            name = next(step for step in graph.order() if step in between)
            raise GraphError(
                f"step {name!r} lies between steps of the load group {_shown(group)}, so the group"
                f" could never be loaded as one: add {name!r} to it or split it"
            )


def _crossing(groups: list[frozenset[StepName]], waiting: list[int]) -> str:
    shown = " and ".join(_shown(groups[index]) for index in waiting)
    return f"the load groups {shown} wait for one another: merge them, or split one"


def _shown(group: frozenset[StepName]) -> str:
    return "[" + ", ".join(sorted(repr(str(name)) for name in group)) + "]"
