"""From what a run left behind to the dataset that the user gets."""

from __future__ import annotations

import logging

from asyncdistil.distiset import Distiset
from asyncdistil.distiset.citations import citations_of
from asyncdistil.pipeline.finished import Finished
from asyncdistil.pipeline.keepsake import furnish
from asyncdistil.pipeline.planning import PreparedRun
from asyncdistil.pipeline.watch import WATCHER

_log = logging.getLogger("asyncdistil.pipeline")


def to_distiset(prepared: PreparedRun, finished: Finished) -> Distiset:
    """The dataset of a run; its rows stay on disk until they are touched."""
    _say(finished)
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


def _say(finished: Finished) -> None:
    if finished.hit:
        _log.info("nothing changed: the stored dataset is served, no step runs")
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
