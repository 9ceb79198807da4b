"""When which worker was at work, drawn small enough for a page however long the run was.

The log says of every commit which worker made it, when it came in and how long the step's code
took. Time is cut into slots; a lane gets one path per shade, so a million rows take no more room
than a hundred.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import floor, log10

from asyncdistil.graph.drawing import escaped
from asyncdistil.log.events import Commit
from asyncdistil.supervisor.stored_run import StoredRun

SLOTS = 240
SPARK_SLOTS = 48
MOST_LANES = 120

_LABEL = 190
_SLOT = 3.5
_LANE = 15
_TOP = 22
_SHADES = 4
_NAME_CHARACTERS = 24
_NEAR_THE_END = 0.97
_ROUNDING = 1e-9
_MOST_STEPS = 6
_UNITS = ((7200.0, 3600.0, "h"), (120.0, 60.0, "min"), (0.0, 1.0, "s"))
"""From how many seconds on, how many of them, and its name."""

STYLE = """
.ad-time{font:11px system-ui,sans-serif}
.ad-time text{fill:#5b6573}.ad-time .name{fill:#1b2430;font-weight:600}
.ad-time .track{fill:#eef1f5}.ad-time .busy{fill:#2fa36b}.ad-time .failed{fill:#d64545}
.ad-time line{stroke:#c9d0da}.ad-time .again{stroke:#8a94a6;stroke-dasharray:3 3}
@media (prefers-color-scheme:dark){
.ad-time text{fill:#a5afbd}.ad-time .name{fill:#e8ecf2}.ad-time .track{fill:#232b36}
.ad-time line{stroke:#3a4452}.ad-time .again{stroke:#8a94a6}}
"""


@dataclass(slots=True)
class Lane:
    """One worker of a step; after the run was taken up, the one in its place.

    Attributes:
        step: Name of the step.
        place: Which of the step's workers, from 1.
        works: Begin and end of each piece of work, in seconds of the run.
        failures: Seconds at which rows failed.
    """

    step: str
    place: int
    works: list[tuple[float, float]] = field(default_factory=list)
    failures: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Timeline:
    """What a run's workers did when. Time between two parts of a run is left out.

    Attributes:
        seconds: How long all parts took together.
        lanes: Step by step.
        taken_up: Seconds at which the run was taken up again.
        rates: Per step its output rows per second, over equal parts of the time.
        spans: Per step the seconds from its first work to its last.
        untimed: Commits without a time, as older logs have them.
    """

    seconds: float = 0.0
    lanes: list[Lane] = field(default_factory=list)
    taken_up: list[float] = field(default_factory=list)
    rates: dict[str, list[float]] = field(default_factory=dict)
    spans: dict[str, float] = field(default_factory=dict)
    untimed: int = 0


def timeline_of(run: StoredRun) -> Timeline:
    """Read it from the commits of a run."""
    begins = [int(lsn) for lsn, _ in run.store.begins(run.begin.run)]
    parts = [0.0] * len(begins)
    own: list[tuple[str, list[tuple[int, Commit]]]] = []
    made = Timeline()
    for step in run.steps.values():
        commits = []
        for lsn, commit in step.commits:
            if commit.run != run.begin.run:
                continue
            if not commit.worker:
                made.untimed += 1
                continue
            part = max(bisect_right(begins, lsn) - 1, 0)
            parts[part] = max(parts[part], commit.at_seconds)
            commits.append((part, commit))
        own.append((step.name, commits))
    offsets = list(accumulate(parts, initial=0.0))
    made.seconds = offsets[-1]
    made.taken_up = [offset for offset, took in zip(offsets[1:], parts[1:], strict=False) if took]
    for name, commits in own:
        lanes = _lanes(name, commits, offsets)
        made.lanes += lanes
        works = [work for lane in lanes for work in lane.works]
        if works:
            made.spans[name] = max(end for _, end in works) - min(begin for begin, _ in works)
        if commits and made.seconds:
            made.rates[name] = _rates(commits, offsets, made.seconds)
    return made


def _lanes(
    name: str, commits: Iterable[tuple[int, Commit]], offsets: Sequence[float]
) -> list[Lane]:
    lanes: dict[int, Lane] = {}
    places: dict[tuple[int, int], int] = {}
    seen: dict[int, int] = defaultdict(int)
    for part, commit in commits:
        key = part, commit.worker
        if key not in places:
            seen[part] += 1
            places[key] = seen[part]
        lane = lanes.setdefault(places[key], Lane(name, places[key]))
        end = offsets[part] + commit.at_seconds
        lane.works.append((max(end - commit.seconds, offsets[part]), end))
        if commit.failures:
            lane.failures.append(end)
    return [lanes[place] for place in sorted(lanes)]


def _rates(
    commits: Iterable[tuple[int, Commit]], offsets: Sequence[float], seconds: float
) -> list[float]:
    slot_seconds = seconds / SPARK_SLOTS
    rows = [0.0] * SPARK_SLOTS
    for part, commit in commits:
        at = int((offsets[part] + commit.at_seconds) / slot_seconds)
        rows[min(at, SPARK_SLOTS - 1)] += sum(ref.rows for ref in commit.outputs)
    return [count / slot_seconds for count in rows]


def busy_shares(works: Iterable[tuple[float, float]], seconds: float, slots: int) -> list[float]:
    """Which part of each slot was spent at work, 0 to 1.

    Args:
        works: Begins and ends, within 0 to ``seconds``; they may overlap.
        seconds: The whole time, more than 0.
        slots: How many equal parts it has.
    """
    slot_seconds = seconds / slots
    partly = [0.0] * slots
    wholly = [0] * (slots + 1)
    for begin, end in works:
        low, high = begin / slot_seconds, end / slot_seconds
        first, last = min(int(low), slots - 1), min(int(high), slots - 1)
        if first == last:
            partly[first] += high - low
            continue
        partly[first] += first + 1 - low
        partly[last] += high - last
        wholly[first + 1] += 1
        wholly[last] -= 1
    covered = accumulate(wholly)
    return [min(part + whole, 1.0) for part, whole in zip(partly, covered, strict=False)]


def draw_timeline(timeline: Timeline) -> str:
    """Draw the lanes as SVG, in a stronger colour where a worker was busier."""
    lanes = timeline.lanes[:MOST_LANES]
    width = _LABEL + SLOTS * _SLOT + 12
    height = _TOP + len(lanes) * _LANE + 6
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="ad-time" width="{width:.0f}" '
        f'height="{height}" viewBox="0 0 {width:.0f} {height}" role="img" '
        f'aria-label="time line of {len(lanes)} workers"><style>{STYLE}</style>',
        *_axis(timeline, height),
    ]
    before = ""
    for number, lane in enumerate(lanes):
        parts.append(_lane(lane, timeline.seconds, _TOP + number * _LANE, lane.step != before))
        before = lane.step
    return "".join([*parts, "</svg>"])


def _axis(timeline: Timeline, height: int) -> list[str]:
    parts = []
    for at, label in ticks(timeline.seconds):
        share = at / timeline.seconds if timeline.seconds else 0.0
        x = _LABEL + share * SLOTS * _SLOT
        # A text in the middle of its tick would stick out at either end.
        anchor = "start" if not at else "end" if share > _NEAR_THE_END else "middle"
        parts.append(
            f'<text x="{x:.0f}" y="11" text-anchor="{anchor}">{label}</text>'
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="15" y2="{height - 4}"/>'
        )
    for at in timeline.taken_up:
        x = _LABEL + at / timeline.seconds * SLOTS * _SLOT
        parts.append(
            f'<line class="again" x1="{x:.1f}" x2="{x:.1f}" y1="13" y2="{height - 2}">'
            "<title>taken up again here</title></line>"
        )
    return parts


def ticks(seconds: float) -> list[tuple[float, str]]:
    """Where an axis of time has its ticks, in steps of 1, 2 or 5 times a power of ten of a unit.

    Args:
        seconds: How long the axis is; 0 or more.

    Returns:
        Seconds and text of each, from 0 on: two to six steps, or 0 alone if that is the length.
    """
    unit, name = next((unit, name) for least, unit, name in _UNITS if seconds >= least)
    length = seconds / unit
    if not length:
        return [(0.0, f"0 {name}")]
    least = length / _MOST_STEPS
    power = floor(log10(least))
    digit = next(n for n in (1, 2, 5, 10) if n * 10.0**power >= least * (1 - _ROUNDING))
    if digit == 10:
        digit, power = 1, power + 1
    count = int(length / (digit * 10.0**power) * (1 + _ROUNDING))
    values = [number * digit * 10.0**power for number in range(count + 1)]
    return [(value * unit, f"{value:.{max(-power, 0)}f} {name}") for value in values]


def _lane(lane: Lane, seconds: float, y: int, first: bool) -> str:
    name = lane.step
    short = name if len(name) <= _NAME_CHARACTERS else f"{name[: _NAME_CHARACTERS - 1]}…"
    parts = [f"<g><title>{escaped(name)}, worker {lane.place}</title>"]
    if first:
        parts.append(f'<text class="name" x="0" y="{y + 10}">{escaped(short)}</text>')
    parts.append(f'<text x="{_LABEL - 8}" y="{y + 10}" text-anchor="end">{lane.place}</text>')
    whole = SLOTS * _SLOT
    parts.append(
        f'<rect class="track" x="{_LABEL}" y="{y + 1}" width="{whole:.0f}" height="{_LANE - 4}"/>'
    )
    shares = busy_shares(lane.works, seconds, SLOTS) if seconds else []
    shades = [min(int(share * _SHADES), _SHADES - 1) if share else -1 for share in shares]
    for shade in range(_SHADES):
        path = _path([n for n, at in enumerate(shades) if at == shade], y + 1, _LANE - 4)
        if path:
            opacity = (shade + 1) / _SHADES
            parts.append(f'<path class="busy" opacity="{opacity:.2f}" d="{path}"/>')
    slots = sorted({min(int(at / seconds * SLOTS), SLOTS - 1) for at in lane.failures if seconds})
    if slots:
        parts.append(f'<path class="failed" d="{_path(slots, y + _LANE - 7, 4)}"/>')
    return "".join([*parts, "</g>"])


def _path(slots: Sequence[int], y: int, height: int) -> str:
    """Rectangles over slots, neighbours joined."""
    parts = []
    position = 0
    while position < len(slots):
        end = position + 1
        while end < len(slots) and slots[end] == slots[end - 1] + 1:
            end += 1
        x, width = _LABEL + slots[position] * _SLOT, (end - position) * _SLOT
        parts.append(f"M{x:g} {y}h{width:g}v{height}h-{width:g}z")
        position = end
    return "".join(parts)


def draw_spark(rates: Sequence[float]) -> str:
    """Draw rows per second over the time of a run, as a small SVG without text."""
    top = max(rates, default=0.0)
    if not top:
        return ""
    points = " ".join(f"{n * 2},{17 - 16 * rate / top:.1f}" for n, rate in enumerate(rates))
    end = (len(rates) - 1) * 2
    return (
        f'<svg class="spark" width="{end}" height="18" viewBox="0 0 {end} 18" role="img" '
        f'aria-label="rows per second over time"><title>at most {top:,.0f} rows/s</title>'
        f'<polyline points="0,17 {points} {end},17"/></svg>'
    )
