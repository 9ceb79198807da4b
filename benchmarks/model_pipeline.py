"""How much longer do 2,000 prompts take through a whole pipeline than through a bare aiohttp loop?

`LoadDataFromDicts >> TextGeneration` at default batch sizes, against the stand-in service in a
process of its own: lognormal latency, mean 0.25 s, sigma 0.5, seeded, the same for both. Seconds
count from ``run()`` to the rows in hand, with starting and ending the workers and what those
import; seconds of the process from the start of its interpreter to its end. The service itself
says how full it was between the first and the last moment at which it was full, and how long it
took from its first request to its last answer.
"""

from __future__ import annotations

import json
import shutil
import urllib.request
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Command
from benchmarks.model_calls import service
from benchmarks.rivals import RIVALS, NotInstalled

if TYPE_CHECKING:
    from benchmarks.harness import Bench

FIGURES = {
    "seconds": "s",
    "process_seconds": "s",
    "service_seconds": "s",
    "in_flight_percent": "%",
    "refused_percent": "%",
}


def answer(bench: Bench) -> None:
    """64 and 256 in flight; then a service that answers 429 above 64 and says so to nobody.

    The floor of the last knows the limit.
    """
    latency = bench.pick(0.25, 0.01)
    cases = bench.pick(((64, 0), (256, 0), (256, 64)), ((16, 0), (32, 16)))
    count = bench.pick(2_000, 200)
    for in_flight, limit in cases:
        name = f"{count:,} prompts, {in_flight} in flight"
        name += f", 429 above {limit}" if limit else ""
        for turn in range(bench.repeats):
            # The rival once, and only where it can keep as many in flight: it takes half a minute.
            rival = not turn and (in_flight, limit) == cases[0] and bench.wanted("distilabel")
            for subject in ("ours", *(("distilabel",) if rival else ()), "floor"):
                width = limit if limit and subject == "floor" else in_flight
                sample, note = _sample(bench, subject, latency, limit, count, width)
                bench.record(name, subject, sample, figures=FIGURES, note=note)


def _sample(
    bench: Bench, subject: str, latency: float, limit: int, count: int, in_flight: int
) -> tuple[dict[str, Any], str]:
    """Run one side against a service of its own; what it and the service say, or what is wrong."""
    parameters = {"url": "", "count": count, "in_flight": in_flight}
    command = Command(subject, "asks", parameters)
    directory = bench.directory()
    try:
        with service(latency, 0.5, limit) as url:
            try:
                sample = bench.run(command, directory, {**parameters, "url": url})
            except NotInstalled as error:
                return {}, str(error)
            if sample["rows"] != count:
                return {}, f"{sample['rows']} of {count} prompts were answered"
            seen = _seen_by(url, limit or in_flight)
            if subject in RIVALS:
                # It waits for the slowest of a batch: what it fills for a moment is no window.
                del seen["in_flight_percent"]
            return sample | seen, ""
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _seen_by(url: str, full: int) -> dict[str, Any]:
    """What the service says about a sample."""
    base = url.removesuffix("/v1")
    occupancy = _get(f"{base}/stand-in/occupancy?full={full}")
    stats = _get(f"{base}/stand-in/stats")
    return {
        "service_seconds": occupancy["ended_seconds"],
        "in_flight_percent": 100 * occupancy["mean"] / full,
        "refused_percent": 100 * stats["throttled"] / stats["requests"],
    }


def _get(url: str) -> Any:
    with urllib.request.urlopen(url) as reply:
        return json.load(reply)
