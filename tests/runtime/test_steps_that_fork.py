"""Processes that a step starts are its own: they end when told, and keep nothing of the worker."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from pathlib import Path

from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromDicts, Step, StepInput
from asyncdistil.typing import StepOutput

NUMBERS = [-2, 5, -7]


class ByPool(Step):
    """Works in a pool of forked processes, which its ``with`` ends by SIGTERM."""

    @property
    def inputs(self) -> list[str]:
        return ["n"]

    @property
    def outputs(self) -> list[str]:
        return ["size", "ends"]

    def process(self, inputs: StepInput) -> StepOutput:
        forked = multiprocessing.get_context("fork")
        with forked.Pool(2) as pool:
            sizes = pool.map(abs, [row["n"] for row in inputs])
        deaf = forked.Process(target=threading.Event().wait)
        deaf.start()
        deaf.terminate()
        deaf.join()
        yield [
            row | {"size": size, "ends": deaf.exitcode}
            for row, size in zip(inputs, sizes, strict=True)
        ]


class ForksByHand(Step):
    """Forks, and lets the child run into what its own caller does with an exception."""

    def process(self, inputs: StepInput) -> StepOutput:
        child = os.fork()
        if not child:
            raise RuntimeError("nobody is to hear of this")
        os.waitpid(child, 0)
        yield inputs


def test_a_pool_of_forked_processes_ends_when_its_step_ends_it(tmp_path: Path) -> None:
    with Pipeline("pool", cache_dir=tmp_path) as pipeline:
        LoadDataFromDicts(data=[{"n": n} for n in NUMBERS]) >> ByPool()
    rows = pipeline.run()["default"]["train"].to_list()
    assert [row["size"] for row in rows] == [2, 5, 7]
    assert {row["ends"] for row in rows} == {-signal.SIGTERM}


def test_a_forked_process_can_not_speak_for_its_worker(tmp_path: Path) -> None:
    with Pipeline("by-hand", cache_dir=tmp_path) as pipeline:
        LoadDataFromDicts(data=[{"n": 1}]) >> ForksByHand()
    distiset = pipeline.run()
    assert distiset["default"]["train"]["n"][:] == [1]
    assert distiset.report["failed_rows"] == 0
