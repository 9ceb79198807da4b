"""A graph as SVG: a layered layout, left to right, small enough to read.

Layers are longest paths from the roots; an edge that passes a layer gets a point of its own there,
so that it runs between the boxes; the order inside layers follows the mean position of neighbours.
The picture is one element with its own styles, for light and dark, and needs nothing else.
"""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

_BOX_WIDTH = 172
_BOX_HEIGHT = 58
_POINT_HEIGHT = 14
_GAP_ACROSS = 56
_GAP_ALONG = 22
_MARGIN = 12
_SWEEPS = 8
_NAME_CHARACTERS = 21
_NOTE_CHARACTERS = 26

STYLE = """
.ad-dag{font:12px system-ui,sans-serif}
.ad-dag .box{fill:#fff;stroke:#8a94a6}.ad-dag .name{fill:#1b2430;font-weight:600}
.ad-dag .note{fill:#5b6573;font-size:11px}.ad-dag .edge{fill:none;stroke:#8a94a6}
.ad-dag .routed{stroke-dasharray:4 3}.ad-dag .tip{fill:#8a94a6}
.ad-dag .bar{fill:#e6e9ee}.ad-dag .replayed{fill:#5b8def}.ad-dag .computed{fill:#2fa36b}
.ad-dag .failed{fill:#d64545}
@media (prefers-color-scheme:dark){
.ad-dag .box{fill:#1c232d;stroke:#5d6878}.ad-dag .name{fill:#e8ecf2}.ad-dag .note{fill:#a5afbd}
.ad-dag .edge{stroke:#6d7889}.ad-dag .tip{fill:#6d7889}.ad-dag .bar{fill:#303947}}
"""


class Box(NamedTuple):
    """A node.

    Attributes:
        name: Shown first, and what edges refer to.
        note: A second line.
        shares: Parts of the whole, each 0 to 1, by ``replayed``, ``computed`` and ``failed``;
            empty for no bar.
    """

    name: str
    note: str = ""
    shares: Mapping[str, float] = {}


class Link(NamedTuple):
    """An edge.

    Attributes:
        source: Name of a box.
        target: Name of another.
        routed: Whether only some rows take it.
    """

    source: str
    target: str
    routed: bool = False


@dataclass(slots=True)
class _Spot:
    """A box, or a point where an edge passes a layer."""

    layer: int
    box: Box | None
    place: float = 0.0
    x: float = 0.0
    y: float = 0.0

    @property
    def height(self) -> int:
        return _POINT_HEIGHT if self.box is None else _BOX_HEIGHT


def draw_svg(boxes: Sequence[Box], links: Iterable[Link]) -> str:
    """Draw an acyclic graph.

    Args:
        boxes: In topological order, names unique.
        links: Edges between them.
    """
    edges = list(links)
    spots, chains = _layered(boxes, edges)
    layers = _ordered(spots, chains)
    width, height = _placed(layers)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="ad-dag" width="{width:.0f}" '
        f'height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="graph of {len(boxes)} steps"><style>{STYLE}</style>',
        *(_edge(chain, edge) for chain, edge in zip(chains, edges, strict=True)),
        *(_box(spot, spot.box) for spot in spots if spot.box is not None),
        "</svg>",
    ]
    return "".join(parts)


def _layered(boxes: Sequence[Box], edges: Sequence[Link]) -> tuple[list[_Spot], list[list[_Spot]]]:
    """Every spot, and for each edge the spots that it passes."""
    above: dict[str, list[str]] = defaultdict(list)
    for edge in edges:
        above[edge.target].append(edge.source)
    named: dict[str, _Spot] = {}
    for box in boxes:
        layer = max((named[up].layer + 1 for up in above[box.name] if up in named), default=0)
        named[box.name] = _Spot(layer, box)
    spots = list(named.values())
    chains = []
    for edge in edges:
        source, target = named[edge.source], named[edge.target]
        points = [_Spot(layer, None) for layer in range(source.layer + 1, target.layer)]
        spots += points
        chains.append([source, *points, target])
    return spots, chains


