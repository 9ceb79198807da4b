"""One self-contained HTML page about a run: no script, no font, no picture from elsewhere.

Every text of the user's goes through the template's escaping; only the picture of the graph, which
escapes by itself, is put in as markup.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from importlib import resources
from itertools import islice
from typing import Any

import jinja2
from markupsafe import Markup

from asyncdistil import __version__
from asyncdistil.batch import Usage
from asyncdistil.errors import CorruptRecord
from asyncdistil.graph.drawing import Box, Link, draw_svg
from asyncdistil.supervisor.stored_run import StoredRun
from asyncdistil.supervisor.stored_wiring import StoredStep

_SAMPLE_ROWS = 3
_MOST_SAMPLED_STEPS = 60
_MOST_FAILURES = 200
_MOST_KEYS = 200
_VALUE_CHARACTERS = 1200


def page_of(name: str, run: StoredRun) -> str:
    """Write the page of a run.

    Args:
        name: Of the pipeline.
        run: Open; stays open.

    Raises:
        LogError: The store can't be read. Sample rows that are damaged are left out.
    """
    failures = list(islice(run.failures(), _MOST_FAILURES))
    steps = list(run.steps.values())
    return _template().render(
        name=name,
        version=__version__,
        run=run.begin.run,
        facts=_facts(run),
        picture=Markup(_picture(run)),
        steps=[_figures(step) for step in steps],
        longest_seconds=max((step.seconds for step in steps), default=0.0),
        total=_total(steps),
        failures=[
            {
                "step": each.step,
                "row": "" if each.row is None else ".".join(map(str, each.row)),
                "kind": each.failure.kind,
                "message": each.failure.message,
                "attempts": each.failure.attempts,
                "detail": each.failure.detail,
            }
            for each in failures
        ],
        failed_rows=sum(step.failed for step in steps),
        samples=[
            {"step": step.name, "rows": _sample(run, step)} for step in steps[-_MOST_SAMPLED_STEPS:]
        ],
        keys=[
            {
                "step": step.name,
                "lineage": step.lineage.hex(),
                "components": {part: _text(value) for part, value in step.key.items()},
            }
            for step in steps[:_MOST_KEYS]
        ],
        warnings=run.store.warnings,
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, finalize=_shown
    )
    source = resources.files("asyncdistil.report").joinpath("page.html.j2").read_text("utf-8")
    return environment.from_string(source)


def _facts(run: StoredRun) -> list[tuple[str, str]]:
    end = run.end
    facts = [("started", _time(run.begin.wall_seconds))]
    if run.begin.resumed:
        facts.append(("taken up", "yes, from a run that had stopped"))
    if end is None:
        facts.append(("state", "under way, or stopped without a word"))
    else:
        facts.append(("took", f"{end.wall_seconds - run.begin.wall_seconds:.1f} s"))
        facts.append(("state", "complete" if end.completed else f"stopped: {end.reason}"))
    facts.append(("signature", run.begin.signature))
    facts.append(("signature with parameters", run.begin.aggregated_signature))
    return facts


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _picture(run: StoredRun) -> str:
    boxes = [
        Box(step.name, f"{step.rows:,} rows, {step.kind}", _shares(step))
        for step in run.steps.values()
    ]
    known = {box.name for box in boxes}
    links = [
        Link(up, step.name) for step in run.steps.values() for up in step.upstreams if up in known
    ]
    return draw_svg(boxes, links)


def _shares(step: StoredStep) -> dict[str, float]:
    whole = step.inputs_computed + step.inputs_replayed
    if not whole:
        return {}
    failed = min(step.failed, whole)
    replayed = max(step.inputs_replayed - max(failed - step.inputs_computed, 0), 0)
    return {
        "replayed": replayed / whole,
        "computed": (whole - replayed - failed) / whole,
        "failed": failed / whole,
    }


def _figures(step: StoredStep) -> dict[str, Any]:
    usage = step.usage
    return {
        "step": step.name,
        "kind": step.kind,
        "rows": step.rows,
        "computed": step.inputs_computed,
        "replayed": step.inputs_replayed,
        "failed": step.failed,
        "filtered": step.filtered,
        "seconds": step.seconds,
        "rate": step.inputs_computed / step.seconds if step.seconds else None,
        "requests": usage.requests,
        "cached": usage.cached,
        "tokens": usage.input_tokens + usage.output_tokens,
        "dollars": usage.cost_microusd / 1e6,
        "saved_dollars": usage.cached_cost_microusd / 1e6,
    }


def _total(steps: list[StoredStep]) -> dict[str, Any]:
    usages: list[Usage] = [step.usage for step in steps]
    return {
        "computed": sum(step.inputs_computed for step in steps),
        "replayed": sum(step.inputs_replayed for step in steps),
        "failed": sum(step.failed for step in steps),
        "seconds": sum(step.seconds for step in steps),
        "requests": sum(usage.requests for usage in usages),
        "cached": sum(usage.cached for usage in usages),
        "tokens": sum(usage.input_tokens + usage.output_tokens for usage in usages),
        "dollars": sum(usage.cost_microusd for usage in usages) / 1e6,
        "saved_dollars": sum(usage.cached_cost_microusd for usage in usages) / 1e6,
    }


def _sample(run: StoredRun, step: StoredStep) -> list[dict[str, str]]:
    try:
        rows = list(run.rows(step.name, 0, _SAMPLE_ROWS))
    except CorruptRecord as error:
        return [{"damaged": str(error)}]
    return [{column: _text(value) for column, value in row.items()} for row in rows]


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _VALUE_CHARACTERS else f"{text[: _VALUE_CHARACTERS - 1]}…"


def _shown(value: Any) -> Any:
    """A text without characters that no page may hold, lone halves of a pair among them."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    text = value.encode("utf-8", "replace").decode()
    return "".join(c if c >= " " or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
