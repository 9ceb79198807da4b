from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterator
from typing import Any

import cloudpickle
import pytest

from asyncdistil.errors import ModelAuthError
from asyncdistil.models.llms.base import AsyncLLM
from asyncdistil.steps.rows import FailedRow
from asyncdistil.steps.tasks import GlobalTask, Task, TextGeneration, UltraFeedback
from asyncdistil.testing.fake_llm import EchoLLM, FakeBatchLLM, FakeLLM


class Shout(Task):
    """A user's task: fails on text that holds a question mark."""

    @property
    def inputs(self) -> list[str]:
        return ["text"]

    @property
    def outputs(self) -> list[str]:
        return ["shout", "loud", "model_name"]

    def format_input(self, input: dict[str, Any]) -> list[dict[str, str]]:
        return [{"role": "user", "content": input["text"]}]

    def format_output(
        self, output: str | None, input: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        if output is not None and "?" in output:
            raise ValueError("questions are not shouted")
        return {"shout": output and output.upper(), "loud": True}


def loaded(task: Any) -> Any:
    task.load()
    return task


def run(task: Any, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    return next(loaded(task).process(list(rows)))


def entries(task: Any, *rows: dict[str, Any]) -> list[Any]:
    return [entry for made in loaded(task).entries(list(rows)) for entry in made]


# --- a row and its columns --------------------------------------------------------------------


def test_a_row_keeps_its_columns_and_gets_outputs_metadata_and_model_name_in_that_order() -> None:
    (row,) = run(Shout(llm=EchoLLM(), name="shout"), {"id": 1, "text": "hey"})
    assert list(row) == ["id", "text", "shout", "loud", "distilabel_metadata", "model_name"]
    assert row["shout"] == "HEY"
    assert row["model_name"] == "echo"
    assert row["distilabel_metadata"] == {
        "raw_output_shout": "hey",
        "raw_input_shout": [{"role": "user", "content": "hey"}],
        "statistics_shout": {"input_tokens": 1, "output_tokens": 1},
    }


def test_raw_output_and_input_can_be_left_out_and_statistics_stay() -> None:
    task = Shout(llm=EchoLLM(), name="s", add_raw_output=False, add_raw_input=False)
    (row,) = run(task, {"text": "hey"})
    assert list(row["distilabel_metadata"]) == ["statistics_s"]


def test_a_model_without_statistics_leaves_no_metadata_if_raw_parts_are_off() -> None:
    class Bare(FakeLLM):
        async def agenerate(self, input: Any, num_generations: int = 1, **kwargs: Any) -> Any:
            return {"generations": ["x"], "statistics": {}}

    task = Shout(llm=Bare(), add_raw_output=False, add_raw_input=False)
    (row,) = run(task, {"text": "hey"})
    assert "distilabel_metadata" not in row


def test_what_else_a_model_says_becomes_columns_one_value_per_generation() -> None:
    class Sure(FakeLLM):
        async def agenerate(self, input: Any, num_generations: int = 1, **kwargs: Any) -> Any:
            return {
                "generations": ["a", "b"],
                "statistics": {"output_tokens": [1]},
                "logprobs": [["la"], ["lb"]],
                "seed": 7,
            }

    rows = run(Shout(llm=Sure(), name="s", num_generations=2), {"text": "hey"})
    assert [row["llm_s_logprobs"] for row in rows] == [["la"], ["lb"]]
    assert [row["llm_s_seed"] for row in rows] == [7, 7]
    # A list of statistics that is too short is repeated.
    assert [row["distilabel_metadata"]["statistics_s"] for row in rows] == [
        {"output_tokens": 1}
    ] * 2


def test_input_rows_are_left_as_they_were_even_if_format_output_writes_into_its_row() -> None:
    class Careless(Shout):
        def format_output(self, output: str | None, input: dict[str, Any] | None = None) -> Any:
            assert input is not None
            input.update(shout=output, loud=False)
            return input

    given = {"text": "hey"}
    (row,) = run(Careless(llm=EchoLLM()), given)
    assert given == {"text": "hey"}
    assert row["shout"] == "hey"


# --- several generations ----------------------------------------------------------------------


def test_several_generations_are_rows_next_to_each_other() -> None:
    llm = FakeLLM(reply=["one", "two", "three"])
    rows = run(Shout(llm=llm, num_generations=3), {"text": "a"}, {"text": "b"})
    assert [(row["text"], row["shout"]) for row in rows] == [
        ("a", "ONE"), ("a", "TWO"), ("a", "THREE"),
        ("b", "ONE"), ("b", "TWO"), ("b", "THREE"),
    ]  # fmt: skip
    assert [len(entry) for entry in entries(Shout(llm=llm, num_generations=3), {"text": "a"})] == [
        3
    ]


def test_grouped_generations_are_lists_in_one_row_and_the_model_name_stays_a_text() -> None:
    task = Shout(
        llm=FakeLLM(reply=["one", "two"]), name="s", num_generations=2, group_generations=True
    )
    (row,) = run(task, {"text": "a"})
    assert row["shout"] == ["ONE", "TWO"]
    assert row["loud"] == [True, True]
    assert row["model_name"] == "fake"
    assert [m["raw_output_s"] for m in row["distilabel_metadata"]] == ["one", "two"]


def test_one_grouped_generation_is_a_list_too() -> None:
    (row,) = run(Shout(llm=EchoLLM(), group_generations=True), {"text": "a"})
    assert row["shout"] == ["A"]


def test_fewer_generations_than_asked_give_fewer_rows() -> None:
    class Stingy(FakeLLM):
        async def agenerate(self, input: Any, num_generations: int = 1, **kwargs: Any) -> Any:
            return {"generations": ["only"], "statistics": {}}

    assert len(run(Shout(llm=Stingy(), num_generations=3), {"text": "a"})) == 1


# --- chained tasks ----------------------------------------------------------------------------


def test_chained_tasks_merge_their_metadata() -> None:
    rows = run(Shout(llm=EchoLLM(), name="first"), {"text": "hey"})
    (row,) = run(Shout(llm=EchoLLM(), name="second"), *rows)
    assert {key for key in row["distilabel_metadata"] if key.startswith("raw_output")} == {
        "raw_output_first",
        "raw_output_second",
    }


def test_metadata_of_grouped_generations_are_merged_into_one_dict() -> None:
    grouped = Shout(
        llm=FakeLLM(reply=["a", "b"]), name="first", num_generations=2, group_generations=True
    )
    (row,) = run(Shout(llm=EchoLLM(), name="second"), *run(grouped, {"text": "hey"}))
    assert row["distilabel_metadata"]["raw_output_first"] == ["a", "b"]
    assert row["distilabel_metadata"]["raw_output_second"] == "hey"


def test_metadata_that_are_null_are_no_obstacle() -> None:
    (row,) = run(Shout(llm=EchoLLM(), name="s"), {"text": "a", "distilabel_metadata": None})
    assert row["distilabel_metadata"]["raw_output_s"] == "a"


# --- failures ---------------------------------------------------------------------------------


def test_an_answer_that_cannot_be_formatted_fails_its_row_alone_and_is_kept() -> None:
    good, bad, other = entries(
        Shout(llm=EchoLLM(), name="s"), {"text": "a"}, {"text": "b?"}, {"text": "c"}
    )
    assert (good["shout"], other["shout"]) == ("A", "C")
    assert isinstance(bad, FailedRow)
    assert bad.row["shout"] is None
    assert bad.row["loud"] is None
    assert bad.row["text"] == "b?"
    assert bad.row["model_name"] == "echo"
    assert bad.row["distilabel_metadata"]["raw_output_s"] == "b?"
    assert bad.failure.kind == "ValueError"
    assert bad.failure.message == "questions are not shouted"
    assert bad.failure.detail == "b?"


def test_alone_a_failed_row_comes_in_its_null_form() -> None:
    rows = run(Shout(llm=EchoLLM()), {"text": "a"}, {"text": "b?"})
    assert [row["shout"] for row in rows] == ["A", None]


@pytest.mark.parametrize("kind", [FakeLLM, FakeBatchLLM])
def test_a_failed_request_fails_its_row_alone_with_the_models_reason(kind: Any) -> None:
    def answer(asked: str) -> str:
        if asked == "b":
            raise ConnectionError("the line is dead")
        return asked

    good, bad, other = entries(
        Shout(llm=kind(reply=answer)), {"text": "a"}, {"text": "b"}, {"text": "c"}
    )
    assert (good["shout"], other["shout"]) == ("A", "C")
    assert bad.failure.kind.endswith("ConnectionError")
    assert bad.failure.message == "the line is dead"
    assert bad.row["shout"] is None


def test_a_reply_that_did_not_come_fails_its_row() -> None:
    (bad,) = entries(Shout(llm=FakeLLM(reply=None)), {"text": "a"})
    assert bad.failure.kind == "no_reply"


def test_what_format_output_makes_of_a_missing_reply_is_the_null_form() -> None:
    row = {"instruction": "x", "generations": ["a", "b"]}
    (bad,) = entries(UltraFeedback(llm=FakeLLM(reply=None)), row)
    assert bad.row["ratings"] == [None, None]


def test_an_input_that_cannot_be_formatted_fails_its_row_alone() -> None:
    good, bad = entries(Shout(llm=EchoLLM()), {"text": "a"}, {"other": "b"})
    assert good["shout"] == "A"
    assert bad.failure.kind == "KeyError"
    assert bad.row == {"other": "b", "shout": None, "loud": None, "model_name": "echo"}


def test_one_bad_generation_of_several_does_not_cost_the_good_ones() -> None:
    task = Shout(llm=FakeLLM(reply=["one", "two?"]), name="s", num_generations=2)
    (made,) = entries(task, {"text": "a"})
    good, bad = made
    assert good["shout"] == "ONE"
    assert "failure_s" not in good["distilabel_metadata"]
    assert isinstance(bad, FailedRow)
    assert bad.failure.kind == "ValueError"
    assert (bad.row["shout"], bad.row["text"]) == (None, "a")
    assert bad.row["distilabel_metadata"]["failure_s"] == "ValueError: questions are not shouted"
    assert [row["shout"] for row in run(task, {"text": "a"})] == ["ONE", None]


def test_a_row_whose_generations_all_fail_failed() -> None:
    task = Shout(llm=FakeLLM(reply=["one?", "two?"]), num_generations=2)
    (made,) = entries(task, {"text": "a"})
    # As many rows as if they had been good: what counts rows below does not shift.
    assert [type(bad) for bad in made] == [FailedRow, FailedRow]
    assert [row["shout"] for row in run(task, {"text": "a"})] == [None, None]


def test_a_grouped_row_with_a_bad_generation_failed_and_keeps_the_good_ones() -> None:
    task = Shout(llm=FakeLLM(reply=["one", "two?"]), num_generations=2, group_generations=True)
    (bad,) = entries(task, {"text": "a"})
    assert isinstance(bad, FailedRow)
    assert bad.row["shout"] == ["ONE", None]


def test_no_generations_at_all_is_a_failure() -> None:
    class Silent(FakeLLM):
        async def agenerate(self, input: Any, num_generations: int = 1, **kwargs: Any) -> Any:
            return {"generations": [], "statistics": {}}

    (bad,) = entries(Shout(llm=Silent()), {"text": "a"})
    assert isinstance(bad, FailedRow)


def test_format_output_that_returns_no_dict_fails_its_row_and_says_so() -> None:
    class Wrong(Shout):
        def format_output(self, output: str | None, input: dict[str, Any] | None = None) -> Any:
            return output

    (bad,) = entries(Wrong(llm=EchoLLM()), {"text": "a"})
    assert "returned a str" in bad.failure.message


@pytest.mark.parametrize("kind", [FakeLLM, FakeBatchLLM])
def test_a_key_that_is_refused_stops_everything(kind: Any) -> None:
    def answer(asked: str) -> str:
        raise ModelAuthError("wrong key")

    with pytest.raises(ModelAuthError):
        entries(Shout(llm=kind(reply=answer)), {"text": "a"})


# --- how rows are worked on -------------------------------------------------------------------


def test_rows_are_asked_about_side_by_side() -> None:
    class Meeting(AsyncLLM):
        """Answers nobody before everybody is there."""

        _here: int = 0
        _all: Any = None

        @property
        def model_name(self) -> str:
            return "meeting"

        async def agenerate(self, input: Any, num_generations: int = 1, **kwargs: Any) -> Any:
            self._all = self._all or asyncio.Event()
            self._here += 1
            if self._here == 20:
                self._all.set()
            await self._all.wait()
            return {"generations": ["met"], "statistics": {}}

    rows = run(Shout(llm=Meeting()), *({"text": str(n)} for n in range(20)))
    assert [row["text"] for row in rows] == [str(n) for n in range(20)]


def test_a_model_that_takes_batches_gets_all_rows_in_one_call() -> None:
    llm = FakeBatchLLM(reply="x")
    run(Shout(llm=llm), *({"text": str(n)} for n in range(20)))
    assert [len(batch) for batch in llm.batches] == [20]


def test_a_task_is_row_wise_and_asynchronous_with_an_asynchronous_model() -> None:
    task = Shout(llm=EchoLLM())
    assert (task.kind(), task.row_wise, task.asynchronous) == ("row", True, True)
    assert task.concurrency == task.llm.concurrency > 0


def test_a_task_is_row_wise_and_takes_batches_with_a_model_that_does() -> None:
    task = Shout(llm=FakeBatchLLM())
    assert (task.kind(), task.asynchronous, task.concurrency) == ("row", False, 0)


class Ranked(Shout):
    """Overrides process: it may depend on the whole batch."""

    def process(self, inputs: Any) -> Iterator[list[dict[str, Any]]]:
        yield [{**row, "shout": len(inputs), "loud": False} for row in inputs]


class RankedByRow(Ranked):
    row_wise: bool = True


def test_a_task_that_overrides_process_is_batch_wise_unless_it_says_otherwise() -> None:
    assert Ranked(llm=EchoLLM()).kind() == "batch"
    assert not Ranked(llm=EchoLLM()).asynchronous
    assert Ranked(llm=EchoLLM(), row_wise=True).kind() == "row"
    assert RankedByRow(llm=EchoLLM()).kind() == "row"
    assert RankedByRow(llm=EchoLLM(), row_wise=False).kind() == "batch"
    assert entries(Ranked(llm=EchoLLM()), {"text": "a"})[0]["shout"] == 1


def test_settling_survives_a_later_assignment() -> None:
    task = Ranked(llm=EchoLLM())
    task.num_generations = 2
    assert task.kind() == "batch"


def test_one_row_on_the_running_loop_gives_the_same_entry_as_a_batch() -> None:
    task = loaded(Shout(llm=EchoLLM(), num_generations=2))
    rows = [{"text": "a"}, {"text": "b?"}]
    one_by_one = [asyncio.run(task.aprocess(row)) for row in rows]
    assert one_by_one == entries(task, *rows)


def test_mappings_rename_columns_of_good_and_failed_rows() -> None:
    task = loaded(
        Shout(llm=EchoLLM(), input_mappings={"text": "line"}, output_mappings={"shout": "cry"})
    )
    ((good, bad),) = list(task.apply([{"line": "a"}, {"line": "b?"}]))
    assert (good["line"], good["cry"]) == ("a", "A")
    assert (bad.row["line"], bad.row["cry"]) == ("b?", None)


def test_a_task_works_the_same_after_a_journey_to_a_worker() -> None:
    task = pickle.loads(cloudpickle.dumps(TextGeneration(llm=EchoLLM(), name="t")))
    (row,) = run(task, {"instruction": "hey"})
    assert row["generation"] == "hey"


def test_a_global_task_asks_about_every_row() -> None:
    class ShoutAll(GlobalTask):
        inputs = Shout.inputs
        outputs = Shout.outputs
        format_input = Shout.format_input
        format_output = Shout.format_output

    task = ShoutAll(llm=EchoLLM())
    assert task.kind() == "global"
    assert [row["shout"] for row in run(task, {"text": "a"}, {"text": "b"})] == ["A", "B"]


# --- identity and options ---------------------------------------------------------------------


def test_identity_changes_with_model_prompt_and_parameters_and_not_with_the_name() -> None:
    digest = lambda task: task.identity().digest  # noqa: E731
    base = TextGeneration(llm=FakeLLM(reply="x"), name="a")
    assert digest(base) == digest(TextGeneration(llm=FakeLLM(reply="x"), name="a"))
    assert digest(base) != digest(TextGeneration(llm=FakeLLM(reply="y"), name="a"))
    assert digest(base) != digest(TextGeneration(llm=EchoLLM(), name="a"))
    assert digest(base) != digest(
        TextGeneration(llm=FakeLLM(reply="x"), name="a", template="{{ instruction }}!")
    )


def test_the_text_of_prompt_files_is_part_of_the_identity() -> None:
    components = UltraFeedback(llm=EchoLLM()).identity().components
    assert any("prompts" in name for name in components)


def test_the_schema_travels_with_the_input_and_the_model_is_left_alone() -> None:
    row = {"instruction": "x", "generations": ["a"]}
    llm = FakeLLM(reply='{"ratings": [3], "rationales": ["so so"]}')
    (made,) = run(UltraFeedback(llm=llm, name="u", use_default_structured_output=True), row)
    assert made["ratings"] == [3]
    messages, structure = llm.asked[0]
    assert structure["format"] == "json"
    assert structure["schema"]["required"] == ["ratings", "rationales"]
    assert llm.structured_output is None
    assert made["distilabel_metadata"]["raw_input_u"] == messages


def test_a_structure_set_on_the_model_wins() -> None:
    llm = FakeLLM(
        reply='{"ratings": [3], "rationales": ["so so"]}', structured_output={"schema": {}}
    )
    task = UltraFeedback(llm=llm, use_default_structured_output=True)
    run(task, {"instruction": "x", "generations": ["a"]})
    assert isinstance(llm.asked[0], list)


def test_a_model_that_takes_no_structure_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="structured_output"):
        UltraFeedback(llm=EchoLLM(), use_default_structured_output=True)


def test_offline_batches_are_refused_by_tasks_not_written_for_them_and_make_others_global() -> None:
    offline = EchoLLM(use_offline_batch_generation=True)
    with pytest.raises(ValueError, match="offline"):
        Shout(llm=offline)
    task = TextGeneration(llm=offline)
    assert (task.kind(), task.asynchronous) == ("global", False)


def test_print_shows_the_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    TextGeneration(llm=EchoLLM(), system_prompt="Be kind.").print()
    shown = capsys.readouterr().out
    assert "<PLACEHOLDER_INSTRUCTION>" in shown
    Shout(llm=EchoLLM()).print([{"role": "user", "content": "my own sample"}])
    assert "my own sample" in capsys.readouterr().out


def test_num_generations_must_be_positive() -> None:
    with pytest.raises(ValueError, match="num_generations"):
        Shout(llm=EchoLLM(), num_generations=0)