def _ordered(spots: list[_Spot], chains: list[list[_Spot]]) -> list[list[_Spot]]:
    layers: list[list[_Spot]] = [[] for _ in range(max((s.layer for s in spots), default=-1) + 1)]
    for spot in spots:
        layers[spot.layer].append(spot)
    before: dict[int, list[_Spot]] = defaultdict(list)
    after: dict[int, list[_Spot]] = defaultdict(list)
    for chain in chains:
        for left, right in pairwise(chain):
            before[id(right)].append(left)
            after[id(left)].append(right)
    _number(layers)
    for sweep in range(_SWEEPS):
        forward = sweep % 2 == 0
        neighbours = before if forward else after
        for layer in layers if forward else reversed(layers):
            means = {
                id(spot): sum(n.place for n in near) / len(near)
                for spot in layer
                if (near := neighbours[id(spot)])
            }
            layer.sort(key=lambda spot, means=means: means.get(id(spot), spot.place))  # type: ignore[misc]
            _number([layer])
    return layers


def _number(layers: Iterable[list[_Spot]]) -> None:
    for layer in layers:
        middle = (len(layer) - 1) / 2
        for place, spot in enumerate(layer):
            # From the middle: a lone spot stands between the ends of a full layer.
            spot.place = place - middle


def _placed(layers: list[list[_Spot]]) -> tuple[float, float]:
    heights = [
        sum(spot.height for spot in layer) + _GAP_ALONG * (len(layer) - 1) for layer in layers
    ]
    tallest = max(heights, default=0)
    for number, (layer, height) in enumerate(zip(layers, heights, strict=True)):
        y = _MARGIN + (tallest - height) / 2
        for spot in layer:
            spot.x = _MARGIN + number * (_BOX_WIDTH + _GAP_ACROSS)
            spot.y = y + spot.height / 2
            y += spot.height + _GAP_ALONG
    across = len(layers) * (_BOX_WIDTH + _GAP_ACROSS) - _GAP_ACROSS if layers else 0
    return across + 2 * _MARGIN, tallest + 2 * _MARGIN


def _edge(chain: list[_Spot], edge: Link) -> str:
    source, target = chain[0], chain[-1]
    x, y = source.x + _BOX_WIDTH, source.y
    path = [f"M{x:.0f} {y:.0f}"]
    for spot in chain[1:]:
        end = spot.x - (7 if spot is target else 0)
        bend = (end - x) / 2
        path.append(f"C{x + bend:.0f} {y:.0f} {end - bend:.0f} {spot.y:.0f} {end:.0f} {spot.y:.0f}")
        x, y = end, spot.y
        if spot is not target:
            x += _BOX_WIDTH
            path.append(f"H{x:.0f}")
    kind = "edge routed" if edge.routed else "edge"
    tip = f"M{target.x:.0f} {y:.0f}l-8 -4v8z"
    return f'<path class="{kind}" d="{"".join(path)}"/><path class="tip" d="{tip}"/>'


def _box(spot: _Spot, box: Box) -> str:
    left, top = spot.x, spot.y - _BOX_HEIGHT / 2
    name, note = _short(box.name, _NAME_CHARACTERS), _short(box.note, _NOTE_CHARACTERS)
    parts = [
        f"<g><title>{escaped(box.name)}{escaped(': ' + box.note if box.note else '')}</title>"
        f'<rect class="box" x="{left:.0f}" y="{top:.0f}" width="{_BOX_WIDTH}" '
        f'height="{_BOX_HEIGHT}" rx="7"/>'
        f'<text class="name" x="{left + 10:.0f}" y="{top + 21:.0f}">{name}</text>'
        f'<text class="note" x="{left + 10:.0f}" y="{top + 37:.0f}">{note}</text>'
    ]
    if box.shares:
        room = _BOX_WIDTH - 20
        x, y = left + 10, top + 45
        parts.append(
            f'<rect class="bar" x="{x:.0f}" y="{y:.0f}" width="{room}" height="5" rx="2"/>'
        )
        for kind in ("replayed", "computed", "failed"):
            part = room * min(max(box.shares.get(kind, 0.0), 0.0), 1.0)
            if part:
                parts.append(
                    f'<rect class="{kind}" x="{x:.1f}" y="{y:.0f}" width="{part:.1f}" height="5"/>'
                )
            x += part
    return "".join([*parts, "</g>"])


def _short(text: str, most: int) -> str:
    return escaped(text if len(text) <= most else f"{text[: most - 1]}…")


def escaped(text: str) -> str:
    """Text as XML and HTML take it: no markup, no character that XML forbids."""
    allowed = "".join(c if c >= " " and c not in "\ufffe\uffff" else " " for c in text)
    return html.escape(allowed.encode("utf-8", "replace").decode())
