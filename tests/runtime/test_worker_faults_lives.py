"""What can go wrong in the life of a step besides its rows: loading, unloading, generating."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.distiset import Distiset
from asyncdistil.errors import StepError, WorkerDied, WorkerLoadFailed
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import (
    GeneratorStep,
    GlobalStep,
    LoadDataFromDicts,
    Step,
    StepInput,
    StepResources,
)
from asyncdistil.typing import StepOutput

ROWS = 60
EXPECTED = [{"x": x, "y": x + 1} for x in range(ROWS)]


def raises() -> None:
    raise OSError("the model file is missing")


def hangs() -> None:
    threading.Event().wait(3600)


ACTS: dict[str, Callable[[], object]] = {
    "nothing": lambda: None,
    "raises": raises,
    "sys.exit(0)": lambda: sys.exit(0),
    "sys.exit(3)": lambda: sys.exit(3),
    "os._exit(0)": lambda: os._exit(0),
    "os._exit(3)": lambda: os._exit(3),
    "hangs": hangs,
}


class Delicate(Step):
    """Acts as the environment says, which is in no key: so it can be mended between two runs."""

    row_wise: bool = True

    @property
    def outputs(self) -> list[str]:
        return ["y"]

    def load(self) -> None:
        super().load()
        ACTS[os.environ.get("ON_LOAD", "nothing")]()

    def unload(self) -> None:
        ACTS[os.environ.get("ON_UNLOAD", "nothing")]()
        super().unload()

    def process(self, inputs: StepInput) -> StepOutput:
        yield [row | {"y": row["x"] + 1} for row in inputs]


class Unpacked:
    """Acts when it is unpickled in a worker."""

    def __init__(self) -> None:
        self.home = os.getpid()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if os.getpid() != self.home:
            ACTS[os.environ.get("ON_UNPICKLE", "nothing")]()

    def __signature__(self) -> str:
        return "unpacked"


class Packed(Delicate):
    luggage: Any = None


class Total(GlobalStep):
    def process(self, inputs: StepInput) -> StepOutput:
        if os.environ.get("TOTAL"):
            os._exit(9)
        yield [{"total": sum(row["y"] for row in inputs)}]


class Numbers(GeneratorStep):
    """Yields numbers until something happens at one of them."""

    resumable = True

    @property
    def outputs(self) -> list[str]:
        return ["x"]

    def data_identity(self) -> bytes:
        return b"numbers"

    def process(self, offset: int = 0) -> Iterator[tuple[list[dict[str, int]], bool]]:
        for x in range(offset, ROWS, 10):
            if x == int(os.environ.get("GENERATOR_AT", "-1")):
                ACTS[os.environ["GENERATOR_HOW"]]()
            yield [{"x": n} for n in range(x, x + 10)], x + 10 == ROWS


class Once(Numbers):
    """Dies at a number, but once."""

    def process(self, offset: int = 0) -> Iterator[tuple[list[dict[str, int]], bool]]:
        for rows, last in super().process(offset):
            if rows[0]["x"] == 30:
                try:
                    Path(os.environ["ASYNCDISTIL_TEST_CALLS"] + ".once").touch(exist_ok=False)
                except FileExistsError:
                    pass
                else:
                    os._exit(3)
            yield rows, last


class FromTheStart(Once):
    resumable = False


class Empty(Numbers):
    def process(self, offset: int = 0) -> Iterator[tuple[list[dict[str, int]], bool]]:
        yield from ()


class OnlyEmpty(Numbers):
    def process(self, offset: int = 0) -> Iterator[tuple[list[dict[str, int]], bool]]:
        yield [], False
        yield [], False


class Endless(Numbers):
    def process(self, offset: int = 0) -> Iterator[tuple[list[dict[str, int]], bool]]:
        x = offset
        while True:
            yield [{"x": x}], False
            x += 1


class Wrong(Numbers):
    def process(self, offset: int = 0) -> Iterator[Any]:
        yield [{"x": 1}]


def declare(
    cache: Path, source: Any = None, step: type[Step] = Delicate, **options: Any
) -> Pipeline:
    with Pipeline("lives", cache_dir=cache) as pipeline:
        load = (
            source(name="load")
            if source
            else LoadDataFromDicts(name="load", data=[{"x": x} for x in range(ROWS)])
        )
        load >> step(name="delicate", input_batch_size=20, **options)
    return pipeline


def rows_of(distiset: Distiset) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = distiset.table("default").to_pylist()
    return rows


@pytest.fixture
def acts(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set what happens where, for the next run."""

    def set_acts(**where: str) -> None:
        for name, act in where.items():
            monkeypatch.setenv(name, act)

    return set_acts


