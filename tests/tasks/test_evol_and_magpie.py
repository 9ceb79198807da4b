from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncdistil.errors import ModelReplyError, ParameterError
from asyncdistil.steps.rows import FailedRow
from asyncdistil.steps.tasks import (
    EvolComplexity,
    EvolComplexityGenerator,
    EvolInstruct,
    EvolInstructGenerator,
    EvolQuality,
    Magpie,
    MagpieGenerator,
    SelfInstruct,
)
from asyncdistil.steps.tasks.evol import evolved
from asyncdistil.steps.tasks.prompts import source
from asyncdistil.testing.fake_llm import FakeBatchLLM, FakeLLM


class OpenTemplateLLM(FakeLLM):
    """A model that can leave its chat template open for the user."""

    use_magpie_template: bool = False
    magpie_pre_query_template: str | None = "llama3"


def run(task: Any, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    task.load()
    return next(task.process(list(rows)))


def entries(task: Any, *rows: dict[str, Any]) -> list[Any]:
    task.load()
    return [entry for made in task.entries(list(rows)) for entry in made]


def longer(asked: str) -> str:
    """The last line of the prompt, which is the text to evolve, and one more mark."""
    return asked.splitlines()[-1] + "!"


# --- EvolInstruct -----------------------------------------------------------------------------


def test_each_step_evolves_what_the_one_before_it_made() -> None:
    llm = FakeLLM(reply=longer)
    (row,) = run(EvolInstruct(llm=llm, name="e", num_evolutions=3), {"instruction": "Why?"})
    assert row["evolved_instruction"] == "Why?!!!"
    assert row["model_name"] == "fake"
    assert [asked[0]["content"].splitlines()[-1] for asked in llm.asked] == [
        "Why?",
        "Why?!",
        "Why?!!",
    ]
    metadata = row["distilabel_metadata"]
    assert metadata["raw_output_e"] == ["Why?!", "Why?!!", "Why?!!!"]
    assert len(metadata["statistics_instruction_e"]["input_tokens"]) == 3


@pytest.mark.parametrize(
    ("fields", "columns"),
    [
        ({}, {"evolved_instruction": "a!!"}),
        ({"store_evolutions": True}, {"evolved_instructions": ["a!", "a!!"]}),
        (
            {"store_evolutions": True, "include_original_instruction": True},
            {"evolved_instructions": ["a", "a!", "a!!"]},
        ),
        ({"generate_answers": True}, {"evolved_instruction": "a!!", "answer": "a!!!"}),
        (
            {"store_evolutions": True, "generate_answers": True},
            {"evolved_instructions": ["a!", "a!!"], "answers": ["a!!", "a!!!"]},
        ),
    ],
)
def test_what_is_kept_follows_the_options(fields: Any, columns: Any) -> None:
    task = EvolInstruct(llm=FakeLLM(reply=longer), num_evolutions=2, **fields)
    (row,) = run(task, {"instruction": "a"})
    assert {name: row[name] for name in columns} == columns
    assert set(task.outputs) == {*columns, "model_name"}


@settings(max_examples=20)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=8, unique=True), st.randoms())
def test_mutations_depend_on_the_row_and_not_on_the_batch(texts: list[str], random: Any) -> None:
    def mutations(rows: list[str], llm: Any) -> dict[str, str]:
        made = run(EvolInstruct(llm=llm, num_evolutions=1), *({"instruction": t} for t in rows))
        return {row["instruction"]: row["evolved_instruction"] for row in made}

    # Answers with the mutation that was asked for.
    answer = lambda asked: str(hash(asked.split("<")[0].partition("# Prompt")[0]))  # noqa: E731
    shuffled = random.sample(texts, len(texts))
    assert mutations(texts, FakeLLM(reply=answer)) == mutations(
        shuffled, FakeBatchLLM(reply=answer)
    )


def test_another_seed_draws_other_mutations() -> None:
    def drawn(seed: int) -> list[str]:
        llm = FakeLLM(reply="x")
        task = EvolInstruct(llm=llm, num_evolutions=1, seed=seed)
        for number in range(20):
            run(task, {"instruction": str(number)})
        return [asked[0]["content"].partition("# Prompt")[0] for asked in llm.asked]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert len(set(drawn(1))) == 5


