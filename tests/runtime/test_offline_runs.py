"""Batches of a provider in whole runs: killed anywhere, they are submitted and paid for once."""

from __future__ import annotations

import json
import math
import os
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.errors import BatchesPending, CorruptRecord, WorkerDied
from asyncdistil.models import OpenAILLM
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import KeepColumns, LoadDataFromDicts
from asyncdistil.steps.tasks import EmbeddingTaskGenerator, TextClustering, TextGeneration
from asyncdistil.supervisor import shell
from asyncdistil.testing.model_server import ModelServer

CANARY = "sk-canary-77d0e3b1"
ROWS = [{"instruction": f"say {number}", "id": number} for number in range(7)]


def pipeline_of(
    cache: Path,
    server: ModelServer,
    *,
    poll: int | None = 0,
    rows: list[dict[str, Any]] = ROWS,
    name: str = "offline",
    **task: Any,
) -> Pipeline:
    with Pipeline(name=name, cache_dir=cache) as pipeline:
        llm = OpenAILLM(
            model="stand-in",
            base_url=server.url,
            api_key=CANARY,
            use_offline_batch_generation=True,
            offline_batch_generation_block_until_done=poll,
        )
        asked = TextGeneration(name="ask", llm=llm, input_batch_size=2, **task)
        keep = KeepColumns(columns=["id", "generation"], input_batch_size=2)
        LoadDataFromDicts(data=rows, batch_size=3) >> asked >> keep
    return pipeline


def generations(pipeline: Pipeline, **options: Any) -> list[tuple[int, str | None]]:
    rows = pipeline.run(**options)["default"]["train"]
    return [(row["id"], row["generation"]) for row in rows]


def submitted_once(server: ModelServer) -> bool:
    return set(server.batches.prompts.values()) == {1} and len(server.batches.prompts) == len(ROWS)


STATES = {
    "offline.record.replace": False,
    "offline.intended": False,
    "offline.sent": True,
    "offline.waiting": True,
    "offline.downloaded": False,
    "offline.kept": True,
    "offline.fetched": True,
}
"""Where a worker is killed each time it comes there, and whether the next worker gets past it."""


@pytest.mark.parametrize("state", STATES)
def test_killed_in_any_state_every_request_is_submitted_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    with ModelServer() as server:
        server.batches.looks_until_done = 2
        monkeypatch.setenv("ASYNCDISTIL_FAILPOINTS", f"{state}=kill@1")
        if STATES[state]:
            report = pipeline_of(cache, server).run().report
            assert report["steps"]["ask"]["restarts"] > 0
        else:
            with pytest.raises(WorkerDied, match="'ask' killed its worker"):
                pipeline_of(cache, server).run()
        monkeypatch.delenv("ASYNCDISTIL_FAILPOINTS")
        found = generations(pipeline_of(cache, server))
        assert [number for number, _ in found] == list(range(7))
        assert all(text for _, text in found)
        assert submitted_once(server)


def test_a_run_that_does_not_wait_stops_saying_how_to_go_on_and_the_next_one_fetches(
    cache: Path,
) -> None:
    with ModelServer() as server:
        server.batches.looks_until_done = 3
        for _ in range(2):
            with pytest.raises(BatchesPending, match=r"1 batch of 7 requests .* run again later"):
                pipeline_of(cache, server, poll=None).run()
        found = generations(pipeline_of(cache, server, poll=None))
        assert [number for number, _ in found] == list(range(7))
        assert submitted_once(server)
        served = len(server.requests)
        assert generations(pipeline_of(cache, server, poll=None)) == found
        assert len(server.requests) == served


