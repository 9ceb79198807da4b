"""From what a run left behind to the dataset that the user gets."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from asyncdistil.distiset import Distiset
from asyncdistil.distiset.citations import citations_of
from asyncdistil.pipeline.finished import Finished
from asyncdistil.pipeline.keepsake import furnish
from asyncdistil.pipeline.planning import PreparedRun
from asyncdistil.pipeline.watch import WATCHER
from asyncdistil.steps.functions import FilterRows
from asyncdistil.steps.identity import code_roots
from asyncdistil.steps.step import Step
from asyncdistil.supervisor.progress import Progress

_log = logging.getLogger("asyncdistil.pipeline")


def to_distiset(prepared: PreparedRun, finished: Finished) -> Distiset:
    """The dataset of a run; its rows stay on disk until they are touched."""
    _say(prepared, finished)
    distiset = Distiset.from_emits(finished.root, finished.emits)
    distiset.report = summary(finished)
    distiset.citations = citations_of(prepared.docstrings)
    if finished.emits:
        furnish(distiset, finished.root, prepared.name, finished.emits[0].run)
    watcher = WATCHER.get()
    if watcher is not None:
        watcher.ended(prepared, finished)
    return distiset


def summary(finished: Finished) -> dict[str, object]:
    """Counters of a run as plain data: per step rows computed, replayed and failed.

    ``lost_in_flight_rows`` is what workers held when the run that was taken up died: no step was
    given more rows than those a second time.
    """
    return {
        "run": finished.run,
        "hit": finished.hit,
        "resumed": finished.resumed,
        "lost_in_flight_rows": sum(finished.lost_in_flight.values()),
        "seconds": finished.seconds,
        "failed_rows": finished.failed_rows,
        "steps": {
            name: {
                "rows_computed": counters.rows_computed,
                "rows_replayed": counters.rows_replayed,
                "inputs_computed": counters.inputs_computed,
                "inputs_replayed": counters.inputs_replayed,
                "failed": counters.failed,
                "filtered": counters.filtered,
                "in_flight_peak": counters.in_flight_peak,
                "restarts": counters.restarts,
                "seconds": counters.seconds,
                "requests": counters.usage.requests,
                "requests_cached": counters.usage.cached,
                "cost_microusd": counters.usage.cost_microusd,
                "failures": [
                    {"row": list(row), "kind": failure.kind, "message": failure.message}
                    for row, failure in counters.first_failures
                ],
            }
            for name, counters in finished.progress.items()
            if "/" not in name
        },
    }


def why_served(prepared: PreparedRun) -> str:
    """Why the stored dataset serves without any work."""
    retry = prepared.retry
    if retry is not None and not any(step.rows for step in retry.steps):
        return "there is no such row to ask anew"
    return "nothing changed"


def emptied(prepared: PreparedRun, progress: Progress) -> Iterator[str]:
    """Sentences about steps whose own code returned nothing for every row there was.

    Most often it forgot to return the row. A step that is there to drop rows, or that has no code
    of the user's, is not spoken of, nor one that did nothing in this run.
    """
    for name, counters in progress.items():
        if "/" in name or not counters.inputs_computed:
            continue
        if counters.rows_computed or counters.rows_replayed or counters.failed:
            continue
        step = prepared.step(name)
        # A batch-wise step drops rows uncounted; of `aprocess` nothing else can have made none.
        by_row = isinstance(step, Step) and (step.row_wise or step.asynchronous)
        if not by_row or isinstance(step, FilterRows) or not any(code_roots(step)):
            continue
        yield (
            f"[{name}] kept none of its {counters.inputs_computed + counters.inputs_replayed} "
            "rows: it returned None, or an empty list, for each. Return the row to keep it; to "
            "drop rows on purpose there is FilterRows"
        )


def _say(prepared: PreparedRun, finished: Finished) -> None:
    if finished.hit:
        _log.info("%s: the stored dataset is served, no step runs", why_served(prepared))
        return
    for name, counters in finished.progress.items():
        if "/" in name:
            continue
        _log.info(
            "[%s] %d rows computed, %d replayed, %d failed",
            name,
            counters.rows_computed,
            counters.rows_replayed,
            counters.failed,
        )
        for row, failure in counters.first_failures[:3]:
            number = ".".join(map(str, row))
            _log.warning("[%s] row %s failed: %s: %s", name, number, failure.kind, failure.message)
    for sentence in emptied(prepared, finished.progress):
        _log.warning("%s", sentence)
