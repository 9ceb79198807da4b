"""One look at a run as coloured text: a bar and figures per step, and how long it will take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rich.text import Text

from asyncdistil.pipeline.outlook import Outlook, Rate, rows_done

if TYPE_CHECKING:
    from asyncdistil.graph.plan import StepPlan
    from asyncdistil.supervisor.progress import Progress, StepProgress

_BAR = "━"
_MOST_BAR = 24
_LEAST_BAR = 6
_LEAST_STEPS = 3
_NAME_CHARACTERS = 24
_GAP = 2


class _Line(NamedTuple):
    """What is known of one step."""

    step: StepPlan
    counters: StepProgress
    total: int | None
    rate: Rate | None


class _Column(NamedTuple):
    heading: str
    cell: Callable[[_Line], tuple[str, str]]
    optional: int = 0
    """Columns with the highest number go first where the screen is narrow; 0 stays."""


def frame(outlook: Outlook, progress: Progress, *, seconds: float, width: int, height: int) -> Text:
    """Draw what is known now.

    Args:
        outlook: Totals and rates of the run.
        progress: Its counters.
        seconds: Since it began.
        width: Characters of a line.
        height: Lines of the screen; steps that are under way are shown first.
    """
    totals, rates = outlook.totals(progress), outlook.rates()
    lines = [
        _Line(step, counters, totals[step.name], rates.get(step.name))
        for step in outlook.plan.steps
        if (counters := progress.get(step.name)) is not None
    ]
    shown = _on_screen(lines, max(height - 3, _LEAST_STEPS))
    text = Text(no_wrap=True, overflow="crop", end="")
    _table(text, shown, _columns(lines), width)
    text.append(_foot(outlook, progress, lines, seconds), "dim")
    left_out = len(lines) - len(shown)
    if left_out:
        done = sum(line.counters.done for line in lines)
        text.append(f"; {left_out:,} steps not shown, {done:,} of {len(lines):,} done", "dim")
    return text


def _on_screen(lines: Sequence[_Line], room: int) -> Sequence[_Line]:
    """As many steps as there is room for: those under way, then those that wait."""
    if len(lines) <= room:
        return lines

    def urgency(place: int) -> tuple[int, int]:
        counters = lines[place].counters
        begun = rows_done(lines[place].step, counters) or counters.in_flight or counters.waiting
        return (2 if counters.done else 0 if begun else 1), place

    chosen = sorted(sorted(range(len(lines)), key=urgency)[:room])
    return [lines[place] for place in chosen]


def _columns(lines: Sequence[_Line]) -> list[_Column]:
    columns = [
        _Column("computed", lambda line: (f"{_computed(line):,}", "")),
        _Column("replayed", lambda line: _quiet(_replayed(line), "cyan")),
        _Column("total", lambda line: (_count(line.total), "dim")),
        _Column("failed", lambda line: _quiet(line.counters.failed, "red")),
        _Column("in flight", lambda line: _quiet(line.counters.in_flight, ""), 3),
        _Column("waiting", lambda line: _quiet(line.counters.waiting, ""), 4),
        _Column("rows/s", lambda line: (_rate(line), ""), 1),
    ]
    if any(line.counters.usage.requests or line.counters.usage.cached for line in lines):
        columns += [
            _Column("tokens/s", lambda line: (_tokens(line), ""), 2),
            _Column("from memo", _cached, 5),
            _Column("cost", lambda line: (_cost(line), "")),
        ]
    return columns


def _table(text: Text, lines: Sequence[_Line], columns: list[_Column], width: int) -> None:
    names = [_short(line.step.name) for line in lines]
    cells = [[column.cell(line) for line in lines] for column in columns]
    sizes = [
        max(len(column.heading), *(len(cell) for cell, _ in made)) if made else 0
        for column, made in zip(columns, cells, strict=True)
    ]
    name_size = max([4, *map(len, names)])
    kept = list(range(len(columns)))

    def room() -> int:
        figures = sum(sizes[place] + _GAP for place in kept)
        return width - name_size - figures - len("  done") - 2 * _GAP

    while room() < _LEAST_BAR and any(columns[place].optional for place in kept):
        kept.remove(max(kept, key=lambda place: columns[place].optional))
    bar = min(room(), _MOST_BAR)
    bar = bar if bar >= _LEAST_BAR else 0
    gap = " " * _GAP
    text.append("step".ljust(name_size) + gap + " " * bar, "dim")
    for place in kept:
        text.append(gap + columns[place].heading.rjust(sizes[place]), "dim")
    text.append("\n")
    for row, line in enumerate(lines):
        text.append(names[row].ljust(name_size) + gap)
        _bar(text, line, bar)
        for place in kept:
            cell, style = cells[place][row]
            text.append(gap + cell.rjust(sizes[place]), style)
        text.append("  done\n" if line.counters.done else "\n", "green")


def _bar(text: Text, line: _Line, size: int) -> None:
    """Replayed, computed and failed rows side by side, then what is ahead."""
    done = rows_done(line.step, line.counters)
    total = max(line.total or 0, done)
    if not total:
        text.append(_BAR * size, "bright_black" if not line.counters.done else "green")
        return
    failed = min(line.counters.failed, done)
    replayed = min(_replayed(line), done - failed)
    filled = 0
    so_far = 0
    # A source of unknown length has no end to fill up to.
    whole = total if line.total is not None else total * 2
    for part, style in (
        (replayed, "cyan"),
        (done - failed - replayed, "green"),
        (failed, "red"),
    ):
        so_far += part
        end = round(size * so_far / whole)
        if part and end == filled and filled < size:
            end += 1
        text.append(_BAR * (end - filled), style)
        filled = end
    text.append(_BAR * (size - filled), "bright_black")


def _foot(outlook: Outlook, progress: Progress, lines: Sequence[_Line], seconds: float) -> str:
    parts = [f"{_clock(seconds)} so far"]
    if all(line.total is not None for line in lines) and lines:
        whole = sum(line.total or 0 for line in lines)
        done = sum(rows_done(line.step, line.counters) for line in lines)
        if whole:
            parts.insert(0, f"{100 * done // whole} %")
    remaining = outlook.remaining(progress)
    if remaining is not None:
        about = "at least" if remaining.at_least else "about"
        parts.append(f"{about} {_clock(remaining.seconds)} to go")
    cost = sum(line.counters.usage.cost_microusd for line in lines)
    if cost:
        parts.append(f"${cost / 1e6:.2f} spent")
    return ", ".join(parts)


def _computed(line: _Line) -> int:
    counters = line.counters
    return counters.inputs_computed if line.step.edges else counters.rows_computed


def _replayed(line: _Line) -> int:
    counters = line.counters
    return counters.inputs_replayed if line.step.edges else counters.rows_replayed


def _quiet(count: int, style: str) -> tuple[str, str]:
    return f"{count:,}", style if count else "dim"


def _count(count: int | None) -> str:
    return "?" if count is None else f"{count:,}"


def _rate(line: _Line) -> str:
    if line.rate is None or line.counters.done:
        return ""
    return f"{line.rate.rows:,.0f}" if line.rate.rows >= 10 else f"{line.rate.rows:.1f}"


def _tokens(line: _Line) -> str:
    usage = line.counters.usage
    if not (usage.requests or usage.cached) or line.rate is None or line.counters.done:
        return ""
    return f"{line.rate.tokens:,.0f}"


def _cached(line: _Line) -> tuple[str, str]:
    usage = line.counters.usage
    return _quiet(usage.cached, "cyan") if usage.requests or usage.cached else ("", "")


def _cost(line: _Line) -> str:
    usage = line.counters.usage
    return f"${usage.cost_microusd / 1e6:.2f}" if usage.requests or usage.cached else ""


def _short(name: str) -> str:
    return name if len(name) <= _NAME_CHARACTERS else f"{name[: _NAME_CHARACTERS - 1]}…"


def _clock(seconds: float) -> str:
    whole = int(seconds)
    if whole >= 3600:
        return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{whole // 60}:{whole % 60:02d}"