@contextmanager
def interrupted_while_it_waits(server: ModelServer) -> Iterator[None]:
    """Send an interrupt to this process once a batch of the server has been looked at."""
    over = threading.Event()

    def interrupt() -> None:
        while not over.wait(0.01):
            if any(batch.looks for batch in [*server.batches.batches.values()]):
                os.kill(os.getpid(), signal.SIGINT)
                return

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_an_interrupt_does_not_wait_for_a_batch_which_stays_submitted(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever waited for what workers hold would wait for ever.
    monkeypatch.setattr(shell, "DRAIN_SECONDS", math.inf)
    with ModelServer() as server:
        server.batches.looks_until_done = 2
        with (
            interrupted_while_it_waits(server),
            pytest.raises(KeyboardInterrupt, match="run it again and it goes on"),
        ):
            pipeline_of(cache, server, poll=3600).run()
        (record,) = (cache / "offline").glob("*.json")
        assert json.loads(record.read_text())["state"] == "waiting"
        report = pipeline_of(cache, server).run().report
        assert report["resumed"]
        assert submitted_once(server)


def test_rows_that_came_meanwhile_are_a_batch_of_their_own(cache: Path) -> None:
    with ModelServer() as server:
        server.batches.looks_until_done = 2
        with pytest.raises(BatchesPending):
            pipeline_of(cache, server, poll=None, rows=ROWS[2:]).run()
        found = generations(pipeline_of(cache, server, rows=ROWS))
        assert [number for number, _ in found] == list(range(7))
        assert submitted_once(server)
        assert len(server.batches.batches) == 2


def test_a_refused_line_is_a_failed_row_and_the_next_run_asks_for_it_alone(cache: Path) -> None:
    with ModelServer() as server:
        server.batches.refuses = lambda body: 400 * ("say 4" in str(body["messages"]))
        found = generations(pipeline_of(cache, server))
        assert [number for number, text in found if text is None] == [4]
        server.batches.refuses = lambda body: 0
        mended = generations(pipeline_of(cache, server))
        assert [number for number, text in mended if text is None] == []
        assert [pair for pair in mended if pair[0] != 4] == [pair for pair in found if pair[1]]
        assert sorted(server.batches.prompts.values()) == [1, 1, 1, 1, 1, 1, 2]


def test_another_pipeline_of_the_cache_pays_nothing_and_one_without_cache_pays_again(
    cache: Path,
) -> None:
    with ModelServer() as server:
        found = generations(pipeline_of(cache, server))
        assert generations(pipeline_of(cache, server, name="another")) == found
        assert submitted_once(server)
        again = pipeline_of(cache, server)
        assert len(generations(again, use_cache=False)) == 7
        assert set(server.batches.prompts.values()) == {2}


def test_a_run_without_cache_takes_up_what_it_submitted_itself(cache: Path) -> None:
    with ModelServer() as server:
        generations(pipeline_of(cache, server))
        server.batches.prompts.clear()
        server.batches.looks_until_done = 2
        with pytest.raises(BatchesPending):
            pipeline_of(cache, server, poll=None).run(use_cache=False)
        found = generations(pipeline_of(cache, server, poll=None), use_cache=False)
        assert all(text for _, text in found)
        assert submitted_once(server)


def test_records_are_private_and_hold_neither_key_nor_text(cache: Path) -> None:
    with ModelServer() as server:
        generations(pipeline_of(cache, server))
    (record,) = (cache / "offline").glob("*.json")
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    assert stat.S_IMODE(record.parent.stat().st_mode) == 0o700
    text = record.read_text()
    assert json.loads(text)["state"] == "fetched"
    assert CANARY not in text
    assert "say" not in text
    everything = b"".join(path.read_bytes() for path in cache.rglob("*") if path.is_file())
    assert CANARY.encode() not in everything


def test_a_damaged_record_stops_the_run_instead_of_paying_twice(cache: Path) -> None:
    with ModelServer() as server:
        server.batches.looks_until_done = 9
        with pytest.raises(BatchesPending):
            pipeline_of(cache, server, poll=None).run()
        (record,) = (cache / "offline").glob("*.json")
        record.write_bytes(record.read_bytes()[:-9])
        with pytest.raises(CorruptRecord, match="look the batch up at the provider"):
            pipeline_of(cache, server, poll=None).run()
        assert submitted_once(server)


def test_a_plan_submits_nothing(cache: Path) -> None:
    with ModelServer() as server:
        pipeline_of(cache, server).plan()
        assert not server.batches.batches
        assert not server.requests


def test_a_pool_of_generations_is_asked_for_once(cache: Path) -> None:
    with ModelServer() as server:
        wanted = {"num_generations": 2, "group_generations": True}
        found = pipeline_of(cache, server, **wanted).run()["default"]["train"]
        assert [len(row["generation"]) for row in found] == [2] * 7
        assert submitted_once(server)


def test_clusters_are_named_by_one_batch(cache: Path) -> None:
    with ModelServer() as server:
        rows = [
            {"text": f"text {n}", "projection": [n % 3.0, 0.0], "cluster_label": n % 3 - 1}
            for n in range(9)
        ]
        llm = OpenAILLM(
            model="stand-in",
            base_url=server.url,
            use_offline_batch_generation=True,
            offline_batch_generation_block_until_done=0,
        )
        with Pipeline(name="clusters", cache_dir=cache) as pipeline:
            LoadDataFromDicts(data=rows) >> TextClustering(llm=llm, savefig=False)
        named = pipeline.run()["default"]["train"]
        labels = {row["cluster_label"]: json.loads(row["summary_label"]) for row in named}
        assert labels[-1] == "Unclassified"
        assert labels[0]
        assert labels[1]
        assert len(server.batches.batches) == 1
        assert set(server.batches.lines.values()) == {1}


def test_a_generator_that_asks_a_model_waits_for_its_batch_too(cache: Path) -> None:
    with ModelServer(answer=lambda asked, index: '["find laws", "find answers"]') as server:
        server.batches.looks_until_done = 2

        def run() -> list[dict[str, Any]]:
            with Pipeline(name="brainstorm", cache_dir=cache) as pipeline:
                llm = OpenAILLM(
                    model="stand-in", base_url=server.url, use_offline_batch_generation=True
                )
                EmbeddingTaskGenerator(category="text-retrieval", flatten_tasks=True, llm=llm)
            return list(pipeline.run()["default"]["train"])

        with pytest.raises(BatchesPending, match="1 batch of 1 request not done"):
            run()
        assert [row["task"] for row in run()] == ["find laws", "find answers"]
        assert set(server.batches.lines.values()) == {1}
