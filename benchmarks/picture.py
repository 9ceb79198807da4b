"""The picture of the README: a dot for each column of some cases, on a logarithmic axis, as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from benchmarks.harness import median
from benchmarks.table import number

_WIDTH = 760
_LEFT = 150
_RIGHT = 120
_LINE = 22
_TITLE = 40
_TOP = 52
_STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600 } .small { font-size: 11px; fill: #59636e }
  .rail { stroke: #d1d9e0; stroke-width: 1 }
  .ours { fill: #0969da } .rival { fill: #bc4c00 } .floor { fill: #59636e }
  text.ours { fill: #0969da; font-weight: 600 }
  text.rival, text.floor { fill: #1f2328 }
  @media (prefers-color-scheme: dark) {
    text, text.rival, text.floor { fill: #e6edf3 } .small { fill: #9198a1 }
    .rail { stroke: #3d444d } .ours, text.ours { fill: #4493f8 } .rival { fill: #f0883e }
    .floor { fill: #9198a1 }
  }
"""


class _Panel(NamedTuple):
    title: str
    unit: str
    points: list[tuple[str, str, float]]


def picture(results: Mapping[str, Any], chosen: Sequence[tuple[str, str, str, str]]) -> str:
    """Draw chosen cases; those that are missing are left out.

    Args:
        results: As written to JSON.
        chosen: Module of the question, name of the case, figure, title.
    """
    panels = [panel for choice in chosen if (panel := _panel(results, *choice)) is not None]
    height = _TOP + sum(_TITLE + _LINE * len(panel.points) for panel in panels) + 10
    where = results["environment"]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" role="img">',
        "<title>asyncdistil beside its rivals and the floor</title>",
        f"<style>{_STYLE}</style>",
        _text(12, 20, "asyncdistil, rivals and floor: medians, less is better", "title"),
        _text(
            12,
            38,
            f"logarithmic axes; {where['machine']}; {where['python']}; commit {where['commit']}; "
            f"load average when it began {where['load_average'][0]:.1f}",
            "small",
        ),
    ]
    top = _TOP
    for panel in panels:
        parts += _drawn(panel, top)
        top += _TITLE + _LINE * len(panel.points)
    return "\n".join([*parts, "</svg>", ""])


def _panel(
    results: Mapping[str, Any], module: str, case_name: str, figure: str, title: str
) -> _Panel | None:
    for question in results["questions"]:
        if question["name"] != module:
            continue
        for case in question["cases"]:
            if case["name"] != case_name:
                continue
            points = []
            for name, column in case["columns"].items():
                values = [s[figure] for s in column["samples"] if s.get(figure) is not None]
                if values:
                    kind = name if name in ("ours", "floor") else "rival"
                    points.append((name, kind, median(values)))
            if len(points) > 1:
                return _Panel(title, case["figures"][figure], points)
    return None


def _drawn(panel: _Panel, top: int) -> list[str]:
    values = [max(value, 1e-9) for _, _, value in panel.points]
    low, high = math.log10(min(values)) - 0.15, math.log10(max(values)) + 0.05
    room = _WIDTH - _LEFT - _RIGHT
    parts = [_text(12, top + 24, panel.title, "title")]
    for position, (name, kind, value) in enumerate(panel.points):
        y = top + _TITLE + _LINE * position
        x = _LEFT + (math.log10(max(value, 1e-9)) - low) / (high - low) * room
        shown = "asyncdistil" if name == "ours" else name
        parts += [
            f'<line class="rail" x1="{_LEFT}" y1="{y}" x2="{_LEFT + room}" y2="{y}"/>',
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y}" r="5"/>',
            _text(24, y + 4, shown, kind),
            _text(x + 10, y + 4, f"{number(value)} {panel.unit}", kind),
        ]
    return parts


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y}">{escape(text)}</text>'
