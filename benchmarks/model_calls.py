"""How much longer do prompts take through a model alone than through a bare aiohttp loop?

The service is the stand-in in a process of its own: lognormal latency with a mean of 0.25 s. Both
sides keep as many requests in flight and decode every reply; they run in turns. Started as a
script, the best of each counts, because other work on the machine only ever adds time. Goal: at
most 1.05 times.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import uvloop

from asyncdistil.models import OpenAILLM
from benchmarks.subjects.bare_loop import ask_all
from benchmarks.subjects.workload import question

if TYPE_CHECKING:
    from benchmarks.harness import Bench

GOAL = 1.05


@contextmanager
def service(latency_seconds: float, sigma: float, concurrent_limit: int = 0) -> Any:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "asyncdistil.testing.model_server"),
            *("--latency", str(latency_seconds), "--sigma", str(sigma)),
            *("--concurrent-limit", str(concurrent_limit)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.communicate()


async def bare(url: str, count: int, in_flight: int) -> None:
    answers = await ask_all(url, map(question, range(count)), in_flight)
    assert len(answers) == count
    assert all(answers)


async def ours(url: str, count: int, in_flight: int) -> None:
    pending = map(question, range(count))
    llm = OpenAILLM(model="m", base_url=url, max_concurrency=in_flight)
    llm.load()

    async def work() -> None:
        for prompt in pending:
            [output] = await llm.agenerate_outputs([[{"role": "user", "content": prompt}]])
            assert output["generations"][0]

    await asyncio.gather(*(work() for _ in range(in_flight)))
    llm.unload()
    await asyncio.sleep(0)


def measure(run: Callable[[], Awaitable[None]]) -> tuple[float, float]:
    """Wall seconds and CPU seconds of this process."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        wall, cpu = time.perf_counter(), time.process_time()
        runner.run(run())  # type: ignore[arg-type]
        return time.perf_counter() - wall, time.process_time() - cpu


def answer(bench: Bench) -> None:
    """64 and 256 in flight; `model_pipeline` asks the same of whole runs, and of 429."""
    figures = {"seconds": "s", "cpu_microseconds_per_request": "µs"}
    latency = bench.pick(0.25, 0.01)
    for in_flight, count in bench.pick(((64, 500), (256, 1_000)), ((16, 100),)):
        name = f"{count:,} prompts, {in_flight} in flight"
        with service(latency, 0.25) as url:
            for _ in range(bench.repeats):
                for column, side in (("ours", ours), ("floor", bare)):
                    wall, cpu = measure(partial(side, url, count, in_flight))
                    per_request = {"cpu_microseconds_per_request": cpu / count * 1e6}
                    bench.record(name, column, {"seconds": wall, **per_request}, figures=figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--latency", type=float, default=0.25)
    parser.add_argument("--sigma", type=float, default=0.25)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    best: dict[str, tuple[float, float]] = {}
    with service(given.latency, given.sigma) as url:
        for _ in range(given.rounds):
            for name, side in (("bare", bare), ("ours", ours)):
                figures = measure(lambda side=side: side(url, given.prompts, given.in_flight))
                best[name] = min(best.get(name, figures), figures)
    for name, (wall, cpu) in best.items():
        per_request = cpu / given.prompts * 1e6
        print(f"{name}: {wall:.3f} s wall, {per_request:.0f} µs CPU a request")
    ratio = best["ours"][0] / best["bare"][0]
    print(f"ratio: {ratio:.3f} (goal: at most {GOAL})")


if __name__ == "__main__":
    main()