# --- loading ----------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ["raises", "sys.exit(3)"])
def test_a_step_that_cannot_load_is_named_and_can_be_mended(
    cache: Path, acts: Callable[..., None], act: str
) -> None:
    acts(ON_LOAD=act)
    reason = "the model file is missing" if act == "raises" else "sys.exit"
    with pytest.raises(WorkerLoadFailed, match=rf"(?s)'delicate'.*{reason}"):
        declare(cache).run()
    acts(ON_LOAD="nothing")
    assert rows_of(declare(cache).run()) == EXPECTED


@pytest.mark.parametrize("act", ["os._exit(0)", "os._exit(3)"])
def test_a_step_whose_load_kills_its_worker_is_given_up_after_a_few_restarts(
    cache: Path, acts: Callable[..., None], act: str
) -> None:
    acts(ON_LOAD=act)
    with pytest.raises(WorkerDied, match="'delicate' died 4 times"):
        declare(cache).run()
    acts(ON_LOAD="nothing")
    distiset = declare(cache).run()
    assert rows_of(distiset) == EXPECTED
    assert distiset.report is not None
    assert distiset.report["resumed"]


def test_a_step_that_cannot_be_unpickled_is_named(cache: Path, acts: Callable[..., None]) -> None:
    acts(ON_UNPICKLE="raises")
    with pytest.raises(WorkerLoadFailed, match=r"(?s)'delicate'.*the model file is missing"):
        declare(cache, step=Packed, luggage=Unpacked()).run()
    acts(ON_UNPICKLE="nothing")
    assert rows_of(declare(cache, step=Packed, luggage=Unpacked()).run()) == EXPECTED


def test_a_module_that_cannot_be_imported_in_the_worker_is_named(
    cache: Path, load_module: Callable[..., Any], acts: Callable[..., None]
) -> None:
    module = load_module(IMPORTS)
    with pytest.raises(WorkerLoadFailed, match=r"(?s)'delicate'.*no_such_module"):
        declare(cache, step=module.Importing).run()


IMPORTS = """
from asyncdistil.steps import Step, StepInput


class Importing(Step):
    def load(self):
        super().load()
        import no_such_module

    def process(self, inputs: StepInput):
        yield inputs
"""


# --- unloading --------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ["raises", "sys.exit(3)", "os._exit(3)", "hangs"])
def test_trouble_while_unloading_costs_no_row(
    cache: Path, acts: Callable[..., None], act: str
) -> None:
    acts(ON_UNLOAD=act)
    assert rows_of(declare(cache).run()) == EXPECTED


# --- generators -------------------------------------------------------------------------------


def test_a_generator_that_raises_midway_keeps_what_it_gave(
    cache: Path, acts: Callable[..., None]
) -> None:
    acts(GENERATOR_AT="30", GENERATOR_HOW="raises")
    with pytest.raises(StepError, match=r"(?s)'load' raised after 30 rows.*model file"):
        declare(cache, Numbers).run()
    acts(GENERATOR_AT="-1")
    distiset = declare(cache, Numbers).run()
    assert rows_of(distiset) == EXPECTED
    assert distiset.report is not None
    assert distiset.report["steps"]["load"]["rows_replayed"] == 30


