"""What a page shows of a run, as plain data: the one place that reads it, for every page."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice
from typing import Any

from markupsafe import Markup, escape

from asyncdistil import __version__
from asyncdistil.batch import Usage
from asyncdistil.errors import CorruptRecord
from asyncdistil.graph.drawing import Box, Link, draw_svg
from asyncdistil.log.events import RunBegin, RunEnd
from asyncdistil.report.timeline import MOST_LANES, draw_spark, draw_timeline, timeline_of
from asyncdistil.supervisor.stored_run import StoredRun
from asyncdistil.supervisor.stored_wiring import StoredStep

_SAMPLE_ROWS = 3
_MOST_SAMPLED_STEPS = 60
_MOST_FAILURES = 200
_MOST_KEYS = 200
_MOST_SPARKS = 200
_VALUE_CHARACTERS = 1200
_FAILURE_BYTES = 300_000
_SAMPLE_BYTES = 400_000
_KEY_BYTES = 400_000
_KINDS = {"row": "row-wise", "batch": "batch-wise"}


class Allowance:
    """How much room texts of one kind may still take in the page.

    Args:
        size_bytes: Room at first, as escaped UTF-8.
    """

    def __init__(self, size_bytes: int) -> None:
        self.left_bytes = size_bytes

    def text(self, value: Any, most_characters: int = _VALUE_CHARACTERS) -> str:
        """A value as text, cut to what it may take; nothing but a mark if no room is left."""
        text = value if isinstance(value, str) else repr(value)
        if self.left_bytes <= 0:
            return "…"
        if len(text) > most_characters:
            text = f"{text[: most_characters - 1]}…"
        self.left_bytes -= len(str(escape(text)).encode("utf-8", "replace")) + 40
        return text


def figures_of(name: str, run: StoredRun, *, state: str = "", home: str = "") -> dict[str, Any]:
    """Everything that the page of a run shows.

    Args:
        name: Of the pipeline.
        run: Open; stays open.
        state: What is known of a run that has not ended, in words.
        home: Address of the list of runs, if there is one.

    Raises:
        LogError: The store can't be read. Sample rows that are damaged are left out.
    """
    steps = list(run.steps.values())
    timeline = timeline_of(run)
    sparks = {
        step.name: Markup(draw_spark(timeline.rates.get(step.name, ())))
        for step in steps[:_MOST_SPARKS]
    }
    return {
        "name": name,
        "home": home,
        "version": __version__,
        "run": run.begin.run,
        "under_way": run.end is None,
        "facts": _facts(run, state),
        "picture": Markup(_picture(run)),
        "timeline": Markup(draw_timeline(timeline)) if timeline.lanes else None,
        "lanes": len(timeline.lanes),
        "most_lanes": MOST_LANES,
        "untimed": timeline.untimed,
        "steps": [
            {
                **_figures(step, timeline.spans.get(step.name, step.seconds)),
                "spark": sparks.get(step.name, ""),
            }
            for step in steps
        ],
        "longest_seconds": max((step.seconds for step in steps), default=0.0),
        "total": _total(steps),
        "failures": _failures(run),
        "failed_rows": sum(step.failed for step in steps),
        "samples": _samples(run, steps),
        "keys": _keys(steps),
        "left_out_steps": max(len(steps) - _MOST_SAMPLED_STEPS, 0),
        "warnings": run.store.warnings,
    }


def _facts(run: StoredRun, state: str) -> list[tuple[str, str]]:
    end = run.end
    facts = [("started", time_of(run.begin.wall_seconds))]
    if run.begin.resumed:
        facts.append(("taken up", "yes, from a run that had stopped"))
    if end is None:
        facts.append(("state", state or "under way, or stopped without a word"))
    else:
        facts.append(("took", f"{seconds_of(run.begin, end) or '?'} s"))
        facts.append(("state", "complete" if end.completed else f"stopped: {end.reason}"))
    facts.append(("signature", run.begin.signature))
    facts.append(("signature with parameters", run.begin.aggregated_signature))
    return facts


def seconds_of(begin: RunBegin, end: RunEnd) -> str:
    """How long a run took, for people; empty if the clock was set back meanwhile."""
    seconds = end.wall_seconds - begin.wall_seconds
    return f"{seconds:,.1f}" if seconds >= 0 else ""


def time_of(seconds: float) -> str:
    """Unix time for people."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _picture(run: StoredRun) -> str:
    boxes = [
        Box(
            step.name, f"{step.rows:,} rows, {_KINDS.get(step.kind, step.kind)}", _shares(run, step)
        )
        for step in run.steps.values()
    ]
    known = {box.name for box in boxes}
    links = [
        Link(up, step.name) for step in run.steps.values() for up in step.upstreams if up in known
    ]
    return draw_svg(boxes, links)


