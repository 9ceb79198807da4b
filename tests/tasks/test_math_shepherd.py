from __future__ import annotations

import json
from typing import Any

import pytest

from asyncdistil.errors import DataError, ModelReplyError
from asyncdistil.steps.rows import FailedRow
from asyncdistil.steps.tasks import FormatPRM, MathShepherdCompleter, MathShepherdGenerator
from asyncdistil.steps.tasks.math_shepherd import same_answer, split_steps
from asyncdistil.testing.fake_llm import FakeBatchLLM, FakeLLM

SOLUTION = "Step 1: two\nand two\nStep 2: four\nThe answer is: 4"
STEPS = ["Step 1: two\nand two", "Step 2: four", "The answer is: 4"]


def test_a_solution_is_cut_into_steps_and_answer() -> None:
    assert split_steps(f"Let me see.\n{SOLUTION}\n") == STEPS
    assert split_steps("Step 1: a Step 2: b The answer is: c") == [
        "Step 1: a", "Step 2: b", "The answer is: c",
    ]  # fmt: skip
    assert split_steps("I don't know") == []


def test_answers_agree_whatever_the_white_space_and_the_final_point() -> None:
    assert same_answer("The answer is: 4", "The answer is:  4.")
    assert not same_answer("The answer is: 4", "The answer is: 4.5")


def test_without_m_there_is_one_golden_solution() -> None:
    task = MathShepherdGenerator(llm=FakeLLM())
    assert task.outputs == ["golden_solution", "model_name"]
    assert task.format_output(SOLUTION) == {"golden_solution": STEPS}


def test_with_m_there_are_several_solutions() -> None:
    task = MathShepherdGenerator(llm=FakeLLM(), M=2)
    made = task.format_output(f"{SOLUTION}\n---\nno steps\n---\n{SOLUTION}\n-----\n{SOLUTION}")
    assert made == {"solutions": [STEPS, STEPS]}
    assert "Write 2 different solutions" in task.format_input({"instruction": "x"})[-1]["content"]


def test_structured_solutions_may_hold_latex() -> None:
    task = MathShepherdGenerator(llm=FakeLLM(), M=1, use_default_structured_output=True)
    reply = r'{"solutions": [{"solution": "Step 1: \(x\)\nThe answer is: 1"}]}'
    assert task.format_output(reply) == {"solutions": [[r"Step 1: \(x\)", "The answer is: 1"]]}


@pytest.mark.parametrize("M", [None, 2])
def test_a_reply_without_a_step_is_refused(M: int | None) -> None:
    with pytest.raises(ModelReplyError):
        MathShepherdGenerator(llm=FakeLLM(), M=M).format_output("I don't know")


def test_the_system_message_holds_rules_and_examples_unless_they_are_left_out() -> None:
    system, _ = MathShepherdGenerator(llm=FakeLLM()).format_input({"instruction": "x"})
    assert "<<6*7=42>>42" in system["content"]
    assert "# Example" in system["content"]
    bare = MathShepherdGenerator(llm=FakeLLM(), extra_rules=None, few_shots=None)
    assert "# Example" not in bare.format_input({"instruction": "x"})[0]["content"]
    own = MathShepherdGenerator(
        llm=FakeLLM(), system_prompt="Mind: {{ extra_rules }}", extra_rules="r"
    )
    assert own.format_input({"instruction": "x"})[0]["content"] == "Mind: r"
    none = MathShepherdGenerator(llm=FakeLLM(), system_prompt=None)
    assert len(none.format_input({"instruction": "x"})) == 1


# --- completing -------------------------------------------------------------------------------

ROW: dict[str, Any] = {
    "instruction": "2 + 2 + 2?",
    "golden_solution": ["Step 1: all", "The answer is: 6"],
    "solutions": [
        ["Step 1: 4", "Step 2: right", "Step 3: 6", "The answer is: 6"],
        ["Step 1: 5", "Step 2: 7", "The answer is: 7"],
        ["The answer is: 6"],
        [],
    ],
}