def test_answers_to_one_row_draw_their_own_mutations() -> None:
    llm = FakeLLM(reply="x")
    made = run(EvolInstruct(llm=llm, num_evolutions=4, num_generations=2), {"instruction": "a"})
    assert len(made) == 2
    prompts = [asked[0]["content"].partition("# Prompt")[0] for asked in llm.asked]
    assert sorted(prompts[0::2]) != sorted(prompts[1::2])


def test_a_failed_step_fails_the_row_alone_and_keeps_what_was_paid_for() -> None:
    def answer(asked: str) -> str:
        if asked.endswith("b!"):
            raise ConnectionError("gone")
        return longer(asked)

    task = EvolInstruct(llm=FakeLLM(reply=answer), name="e", num_evolutions=3)
    good, bad = entries(task, {"instruction": "a"}, {"instruction": "b"})
    assert good["evolved_instruction"] == "a!!!"
    assert isinstance(bad, FailedRow)
    assert bad.failure.message == "gone"
    assert bad.row["evolved_instruction"] is None
    assert bad.row["distilabel_metadata"]["raw_output_e"] == ["b!", None]


def test_a_batch_model_gets_one_call_per_step() -> None:
    llm = FakeBatchLLM(reply=longer)
    task = EvolInstruct(llm=llm, num_evolutions=2, generate_answers=True)
    run(task, *({"instruction": str(n)} for n in range(10)))
    assert [len(batch) for batch in llm.batches] == [10, 10, 10]


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("Why?", "Why?"),
        ("#Rewritten Prompt#:\nWhy?", "Why?"),
        ("#Given Prompt#:\nWhat?\n#Rewritten Prompt#:\nWhy?", "Why?"),
        ("## New instruction\n\nWhy?", "Why?"),
        ("**Rewritten prompt:** Why?", "Why?"),
        ("New prompt engines: why?", "New prompt engines: why?"),
    ],
)
def test_a_heading_before_the_new_text_is_dropped(reply: str, text: str) -> None:
    assert evolved(reply) == text


def test_a_text_evolved_into_nothing_is_refused() -> None:
    with pytest.raises(ModelReplyError):
        evolved("#Rewritten Prompt#:\n")


def test_templates_of_your_own_take_the_place_of_ours() -> None:
    task = EvolInstruct(
        llm=FakeLLM(reply=longer), num_evolutions=1, mutation_templates={"X": "Do\n<PROMPT>"}
    )
    assert task.mutation_templates_names == ["X"]
    (row,) = run(task, {"instruction": "a"})
    assert row["evolved_instruction"] == "a!"


@pytest.mark.parametrize("templates", [{}, {"X": "no placeholder"}])
def test_templates_that_cannot_work_are_refused_at_once(templates: Any) -> None:
    with pytest.raises(ValueError, match="mutation"):
        EvolInstruct(llm=FakeLLM(), num_evolutions=1, mutation_templates=templates)


def test_complexity_knows_no_breadth() -> None:
    both = set(EvolInstruct(llm=FakeLLM(), num_evolutions=1).mutation_templates_names)
    assert both - set(EvolComplexity(llm=FakeLLM(), num_evolutions=1).mutation_templates_names) == {
        "BREADTH"
    }


# --- EvolQuality ------------------------------------------------------------------------------


def test_a_response_is_evolved_with_its_instruction_beside_it() -> None:
    llm = FakeLLM(reply=longer)
    task = EvolQuality(
        llm=llm, num_evolutions=2, store_evolutions=True, include_original_response=True
    )
    (row,) = run(task, {"instruction": "Say <RESPONSE>.", "response": "a"})
    assert row["evolved_responses"] == ["a", "a!", "a!!"]
    assert "Say <RESPONSE>." in llm.asked[0][0]["content"]
    assert set(task.mutation_templates_names) == {
        "HELPFULNESS", "RELEVANCE", "DEEPENING", "CREATIVITY", "DETAILS",
    }  # fmt: skip


# --- generators -------------------------------------------------------------------------------


def grown(asked: str) -> str:
    """Names its words on a fresh start, doubles the text otherwise."""
    fresh = re.search(r"these words: (.+?)\.", asked)
    return fresh.group(1) if fresh else asked.splitlines()[-1] * 2


def all_rows(task: Any, offset: int = 0) -> list[dict[str, Any]]:
    task.load()
    rows: list[dict[str, Any]] = []
    for made, last in task.process(offset=offset):
        rows += made
        if last:
            break
    else:
        raise AssertionError("the generator never said that it is done")
    return rows


