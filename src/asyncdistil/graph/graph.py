"""How the steps are wired: names, edges and routers, and the questions one asks of them.

A `Graph` grows while a pipeline is declared and refuses at once what can never become right: a
name twice, an edge twice, a cycle. What depends on the declarations of the steps is checked by
`asyncdistil.graph.validation` when a run starts, because a step may still change until then.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from asyncdistil.batch import StepName
from asyncdistil.errors import GraphError


class Graph:
    """A directed acyclic graph of step names that remembers the order of declaration."""

    def __init__(self) -> None:
        self._predecessors: dict[StepName, list[StepName]] = {}
        self._successors: dict[StepName, list[StepName]] = {}
        self._routed: dict[StepName, tuple[StepName, ...]] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._predecessors

    def __len__(self) -> int:
        return len(self._predecessors)

    @property
    def names(self) -> tuple[StepName, ...]:
        """Every step, in the order of declaration."""
        return tuple(self._predecessors)

    @property
    def edges(self) -> tuple[tuple[StepName, StepName], ...]:
        """Every edge as (source, target), grouped by source in the order of declaration."""
        return tuple(
            (source, target) for source, targets in self._successors.items() for target in targets
        )

    @property
    def routed(self) -> Mapping[StepName, tuple[StepName, ...]]:
        """Source of each router, and the steps it may choose from in the order of connection."""
        return dict(self._routed)

    @property
    def roots(self) -> tuple[StepName, ...]:
        """Steps without a predecessor, in the order of declaration."""
        return tuple(name for name, above in self._predecessors.items() if not above)

    @property
    def leaves(self) -> tuple[StepName, ...]:
        """Steps without a successor, in the order of declaration."""
        return tuple(name for name, below in self._successors.items() if not below)

    def predecessors(self, name: str) -> tuple[StepName, ...]:
        """Steps that ``name`` reads, in the order in which the edges were added: its ports."""
        return tuple(self._predecessors[self.resolve(name)])

    def successors(self, name: str) -> tuple[StepName, ...]:
        """Steps that read ``name``, in the order in which the edges were added."""
        return tuple(self._successors[self.resolve(name)])

    def is_routed(self, source: str, target: str) -> bool:
        """Whether the router of ``source`` decides which rows ``target`` gets."""
        return target in self._routed.get(StepName(source), ())

    def resolve(self, name: str) -> StepName:
        """Return ``name`` if there is such a step.

        Raises:
            GraphError: There is none; the message offers the closest names.
        """
        if name in self._predecessors:
            return StepName(name)
        close = get_close_matches(name, self._predecessors, n=3)
        hint = f"did you mean {_listed(close)}?" if close else f"steps: {_listed(self.names)}"
        raise GraphError(f"there is no step named {name!r} in this pipeline; {hint}")

    def add(self, name: str) -> StepName:
        """Add a step.

        Raises:
            GraphError: The name is taken.
        """
        if name in self._predecessors:
            raise GraphError(
                f"step {name!r} is already in this pipeline: names are unique, give one of the"
                " two another `name=`"
            )
        added = StepName(name)
        self._predecessors[added] = []
        self._successors[added] = []
        return added

    def connect(self, source: str, target: str) -> None:
        """Let ``target`` read the output of ``source`` through its next input port.

        Raises:
            GraphError: A step is unknown, the edge is there already, or it would close a cycle.
        """
        above, below = self.resolve(source), self.resolve(target)
        if above == below:
            raise GraphError(f"step {above!r} cannot read its own output: a cycle never ends")
        if below in self._successors[above]:
            raise GraphError(
                f"{above!r} is already connected to {below!r}: remove one of the two connections"
            )
        if path := self._path(below, above):
            shown = " >> ".join((*path, below))
            raise GraphError(
                f"connecting {above!r} to {below!r} would close the cycle {shown}: a pipeline has"
                " no loops, remove one of these connections"
            )
        self._successors[above].append(below)
        self._predecessors[below].append(above)

    def route(self, source: str, targets: Iterable[str]) -> None:
        """Put a router between ``source`` and some of its successors.

        Raises:
            GraphError: The source has a router, or a target is not connected to it.
        """
        above = self.resolve(source)
        if above in self._routed:
            raise GraphError(
                f"step {above!r} already has a routing function: one function chooses among all"
                " routed successors, connect them in one call"
            )
        chosen = tuple(self.resolve(target) for target in targets)
        for target in chosen:
            if target not in self._successors[above]:
                raise GraphError(
                    f"a routing function of {above!r} cannot send rows to {target!r}: connect"
                    f" {above!r} to {target!r} first"
                )
        if not chosen:
            raise GraphError(
                f"the routing function of {above!r} has nothing to choose from: connect it to at"
                f" least one step, as in `{above} >> routing >> [a, b]`"
            )
        self._routed[above] = chosen

    def order(self) -> tuple[StepName, ...]:
        """Topological order; steps that could go in any order go as they were declared."""
        position = {name: index for index, name in enumerate(self._predecessors)}
        waiting = {name: len(above) for name, above in self._predecessors.items()}
        names = self.names
        ready = [position[name] for name, count in waiting.items() if not count]
        ordered: list[StepName] = []
        while ready:
            name = names[heapq.heappop(ready)]
            ordered.append(name)
            for below in self._successors[name]:
                waiting[below] -= 1
                if not waiting[below]:
                    heapq.heappush(ready, position[below])
        return tuple(ordered)

    def ancestors(self, name: str) -> frozenset[StepName]:
        """Every step whose rows can reach ``name``."""
        return self._reach(self.resolve(name), self._predecessors)

    def descendants(self, name: str) -> frozenset[StepName]:
        """Every step that rows of ``name`` can reach."""
        return self._reach(self.resolve(name), self._successors)

    def copy(self) -> Graph:
        """A graph of its own with the same steps, edges and routers."""
        twin = Graph()
        twin._predecessors = {name: list(above) for name, above in self._predecessors.items()}
        twin._successors = {name: list(below) for name, below in self._successors.items()}
        twin._routed = dict(self._routed)
        return twin

    @staticmethod
    def _reach(
        start: StepName, neighbours: Mapping[StepName, Sequence[StepName]]
    ) -> frozenset[StepName]:
        seen: set[StepName] = set()
        open_ends = list(neighbours[start])
        while open_ends:
            name = open_ends.pop()
            if name not in seen:
                seen.add(name)
                open_ends.extend(neighbours[name])
        return frozenset(seen)

    def _path(self, start: StepName, end: StepName) -> tuple[StepName, ...]:
        """A shortest way from ``start`` to ``end``, both included; empty if there is none."""
        came_from: dict[StepName, StepName | None] = {start: None}
        frontier = [start]
        while frontier and end not in came_from:
            reached: list[StepName] = []
            for name in frontier:
                for below in self._successors[name]:
                    if below not in came_from:
                        came_from[below] = name
                        reached.append(below)
            frontier = reached
        if end not in came_from:
            return ()
        backwards: list[StepName] = []
        at: StepName | None = end
        while at is not None:
            backwards.append(at)
            at = came_from[at]
        return tuple(reversed(backwards))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(str(name)) for name in names) or "none yet"
