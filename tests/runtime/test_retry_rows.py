"""Rows of a stored run are asked anew, and nothing else is."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.distiset import Distiset
from asyncdistil.errors import ConditionError, FailureBudgetExceeded, ParameterError
from asyncdistil.log.collection import collect
from asyncdistil.log.files import LocalFiles
from asyncdistil.mixins.runtime_parameters import RuntimeParameter
from asyncdistil.models import OpenAILLM
from asyncdistil.pipeline import Pipeline, routing_batch_function
from asyncdistil.steps import (
    CombineOutputs,
    GeneratorStep,
    GlobalStep,
    GroupColumns,
    LoadDataFromDicts,
    RowStep,
    Step,
    StepInput,
)
from asyncdistil.steps.tasks import TextGeneration
from asyncdistil.supervisor.stored_run import StoredRun, UnknownRun
from asyncdistil.testing.model_server import ModelServer
from asyncdistil.typing import GeneratorStepOutput, StepOutput


def note(step: str, rows: list[dict[str, Any]]) -> None:
    with open(os.environ["ASYNCDISTIL_TEST_CALLS"], "a") as file:
        file.write(json.dumps([step, [row.get("n") for row in rows]]) + "\n")


class Ask(RowStep):
    """Fails on the rows that the environment names; answers differ from call to call."""

    times: RuntimeParameter[int] = 1

    @property
    def inputs(self) -> list[str]:
        return ["n"]

    @property
    def outputs(self) -> list[str]:
        return [self.name]

    def transform(self, row: dict[str, Any]) -> dict[str, Any]:
        note(self.name, [row])
        if str(row["n"]) == os.environ.get("DEADLY"):
            os.kill(int(os.environ["SUPERVISOR"]), signal.SIGKILL)
        if row["n"] in json.loads(os.environ.get("BAD", "{}")).get(self.name, []):
            raise ValueError(f"row {row['n']} is bad")
        drawn = int.from_bytes(os.urandom(3), "big")
        return row | {self.name: row["n"] * self.times + drawn * 1_000_000}


class Next(RowStep):
    @property
    def inputs(self) -> list[str]:
        return ["ask"]

    def transform(self, row: dict[str, Any]) -> dict[str, Any]:
        note(self.name, [row])
        return row | {"next": None if row["ask"] is None else row["ask"] + 1}


class Fetch(GeneratorStep):
    """Reads something that has no name: it runs every time."""

    @property
    def outputs(self) -> list[str]:
        return ["n"]

    def process(self, offset: int = 0) -> GeneratorStepOutput:
        rows = [{"n": n} for n in range(8)]
        note(self.name, rows)
        yield rows, True


class Pairs(Step):
    """Batch-wise: fails whole."""

    @property
    def outputs(self) -> list[str]:
        return ["first"]

    def process(self, inputs: StepInput) -> StepOutput:
        note(self.name, inputs)
        bad = json.loads(os.environ.get("BAD", "{}")).get(self.name, [])
        if any(row["n"] in bad for row in inputs):
            raise ValueError("bad")
        yield [row | {"first": inputs[0]["n"]} for row in inputs]


class Total(GlobalStep):
    def process(self, inputs: StepInput) -> StepOutput:
        note(self.name, inputs)
        yield [{"n": row["n"], "of": len(inputs), "ask": row["ask"]} for row in inputs]


EIGHT = list(range(8))


@routing_batch_function
def low_or_high(steps: list[str], rows: list[dict[str, Any]]) -> list[str]:
    note("router", rows)
    return [steps[rows[0]["n"] // 4]]


KILLED = """
import importlib.util, os, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("scene", sys.argv[1])
scene = importlib.util.module_from_spec(spec)
sys.modules["scene"] = scene
spec.loader.exec_module(scene)
os.environ["SUPERVISOR"] = str(os.getpid())
scene.chain(Path(sys.argv[2])).retry("ask", "n > 1")
"""


def rows_of(distiset: Distiset, config: str = "default") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = distiset.table(config).to_pylist()
    return rows


def opened(cache: Path, name: str) -> StoredRun:
    run = StoredRun.open(cache, name)
    assert run is not None
    return run


def chain(cache: Path, *, fetch: bool = False) -> Pipeline:
    with Pipeline("chain", cache_dir=cache) as pipeline:
        loader = (
            Fetch(name="load")
            if fetch
            else LoadDataFromDicts(name="load", data=[{"n": n} for n in EIGHT], batch_size=3)
        )
        loader >> Ask(name="ask", input_batch_size=3) >> Next(name="next")
    return pipeline


@pytest.mark.parametrize("fetch", [False, True])
def test_only_failed_rows_are_asked_again_and_merged_in_order(
    cache: Path, journal: Any, monkeypatch: pytest.MonkeyPatch, fetch: bool
) -> None:
    monkeypatch.setenv("BAD", '{"ask": [2, 5]}')
    first = rows_of(chain(cache, fetch=fetch).run())
    if fetch:
        # Its rows are those of the stored run, which nobody could make again.
        journal.rows()
    assert [row["n"] for row in first if row["ask"] is None] == [2, 5]
    journal.rows()

    monkeypatch.setenv("BAD", '{"ask": [5]}')
    second = rows_of(chain(cache, fetch=fetch).retry())
    assert journal.rows() == {"ask": [2, 5], "next": [2]}
    assert [row["n"] for row in second] == EIGHT
    assert [row["n"] for row in second if row["ask"] is None] == [5]
    assert [row for row in second if row["n"] not in (2, 5)] == [
        row for row in first if row["n"] not in (2, 5)
    ]

    # What came out well is not asked once more.
    monkeypatch.setenv("BAD", "{}")
    third = rows_of(chain(cache, fetch=fetch).retry())
    assert journal.rows() == {"ask": [5], "next": [5]}
    assert [row for row in third if row["n"] != 5] == [row for row in second if row["n"] != 5]
    assert rows_of(chain(cache, fetch=fetch).retry()) == third
    assert journal.rows() == {}


def test_rows_that_fail_once_more_do_not_make_a_step_look_broken(
    cache: Path, journal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAD", '{"ask": [0, 2, 4, 6, 7]}')
    with Pipeline("again", cache_dir=cache) as pipeline:
        data = [{"n": n} for n in (1, 3, 5, 0, 2, 4, 6, 7)]
        load = LoadDataFromDicts(name="load", data=data, batch_size=1)
        load >> Ask(name="ask", input_batch_size=1)
    pipeline.run()
    journal.rows()
    mended = pipeline.retry()
    assert journal.rows() == {"ask": [0, 2, 4, 6, 7]}
    assert mended.report["failed_rows"] == 5
    assert len(rows_of(mended)) == 8


def test_rows_that_match_are_asked_anew_once(cache: Path, journal: Any, starts: Any) -> None:
    first = rows_of(chain(cache).run())
    journal.rows()
    wish = {"step": "ask", "where": "n >= 2 and n in [1, 3, 6]"}
    second = rows_of(chain(cache).retry(**wish))
    assert journal.rows() == {"ask": [3, 6], "next": [3, 6]}
    assert [a == b for a, b in zip(first, second, strict=True)] == [n not in (3, 6) for n in EIGHT]

    starts.take()
    assert rows_of(chain(cache).retry(**wish)) == second
    assert journal.rows() == {}
    assert starts.take() == 0
    # The newest answer is the one that counts, as after use_cache=False.
    assert rows_of(chain(cache).run()) == second
    assert journal.rows() == {}


def test_a_changed_parameter_counts_for_retried_rows_alone_and_is_served_to_nobody_else(
    cache: Path, journal: Any
) -> None:
    first = rows_of(chain(cache).run())
    journal.rows()
    wish: dict[str, Any] = {"step": "ask", "where": "n == 4", "parameters": {"ask": {"times": 10}}}
    second = rows_of(chain(cache).retry(**wish))
    assert journal.rows() == {"ask": [4], "next": [4]}
    assert second[4]["ask"] % 1_000_000 == 40
    assert [row for row in second if row["n"] != 4] == [row for row in first if row["n"] != 4]
    assert rows_of(chain(cache).retry(**wish)) == second
    assert rows_of(chain(cache).run()) == first
    assert journal.rows() == {}

    with opened(cache, "chain") as run:
        begun = run.begin
    asked, plain = (chain(cache).explain("next").why(n, run=begun.run) for n in (4, 3))
    (parent,) = asked.inputs
    assert asked.retried is None
    assert parent.retried is not None
    assert parent.retried.wall_seconds == begun.wall_seconds
    assert [str(change) for change in parent.retried.changes] == ["field.times: 1 → 10"]
    assert "asked anew for 'n == 4' with field.times: 1 → 10" in str(asked)
    assert plain.inputs[0].retried is None

    # On top of a retry another one stands, and each keeps to its own rows.
    with opened(cache, "chain") as run:
        wrote = run.begin.run
    more = chain(cache).retry("ask", "n == 5", {"ask": {"times": 100}}, run=wrote)
    assert journal.rows() == {"ask": [5], "next": [5]}
    mixed = rows_of(more)
    assert [row["ask"] % 1_000_000 for row in mixed] == [0, 1, 2, 3, 40, 500, 6, 7]
    with opened(cache, "chain") as read:
        assert list(read.rows("next")) == mixed
        assert read.steps["ask"].inputs_computed == 1
        assert read.steps["ask"].inputs_replayed == 7


def test_rows_that_are_retried_are_served_for_their_data_alone(cache: Path, journal: Any) -> None:
    def of(*numbers: int) -> Pipeline:
        with Pipeline("data", cache_dir=cache) as pipeline:
            load = LoadDataFromDicts(name="load", data=[{"n": n} for n in numbers])
            load >> Ask(name="ask")
        return pipeline

    of(1, 2).run()
    journal.rows()
    # The rows of the stored run count, whatever the script would load by now.
    assert [row["n"] for row in rows_of(of(3, 4).retry("ask", "n == 2"))] == [1, 2]
    assert journal.rows() == {"ask": [2]}
    assert [row["n"] for row in rows_of(of(3, 4).run())] == [3, 4]
    assert journal.rows() == {"ask": [3, 4]}


def test_batches_and_global_steps_are_computed_whole_and_join_with_what_stood(
    cache: Path, journal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def joined() -> Pipeline:
        with Pipeline("joined", cache_dir=cache) as pipeline:
            load = LoadDataFromDicts(name="load", data=[{"n": n} for n in EIGHT])
            pairs = Pairs(name="pairs", input_batch_size=2)
            ask = Ask(name="ask")
            load >> [ask, pairs] >> CombineOutputs(name="both") >> Total(name="total")
        return pipeline

    monkeypatch.setenv("BAD", '{"ask": [1], "pairs": [4]}')
    first = rows_of(joined().run())
    assert [row["n"] for row in first if row["ask"] is None] == [1]
    journal.rows()
    monkeypatch.setenv("BAD", "{}")
    second = rows_of(joined().retry("pairs"))
    assert journal.rows() == {"pairs": [4, 5], "total": EIGHT}
    assert [(row["n"], row["of"]) for row in second] == [(n, 8) for n in EIGHT]
    assert [row["n"] for row in second if row["ask"] is None] == [1]
    journal.rows()
    third = rows_of(joined().retry())
    assert journal.rows() == {"ask": [1], "total": EIGHT}
    assert None not in [row["ask"] for row in third]
    rows_of(joined().retry("pairs", "n == 7"))
    assert journal.rows() == {"pairs": [6, 7]}


def test_failures_of_several_steps_are_asked_again_along_the_way(
    cache: Path, journal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def two() -> Pipeline:
        with Pipeline("two", cache_dir=cache) as pipeline:
            load = LoadDataFromDicts(name="load", data=[{"n": n} for n in EIGHT])
            load >> Ask(name="ask") >> Ask(name="more")
        return pipeline

    monkeypatch.setenv("BAD", '{"ask": [1, 2], "more": [2, 3, 6]}')
    two().run()
    journal.rows()
    monkeypatch.setenv("BAD", '{"more": [6]}')
    mended = asyncio.run(two().aretry(where="failure.kind == 'ValueError' and n != 1"))
    assert journal.rows() == {"ask": [2], "more": [2, 3, 6]}
    rows = rows_of(mended)
    assert [row["n"] for row in rows if row["ask"] is None] == [1]
    assert [row["n"] for row in rows if row["more"] is None] == [6]
    with opened(cache, "two") as run:
        assert [(each.step, each.row) for each in run.failures()] == [("ask", (1,)), ("more", (6,))]


def test_a_retry_that_was_stopped_goes_on_from_there(
    cache: Path, journal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = rows_of(chain(cache).run())
    journal.rows()
    wish: dict[str, Any] = {"step": "ask", "where": "True", "parameters": {"ask": {"times": 3}}}
    monkeypatch.setenv("BAD", '{"ask": [7]}')
    with pytest.raises(FailureBudgetExceeded):
        chain(cache).retry(**wish, on_error="raise")
    done = set(journal.rows()["ask"]) - {7}
    monkeypatch.setenv("BAD", "{}")
    second = rows_of(chain(cache).retry(**wish))
    assert journal.rows()["ask"] == sorted(set(EIGHT) - done)
    assert [row["ask"] % 1_000_000 for row in second] == [3 * n for n in EIGHT]
    assert rows_of(chain(cache).run()) == first
    assert journal.rows() == {}


def test_what_can_not_be_retried_is_refused_with_a_way_on(
    cache: Path, journal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnknownRun, match="run the pipeline first"):
        chain(cache).retry()
    monkeypatch.setenv("BAD", '{"ask": [0]}')
    with pytest.raises(FailureBudgetExceeded):
        chain(cache).run(on_error="raise")
    with pytest.raises(ParameterError, match="has not ended: run the pipeline"):
        chain(cache).retry()
    chain(cache).run()
    journal.rows()
    changed = chain(cache)
    changed.set_runtime_parameters({"ask": {"times": 2}})
    with pytest.raises(ParameterError, match="other steps or parameters"):
        changed.retry()
    with pytest.raises(ParameterError, match="a generator"):
        chain(cache).retry("load", "n > 1")
    with pytest.raises(ParameterError, match="did you mean 'ask'"):
        chain(cache).retry("ask", parameters={"aks": {"times": 2}})
    with pytest.raises(UnknownRun, match="no step 'aks'"):
        chain(cache).retry("aks")
    with pytest.raises(UnknownRun, match="no one run"):
        chain(cache).retry(run="ffff")
    with pytest.raises(ConditionError, match="did you mean 'ask'"):
        chain(cache).retry("ask", "aks > 3")
    with pytest.raises(ConditionError, match="at character 10"):
        chain(cache).retry("ask", "n > 1 or __import__('os')")
    assert journal.rows() == {}


def test_answers_of_a_model_are_asked_for_anew_once_and_no_more(cache: Path) -> None:
    with ModelServer() as server:

        def asking(temperature: float) -> Pipeline:
            with Pipeline("model", cache_dir=cache) as pipeline:
                llm = OpenAILLM(
                    model="stand-in",
                    base_url=server.url,
                    api_key="any",
                    generation_kwargs={"temperature": temperature},
                )
                data = [{"instruction": f"say {n}", "n": n} for n in EIGHT]
                LoadDataFromDicts(name="load", data=data) >> TextGeneration(name="ask", llm=llm)
            return pipeline

        def asked() -> int:
            chats = [each for each in server.requests if each.path.endswith("/chat/completions")]
            count, asked_before[0] = len(chats) - asked_before[0], len(chats)
            return count

        asked_before = [0]
        for temperature in (0.0, 1.0):
            first = rows_of(asking(temperature).run())
            assert asked() == 8
            second = rows_of(asking(temperature).retry("ask", "n in [2, 3]"))
            assert asked() == 2
            assert [row["n"] for row in second] == EIGHT
            rows_of(asking(temperature).retry("ask", "n in [2, 3]"))
            warm: dict[str, Any] = {
                "parameters": {"ask": {"llm": {"generation_kwargs": {"temperature": 0.5}}}}
            }
            assert asked() == 0
            third = rows_of(asking(temperature).retry("ask", "n == 4", **warm))
            assert asked() == 1
            assert third == rows_of(asking(temperature).retry("ask", "n == 4", **warm))
            assert rows_of(asking(temperature).run()) == second
            assert asked() == 0
            assert len(first) == 8


def test_a_retry_is_what_it_was_when_the_run_that_it_mended_is_collected(
    cache: Path, journal: Any
) -> None:
    first = rows_of(chain(cache).run())
    with opened(cache, "chain") as run:
        base = run.begin.run
    times: dict[str, Any] = {"parameters": {"ask": {"times": 10}}}
    second = rows_of(chain(cache).retry("ask", "n in [1, 4]", **times))
    with opened(cache, "chain") as run:
        middle = run.begin.run
    third = rows_of(chain(cache).retry("ask", "n == 7", **times, run=middle))
    assert [row["n"] for row in first if row not in third] == [1, 4, 7]
    journal.rows()

    assert collect(cache, "chain", [base, middle], LocalFiles()) > 0
    with opened(cache, "chain") as run:
        assert list(run.rows("next")) == third
    fourth = rows_of(chain(cache).retry("ask", "n == 0", **times))
    assert journal.rows() == {"ask": [0], "next": [0]}
    assert [row for row in fourth if row["n"]] == third[1:]
    assert second[0] == third[0]


def test_routed_rows_are_retried_on_their_branch(cache: Path, journal: Any) -> None:
    def routed() -> Pipeline:
        with Pipeline("routed", cache_dir=cache) as pipeline:
            data = [{"n": n} for n in EIGHT]
            load = LoadDataFromDicts(name="load", data=data, batch_size=2)
            low, high = (Ask(name=name, input_batch_size=2) for name in ("low", "high"))
            first = Ask(name="first", input_batch_size=2)
            load >> first >> low_or_high >> [low, high]
            [low, high] >> GroupColumns(name="both", columns=["first"], output_columns=["all"])
        return pipeline

    before = rows_of(routed().run())
    journal.rows()
    after = rows_of(routed().retry("high", "n == 5"))
    assert journal.rows() == {"high": [5]}
    assert [a == b for a, b in zip(before, after, strict=True)].count(False) <= 1
    # Above the router: the batch that the row is in is new content, and routed as such.
    again = rows_of(routed().retry("first", "n == 0"))
    rows = journal.rows()
    assert rows.pop("first") == [0]
    assert rows.pop("router") == [0, 1]
    assert rows == {"low": [0]}
    assert len(again) == 8
    with opened(cache, "routed") as run:
        wide = [{"low": None, "high": None} | row for row in run.rows("both")]
    assert wide == [{"low": None, "high": None} | row for row in again]


def test_a_retry_that_was_killed_goes_on_from_there(cache: Path, journal: Any) -> None:
    rows_of(chain(cache).run())
    journal.rows()
    wish = {"step": "ask", "where": "n > 1"}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, __file__, cache],
        env={**os.environ, "DEADLY": "6"},
        check=False,
        timeout=100,
    )
    assert killed.returncode == -signal.SIGKILL
    asked = journal.rows()["ask"]
    mended = rows_of(chain(cache).retry(**wish))
    twice = len(asked) + len(journal.rows()["ask"]) - 6
    # Only what workers held may have been asked twice.
    assert 0 <= twice <= 6
    assert [row["n"] for row in mended] == EIGHT
    assert rows_of(chain(cache).retry(**wish)) == mended
    assert journal.rows() == {}