def test_instructions_have_the_wanted_number_and_length() -> None:
    task = EvolInstructGenerator(
        llm=FakeLLM(reply=grown), num_instructions=7, min_length=40, max_length=200, batch_size=3
    )
    rows = all_rows(task)
    assert len(rows) == 7
    assert all(40 <= len(row["instruction"]) <= 200 for row in rows)
    assert len({row["instruction"] for row in rows}) == 7


def test_a_generator_taken_up_again_goes_on_where_it_stopped() -> None:
    def make(**fields: Any) -> Any:
        return EvolComplexityGenerator(
            llm=FakeLLM(reply=grown), num_instructions=9, min_length=20, max_length=300, **fields
        )

    whole = [row["instruction"] for row in all_rows(make())]
    assert make().resumable
    for offset in (0, 4, 9):
        rest = all_rows(make(batch_size=2), offset)
        assert [row["instruction"] for row in rest] == whole[offset:]


def test_answers_are_made_if_wanted() -> None:
    task = EvolInstructGenerator(
        llm=FakeLLM(reply="yes!"), name="g", num_instructions=2, min_length=1, generate_answers=True
    )
    rows = all_rows(task)
    assert rows[0]["answer"] == "yes!"
    assert set(rows[0]["distilabel_metadata"]) == {
        "statistics_instruction_g", "statistics_answer_g", "raw_output_g",
    }  # fmt: skip


def test_lengths_that_no_instruction_gets_stop_the_generator_with_a_remedy() -> None:
    task = EvolInstructGenerator(llm=FakeLLM(reply="short"), num_instructions=2, min_length=100)
    with pytest.raises(ModelReplyError, match="widen min_length"):
        all_rows(task)


def test_no_instructions_is_an_ordinary_number() -> None:
    assert all_rows(EvolInstructGenerator(llm=FakeLLM(), num_instructions=0)) == []


def test_a_generator_needs_a_template_to_begin_with() -> None:
    with pytest.raises(ValueError, match="FRESH_START"):
        EvolInstructGenerator(
            llm=FakeLLM(), num_instructions=1, mutation_templates={"X": "<PROMPT>"}
        )


def test_nouns_are_many_and_each_is_there_once() -> None:
    nouns = source("evol/nouns.txt").split()
    assert len(nouns) == len(set(nouns)) >= 500


# --- SelfInstruct -----------------------------------------------------------------------------


def test_the_prompt_names_application_context_and_number() -> None:
    task = SelfInstruct(
        llm=FakeLLM(), num_instructions=7, application_description="A cook", input_mappings={}
    )
    text = task.format_input({"input": "soups"})[0]["content"]
    for part in ("Write 7 user queries", "A cook", "soups", task.criteria_for_query_generation):
        assert part in text


def test_instructions_lose_numbers_and_blank_lines() -> None:
    task = SelfInstruct(llm=FakeLLM())
    reply = "1. What is soup?\n\n2. Write a recipe.\n"
    assert task.format_output(reply) == {"instructions": ["What is soup?", "Write a recipe."]}
    assert task.format_output(None) == {"instructions": []}
    with pytest.raises(ModelReplyError):
        task.format_output(" \n ")


# --- Magpie -----------------------------------------------------------------------------------


class Speaker(OpenTemplateLLM):
    """Says how many messages it was given, so that who speaks can be seen."""

    async def agenerate(self, input: Any, num_generations: int = 1, **kwargs: Any) -> Any:
        self._asked.append(input)
        spoken = [message for message in input if message["role"] != "system"]
        return {"generations": [f"turn {len(spoken)}"], "statistics": {"output_tokens": [2]}}


def test_the_model_speaks_as_the_user_and_then_as_itself() -> None:
    llm = Speaker()
    task = Magpie(llm=llm, name="m")
    (row,) = run(task, {"id": 1})
    assert (row["id"], row["instruction"], row["response"]) == (1, "turn 0", "turn 1")
    assert llm.asked == [[], [{"role": "user", "content": "turn 0"}]]
    assert llm.use_magpie_template
    assert row["distilabel_metadata"]["statistics_m"] == {"output_tokens": [2, 2]}