def test_a_generator_that_always_leaves_is_given_up_and_keeps_what_it_gave(
    cache: Path, acts: Callable[..., None]
) -> None:
    acts(GENERATOR_AT="30", GENERATOR_HOW="sys.exit(0)")
    with pytest.raises(WorkerDied, match=r"'load' killed its worker 3 times after 30 rows"):
        declare(cache, Numbers).run()
    acts(GENERATOR_AT="-1")
    distiset = declare(cache, Numbers).run()
    assert rows_of(distiset) == EXPECTED
    assert distiset.report is not None
    assert distiset.report["steps"]["load"]["rows_replayed"] == 30


def test_a_generator_that_always_dies_is_given_up(cache: Path, acts: Callable[..., None]) -> None:
    acts(GENERATOR_AT="30", GENERATOR_HOW="os._exit(3)")
    with pytest.raises(WorkerDied, match="'load'"):
        declare(cache, Numbers).run()
    acts(GENERATOR_AT="-1")
    distiset = declare(cache, Numbers).run()
    assert rows_of(distiset) == EXPECTED
    assert distiset.report is not None
    # Some yields may die unsent with a worker, but not all of them.
    assert distiset.report["steps"]["load"]["rows_replayed"] in {10, 20, 30}


@pytest.mark.parametrize("source", [Once, FromTheStart])
def test_a_generator_that_dies_once_goes_on_behind_its_rows(
    cache: Path, source: type[Numbers]
) -> None:
    distiset = declare(cache, source).run()
    assert rows_of(distiset) == EXPECTED
    assert distiset.report is not None
    assert distiset.report["steps"]["load"]["restarts"] == 1


@pytest.mark.parametrize("source", [Empty, OnlyEmpty])
def test_a_generator_without_rows_gives_an_empty_dataset(
    cache: Path, source: type[Numbers]
) -> None:
    assert rows_of(declare(cache, source).run()) == []


def test_a_generator_that_never_ends_can_be_rehearsed(cache: Path) -> None:
    assert rows_of(declare(cache, Endless).dry_run(batch_size=3)) == EXPECTED[:3]


def test_a_generator_that_yields_no_pairs_is_told_so(cache: Path) -> None:
    with pytest.raises(StepError, match="'load'"):
        declare(cache, Wrong).run()


# --- barriers ---------------------------------------------------------------------------------


def test_a_global_step_that_kills_its_workers_stops_the_run_and_can_be_mended(
    cache: Path, acts: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_total() -> Pipeline:
        pipeline = declare(cache)
        with pipeline:
            pipeline["delicate"] >> Total(name="total")
        return pipeline

    acts(TOTAL="dies")
    with pytest.raises(WorkerDied, match="'total'"):
        with_total().run()
    monkeypatch.delenv("TOTAL")
    distiset = with_total().run()
    assert rows_of(distiset) == [{"total": sum(range(1, ROWS + 1))}]
    assert distiset.report is not None
    assert distiset.report["steps"]["delicate"]["rows_computed"] == 0


class GivesUp(Step):
    """One of its workers is ready at once; the other is asked to end while it still loads."""

    gate: str

    def load(self) -> None:
        super().load()
        try:
            os.close(os.open(self.gate, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            signal.signal(signal.SIGTERM, give_up)
            Path(self.gate + ".loading").touch()
            hangs()

    def process(self, inputs: StepInput) -> StepOutput:
        while not os.path.exists(self.gate + ".loading"):
            os.sched_yield()
        yield [row | {"y": row["x"] + 1} for row in inputs]


def give_up(*_: object) -> None:
    raise ValueError("gave up")


def test_a_worker_that_fails_as_it_is_ended_does_not_undo_a_finished_run(
    tmp_path: Path, cache: Path
) -> None:
    with Pipeline("replicas", cache_dir=cache) as pipeline:
        load = LoadDataFromDicts(data=[{"x": x} for x in range(ROWS)])
        resources = StepResources(replicas=2)
        load >> GivesUp(gate=str(tmp_path / "gate"), resources=resources)
    distiset = pipeline.run()
    assert distiset.table("default").to_pylist() == EXPECTED
    assert pipeline.run().report["hit"]