def complete(asked: str) -> str:
    """Reaches the answer unless the first steps are wrong."""
    return f"Step 9: on\nThe answer is: {7 if 'Step 1: 5' in asked else 6}"


@pytest.mark.parametrize("llm", [FakeLLM(reply=complete), FakeBatchLLM(reply=complete)])
def test_steps_are_tagged_by_where_they_lead(llm: Any) -> None:
    task = MathShepherdCompleter(llm=llm, name="c")
    task.load()
    (row,) = next(task.process([ROW]))
    assert row["solutions"] == [
        ["Step 1: 4 +", "Step 2: right +", "Step 3: 6 The answer is: 6 +"],
        ["Step 1: 5 -", "Step 2: 7 The answer is: 7 -"],
        ["The answer is: 6"],
        [],
    ]
    assert row["model_name"] == llm.model_name
    assert len(row["distilabel_metadata"]["statistics_c"]["input_tokens"]) == 3
    assert ROW["solutions"][0][0] == "Step 1: 4"


def test_all_steps_of_all_rows_are_completed_in_one_round() -> None:
    llm = FakeBatchLLM(reply=complete)
    task = MathShepherdCompleter(llm=llm)
    next(task.process([ROW, ROW]))
    assert [len(batch) for batch in llm.batches] == [6]
    text = llm.batches[0][1][-1]["content"]
    assert text.endswith("2 + 2 + 2?\nStep 1: 4\nStep 2: right")


def test_one_good_completion_of_several_makes_a_step_good() -> None:
    reply = "Step 2: x\nThe answer is: 1\n---\nStep 2: y\nThe answer is: 6.\n---\nThe answer is: 6"
    row = {**ROW, "solutions": [["Step 1: 4", "Step 2: 6", "The answer is: 6"]]}
    for tries, tag in ((1, "-"), (2, "+")):
        task = MathShepherdCompleter(llm=FakeLLM(reply=reply), N=tries)
        (made,) = next(task.process([row]))
        assert made["solutions"][0][0] == f"Step 1: 4 {tag}"


def test_a_completion_that_is_none_fails_the_row() -> None:
    task = MathShepherdCompleter(llm=FakeLLM(reply="I don't know"))
    ((bad,),) = list(task.entries([ROW]))
    assert isinstance(bad, FailedRow)
    assert bad.row["solutions"] is None


def test_structured_completions_are_asked_for_with_a_schema() -> None:
    reply = json.dumps({"solutions": [{"solution": "The answer is: 6"}]})
    llm = FakeLLM(reply=reply)
    task = MathShepherdCompleter(llm=llm, use_default_structured_output=True)
    (row,) = next(task.process([ROW]))
    assert row["solutions"][0][0].endswith("+")
    assert llm.asked[0][1]["schema"]["required"] == ["solutions"]


# --- formatting -------------------------------------------------------------------------------

TAGGED = {"instruction": "2 + 2?", "solutions": ["Step 1: a +", "Step 2: b The answer is: c -"]}


def test_the_format_of_the_paper_hides_the_tags_behind_a_token() -> None:
    ((row,),) = list(FormatPRM().process([TAGGED]))
    assert row["input"] == "2 + 2? Step 1: a ки\nStep 2: b The answer is: c ки"
    assert row["label"] == "2 + 2? Step 1: a +\nStep 2: b The answer is: c -"


def test_the_format_of_trl_has_a_truth_value_per_step() -> None:
    step = FormatPRM(format="trl", tags=["<good>", "<bad>"])
    row = {"instruction": "x", "solutions": ["Step 1: a <good>", "Step 2: b <bad>"]}
    ((made,),) = list(step.process([row]))
    assert made["prompt"] == "x"
    assert made["completions"] == ["Step 1: a", "Step 2: b"]
    assert made["labels"] == [True, False]
    assert step.outputs == ["prompt", "completions", "labels"]


def test_a_step_without_a_tag_fails_the_row() -> None:
    ((bad,),) = list(FormatPRM().entries([{"instruction": "x", "solutions": ["Step 1: a"]}]))
    assert isinstance(bad, FailedRow)
    assert bad.failure.kind.endswith(DataError.__name__)