@pytest.mark.parametrize(
    ("fields", "columns", "calls"),
    [
        ({"only_instruction": True}, ["instruction"], 1),
        ({"only_instruction": True, "n_turns": 3}, ["instruction"], 1),
        ({}, ["instruction", "response"], 2),
        ({"n_turns": 2}, ["conversation"], 4),
        ({"n_turns": 2, "end_with_user": True}, ["conversation"], 3),
        ({"include_system_prompt": True, "system_prompt": "s"}, ["conversation"], 2),
        ({"system_prompt": {"a": "s"}}, ["instruction", "response", "system_prompt_key"], 2),
    ],
)
def test_columns_follow_the_options(fields: Any, columns: list[str], calls: int) -> None:
    llm = Speaker()
    task = Magpie(llm=llm, **fields)
    (row,) = run(task, {})
    assert task.outputs == [*columns, "model_name"]
    assert set(row) == {*columns, "model_name", "distilabel_metadata"}
    assert len(llm.asked) == calls


def test_a_conversation_of_several_turns_has_a_system_prompt_that_is_not_kept() -> None:
    llm = Speaker()
    (row,) = run(Magpie(llm=llm, n_turns=2), {})
    assert llm.asked[0][0]["role"] == "system"
    assert [m["role"] for m in row["conversation"]] == ["user", "assistant"] * 2
    (kept,) = run(Magpie(llm=Speaker(), n_turns=2, include_system_prompt=True), {})
    assert kept["conversation"][0]["role"] == "system"


def test_the_system_prompt_of_the_row_wins() -> None:
    llm = Speaker()
    run(Magpie(llm=llm, system_prompt={"a": "task"}), {"system_prompt": "row"})
    assert llm.asked[0] == [{"role": "system", "content": "row"}]


def test_system_prompts_are_drawn_by_weight_and_named() -> None:
    llm = Speaker()
    task = MagpieGenerator(
        llm=llm, num_rows=200, only_instruction=True,
        system_prompt={"often": ("o", 0.9), "seldom": ("s", 0.1)},
    )  # fmt: skip
    keys = [row["system_prompt_key"] for row in all_rows(task)]
    assert 160 < keys.count("often") < 200
    prompts = [asked[0]["content"] for asked in llm.asked]
    assert sorted(prompts) == sorted(key[0] for key in keys)
    assert keys == [row["system_prompt_key"] for row in all_rows(task)]


def test_rows_that_differ_draw_their_own_prompt_from_a_list() -> None:
    llm = Speaker()
    task = Magpie(llm=llm, system_prompt=["a", "b", "c"], only_instruction=True)
    run(task, *({"id": n} for n in range(40)))
    assert {asked[0]["content"] for asked in llm.asked} == {"a", "b", "c"}


def test_weights_must_add_up_to_one() -> None:
    with pytest.raises(ValueError, match="add up"):
        Magpie(llm=Speaker(), system_prompt={"a": ("x", 0.5), "b": ("y", 0.6)})


def test_a_model_that_cannot_leave_its_template_open_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="use_magpie_template"):
        Magpie(llm=FakeLLM())


def test_a_silent_user_fails_the_row() -> None:
    (bad,) = entries(Magpie(llm=OpenTemplateLLM(reply=" \n")), {"id": 1})
    assert isinstance(bad, FailedRow)
    assert (bad.row["instruction"], bad.row["response"]) == (None, None)


def test_the_generator_makes_the_wanted_rows_and_says_when_it_is_done() -> None:
    task = MagpieGenerator(llm=Speaker(), num_rows=7, batch_size=3)
    task.load()
    made = [(len(rows), last) for rows, last in task.process()]
    assert made == [(3, False), (3, False), (1, True)]
    assert [len(rows) for rows, _ in task.process(offset=5)] == [2]


def test_the_generator_needs_to_know_how_many_rows() -> None:
    task = MagpieGenerator(llm=Speaker())
    assert "num_rows" in task.missing_runtime_parameters()
    with pytest.raises(ParameterError, match="num_rows"):
        next(task.process())


def test_one_bad_row_of_a_generator_is_null_and_says_why() -> None:
    class Moody(Speaker):
        _count: int = 0

        async def agenerate(self, input: Any, num_generations: int = 1, **kwargs: Any) -> Any:
            self._count += 1
            text = None if self._count == 2 else "x"
            return {"generations": [text], "statistics": {}}

    task = MagpieGenerator(llm=Moody(), name="g", num_rows=3, only_instruction=True)
    rows = all_rows(task)
    assert sorted(str(row["instruction"]) for row in rows) == ["None", "x", "x"]
    (bad,) = (row for row in rows if row["instruction"] is None)
    assert bad["distilabel_metadata"]["failure_g"].startswith("no_reply")
    with pytest.raises(ModelReplyError, match="none of 2 rows"):
        all_rows(MagpieGenerator(llm=OpenTemplateLLM(reply=None), num_rows=2))
