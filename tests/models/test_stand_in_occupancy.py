"""The stand-in says how full it was."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from typing import Any

import pytest

from asyncdistil.models import OpenAILLM
from asyncdistil.testing.model_server import ModelServer
from asyncdistil.testing.occupancy import Occupancy


def test_the_mean_counts_from_the_first_to_the_last_full_moment() -> None:
    occupancy = Occupancy()
    levels = [(0.0, 1), (1.0, 2), (2.0, 1), (4.0, 2), (5.0, 1), (9.0, 0)]
    for seconds, level in levels:
        occupancy.note(10 + seconds, level)
    span = occupancy.while_full(2)
    assert (span.began_seconds, span.seconds, span.ended_seconds) == (1.0, 3.0, 9.0)
    assert span.mean == pytest.approx((2 * 1 + 1 * 2) / 3)


def test_a_service_that_never_was_full_says_so() -> None:
    occupancy = Occupancy()
    assert occupancy.while_full(1).mean == 0
    occupancy.note(1.0, 1)
    occupancy.note(3.0, 0)
    assert occupancy.while_full(2) == type(occupancy.while_full(2))(0.0, 0.0, 0.0, 2.0)
    assert occupancy.while_full(1).mean == 1


def test_requests_that_are_refused_fill_nothing() -> None:
    with ModelServer(latency_seconds=0.1, concurrent_limit=4, retry_after="0.01") as server:
        llm = OpenAILLM(model="m", base_url=server.url, api_key="none", max_concurrency=8)
        llm.load()

        async def ask() -> None:
            asked = ([{"role": "user", "content": f"Say {n}"}] for n in range(12))
            await asyncio.gather(*(llm.agenerate_outputs([messages]) for messages in asked))

        asyncio.run(ask())
        llm.unload()
        url = server.url.removesuffix("/v1")
        with urllib.request.urlopen(f"{url}/stand-in/occupancy?full=5") as reply:
            over: dict[str, Any] = json.load(reply)
    assert server.stats.throttled > 0
    assert over["mean"] == 0
    assert server.occupancy.while_full(1).mean >= 1