def _shares(run: StoredRun, step: StoredStep) -> dict[str, float]:
    done = step.inputs_computed + step.inputs_replayed
    if not done:
        return {}
    whole = done
    if run.end is None:
        # Of a run under way the bar fills up to the rows that the steps above have made so far.
        above = (run.steps[up].rows for up in step.upstreams if up in run.steps)
        whole = max([done, *above])
    failed = min(step.failed, done)
    replayed = max(step.inputs_replayed - max(failed - step.inputs_computed, 0), 0)
    return {
        "replayed": replayed / whole,
        "computed": (done - replayed - failed) / whole,
        "failed": failed / whole,
    }


def _figures(step: StoredStep, span_seconds: float) -> dict[str, Any]:
    usage = step.usage
    tokens = usage.input_tokens + usage.output_tokens
    return {
        "step": step.name,
        "kind": step.kind,
        "rows": step.rows,
        "computed": step.inputs_computed,
        "replayed": step.inputs_replayed,
        "failed": step.failed,
        "filtered": step.filtered,
        "seconds": step.seconds,
        "rate": step.inputs_computed / span_seconds if span_seconds else None,
        **_paid(usage),
        "tokens_rate": tokens / span_seconds if span_seconds else None,
    }


def _paid(usage: Usage) -> dict[str, Any]:
    return {
        "requests": usage.requests,
        "cached": usage.cached,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "dollars": usage.cost_microusd / 1e6,
        "saved_dollars": usage.cached_cost_microusd / 1e6,
    }


def _total(steps: list[StoredStep]) -> dict[str, Any]:
    usages = [step.usage for step in steps]
    whole = Usage(*(sum(getattr(u, name) for u in usages) for name in Usage.__struct_fields__))
    return {
        "computed": sum(step.inputs_computed for step in steps),
        "replayed": sum(step.inputs_replayed for step in steps),
        "failed": sum(step.failed for step in steps),
        "seconds": sum(step.seconds for step in steps),
        "tokens": whole.input_tokens + whole.output_tokens,
        **_paid(whole),
    }


def _failures(run: StoredRun) -> list[dict[str, Any]]:
    room = Allowance(_FAILURE_BYTES)
    return [
        {
            "step": each.step,
            "row": "" if each.row is None else ".".join(map(str, each.row)),
            "kind": each.failure.kind,
            "message": room.text(each.failure.message, 4000),
            "attempts": each.failure.attempts,
            "detail": room.text(each.failure.detail, 16_384) if each.failure.detail else "",
        }
        for each in islice(run.failures(), _MOST_FAILURES)
    ]


def _samples(run: StoredRun, steps: list[StoredStep]) -> list[dict[str, Any]]:
    room = Allowance(_SAMPLE_BYTES)
    # From the leaves up, so that the dataset itself is what there is room for.
    made = [
        {"step": step.name, "rows": _sample(run, step, room)}
        for step in reversed(steps[-_MOST_SAMPLED_STEPS:])
    ]
    return made[::-1]


def _sample(run: StoredRun, step: StoredStep, room: Allowance) -> list[dict[str, str]]:
    try:
        rows = list(run.rows(step.name, 0, _SAMPLE_ROWS))
    except CorruptRecord as error:
        return [{"damaged": str(error)}]
    made = []
    for row in rows:
        shown: dict[str, str] = {}
        for column, value in row.items():
            if room.left_bytes <= 0:
                shown["…"] = "more columns than the page has room for"
                break
            shown[room.text(column, 200)] = room.text(value)
        made.append(shown)
    return made


def _keys(steps: list[StoredStep]) -> list[dict[str, Any]]:
    room = Allowance(_KEY_BYTES)
    return [
        {
            "step": step.name,
            "lineage": step.lineage.hex(),
            "components": {part: room.text(value) for part, value in step.key.items()}
            if room.left_bytes > 0
            else {"…": "left out, for want of room"},
        }
        for step in steps[:_MOST_KEYS]
    ]
