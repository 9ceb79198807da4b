"""How many requests are under way, and what ends them all."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import threading
from typing import Any

import pytest

from asyncdistil.errors import ModelOutage, ModelRateLimited
from asyncdistil.models import OpenAILLM
from asyncdistil.models.admission import LocalPermits
from asyncdistil.models.endpoint import Endpoint
from asyncdistil.models.retry import Patience, RequestFailed, unavailable
from asyncdistil.testing.chaos import Fault, always
from asyncdistil.testing.model_server import ModelServer
from asyncdistil.transport import brokers
from asyncdistil.transport.brokers import UNLIMITED, Observation, RateLimits

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_never_more_in_flight_than_declared(loaded: Any) -> None:
    with ModelServer(latency_seconds=0.01) as server:
        llm = loaded(OpenAILLM(model="m", base_url=server.url, max_concurrency=5))
        llm.generate_outputs([chat(f"{n}") for n in range(40)])
        # Five at once where the machine is quick; one after the other would be no flight.
        assert 1 < server.stats.peak_in_flight <= 5


def test_a_hidden_limit_is_found_and_no_row_is_lost(loaded: Any) -> None:
    with ModelServer(latency_seconds=0.05, concurrent_limit=4) as server:
        llm = loaded(OpenAILLM(model="m", base_url=server.url, max_concurrency=32, max_retries=0))
        outputs = llm.generate_outputs([chat(f"{n}") for n in range(40)])
        assert all(o["generations"][0] for o in outputs)
        assert server.stats.throttled > 0


def test_requests_per_minute_are_kept(loaded: Any) -> None:
    with ModelServer() as server:
        llm = loaded(
            OpenAILLM(model="m", base_url=server.url, requests_per_minute=3000, max_concurrency=500)
        )
        llm.generate_outputs([chat(f"{n}") for n in range(310)])
        # 300 are the burst that the pool allows; the rest come at 50 a second.
        assert server.stats.requests == 310


def test_two_models_of_one_account_share_their_permits(loaded: Any) -> None:
    with ModelServer(latency_seconds=0.01) as server:
        models = [
            loaded(OpenAILLM(model=m, base_url=server.url, max_concurrency=4, api_key="same"))
            for m in ("a", "b")
        ]

        async def both() -> None:
            rows = [chat(f"{n}") for n in range(30)]
            await asyncio.gather(*(llm.agenerate_outputs(rows) for llm in models))

        asyncio.run(both())
        assert server.stats.peak_in_flight <= 4


def test_another_key_is_another_account() -> None:
    models = [OpenAILLM(model="m", base_url="http://h/v1", api_key=key) for key in ("k1", "k2")]
    for llm in models:
        llm.load()
    governors = [llm._endpoint.governor for llm in models if llm._endpoint is not None]
    assert len(set(governors)) == 2
    assert not any("k1" in governor or "k2" in governor for governor in governors)
    for llm in models:
        llm.unload()


async def test_permits_wake_in_the_order_of_asking() -> None:
    permits = LocalPermits()
    limits = RateLimits(concurrent=1)
    await permits.acquire("g", limits)
    order: list[int] = []

    async def wait(number: int) -> None:
        await permits.acquire("g", limits)
        order.append(number)
        permits.release("g", Observation("ok", 0.01))

    tasks = [asyncio.ensure_future(wait(n)) for n in range(5)]
    await asyncio.sleep(0)
    permits.release("g", Observation("ok", 0.01))
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]


async def test_who_stops_waiting_leaves_no_permit_behind() -> None:
    permits = LocalPermits()
    limits = RateLimits(concurrent=1)
    await permits.acquire("g", limits)
    for _ in range(20):
        waiting = asyncio.ensure_future(permits.acquire("g", limits))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    last = asyncio.ensure_future(permits.acquire("g", limits))
    await asyncio.sleep(0)
    permits.release("g", Observation("cancelled"))
    await last
    permits.release("g", Observation("cancelled"))


async def test_who_is_granted_while_being_cancelled_gives_back() -> None:
    permits = LocalPermits()
    limits = RateLimits(concurrent=1)
    await permits.acquire("g", limits)
    waiting = asyncio.ensure_future(permits.acquire("g", limits))
    await asyncio.sleep(0)
    permits.release("g", Observation("cancelled"))  # granted, but the task has not run yet
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await asyncio.wait_for(permits.acquire("g", limits), 60)


def test_threads_and_loops_share_a_pool() -> None:
    permits = LocalPermits()
    limits = RateLimits(concurrent=3)
    lock = threading.Lock()
    held = most = 0

    def work() -> None:
        nonlocal held, most
        for _ in range(50):
            permits.acquire_blocking("g", limits)
            with lock:
                held += 1
                most = max(most, held)
            with lock:
                held -= 1
            permits.release("g", Observation("ok", 0.001))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most <= 3


def test_inside_a_worker_the_supervisor_is_asked(server: ModelServer, loaded: Any) -> None:
    seen: list[Any] = []

    class Permits:
        async def acquire(self, governor: str, limits: RateLimits = UNLIMITED) -> None:
            seen.append((governor, limits))

        def acquire_blocking(self, governor: str, limits: RateLimits = UNLIMITED) -> None:
            raise AssertionError

        def release(self, governor: str, observation: Observation) -> None:
            seen.append(observation)

    class Claims:
        def claim(self, keys: Any, counts: Any, *, lease: int) -> Any:
            raise AssertionError

        async def aclaim(self, keys: Any, counts: Any, *, lease: int) -> Any:
            raise AssertionError

    brokers.install(brokers.Surroundings(Claims(), Permits(), "", "run", "step", 0))
    llm = loaded(OpenAILLM(model="m", base_url=server.url, max_concurrency=9, tokens_per_minute=70))
    llm.generate_outputs([chat("a")])
    (governor, limits), observation = seen
    assert governor.startswith(f"openai {server.url} ")
    assert limits == RateLimits(9, 0, 70)
    assert observation.outcome == "ok"
    assert observation.tokens > 0
    assert observation.latency_seconds > 0


_names = itertools.count()


def endpoint(**kwargs: Any) -> Endpoint:
    patience = Patience(first_wait_seconds=0.001, longest_wait_seconds=0.001, **kwargs)
    # Pools are one per name and process: a breaker that one test opened must not close another.
    return Endpoint(f"test http://nowhere {next(_names)}", RateLimits(concurrent=4), patience)


async def test_an_outage_stops_the_run_instead_of_failing_its_rows() -> None:
    gone = endpoint(max_retries=1000, first_answer_seconds=0.05)
    sent = 0

    async def send() -> tuple[str, int]:
        nonlocal sent
        sent += 1
        raise RequestFailed(unavailable("refused"))

    with pytest.raises(ModelOutage, match="http://nowhere has answered no request"):
        await gone.call(send)
    before = sent
    with pytest.raises(ModelOutage):
        await gone.call(send)
    assert sent == before


async def test_a_service_that_does_not_answer_is_spoken_of_once_each_time_it_goes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    away = endpoint(max_retries=1000, silence_seconds=1e6, first_answer_seconds=1e6)
    failures = 0

    async def send() -> tuple[str, int]:
        nonlocal failures
        failures += 1
        if failures % 5:
            raise RequestFailed(unavailable("refused"))
        return "yes", 1

    await away.call(send)
    [said] = caplog.messages
    assert said.startswith("http://nowhere does not answer (refused)")
    assert "look at its address" in said
    await away.call(send)
    assert len(caplog.messages) == 2
    assert "look at its address" not in caplog.messages[1]


async def test_one_bad_request_among_good_ones_is_no_outage() -> None:
    up = endpoint(max_retries=3, silence_seconds=1e6)

    async def good() -> tuple[str, int]:
        return "yes", 1

    async def bad() -> tuple[str, int]:
        await up.call(good)
        raise RequestFailed(unavailable("only this one"))

    with pytest.raises(Exception, match="after 4 tries") as caught:
        await up.call(bad)
    assert not isinstance(caught.value, ModelOutage)
    assert await up.call(good) == "yes"


def test_429_beyond_the_patience_stops_the_run_and_every_later_call(
    server: ModelServer, loaded: Any
) -> None:
    server.script = always(Fault("429", "0"))
    llm = loaded(OpenAILLM(model="m", base_url=server.url, rate_limit_patience_seconds=0.05))
    llm._endpoint.patience = dataclasses.replace(llm._endpoint.patience, rate_limit_seconds=0.05)
    with pytest.raises(ModelRateLimited, match="rate_limit_patience_seconds"):
        llm.generate_outputs([chat("a")])
    before = server.stats.requests
    with pytest.raises(ModelRateLimited):
        llm.generate_outputs([chat("b")])
    assert server.stats.requests == before
