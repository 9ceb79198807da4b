"""Renaming of columns into a step and out of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdistil.batch import Failure
from asyncdistil.steps import FailedRow, Step, StepInput, StepOutput
from asyncdistil.steps.mapping import ColumnMapping


class Shout(Step):
    """Reads ``text``, writes ``loud``."""

    @property
    def inputs(self) -> list[str]:
        return ["text"]

    @property
    def outputs(self) -> list[str]:
        return ["loud"]

    def process(self, inputs: StepInput) -> StepOutput:
        yield [{**row, "loud": row["text"].upper()} for row in inputs]


class Generation(Step):
    """Writes ``generation`` as a task does."""

    @property
    def outputs(self) -> list[str]:
        return ["generation"]

    def process(self, inputs: StepInput) -> StepOutput:
        for row in inputs:
            row["generation"] = f"new of {row['instruction']}"
        yield inputs


class Thrice(Step):
    """Three copies of each row, in an order of its own."""

    @property
    def inputs(self) -> list[str]:
        return ["text"]

    def process(self, inputs: StepInput) -> StepOutput:
        for copy in range(3):
            yield [{**row, "copy": copy} for row in reversed(inputs)]


def out(step: Step, rows: list[dict[str, Any]]) -> list[Any]:
    return [entry for entries in step.apply(rows) for entry in entries]


def test_input_mappings_rename_on_the_way_in_and_back_on_the_way_out() -> None:
    step = Shout(input_mappings={"text": "prompt"})
    assert out(step, [{"id": 1, "prompt": "a"}]) == [{"id": 1, "prompt": "a", "loud": "A"}]


def test_output_mappings_rename_on_the_way_out() -> None:
    step = Shout(output_mappings={"loud": "cry"})
    assert out(step, [{"text": "a"}]) == [{"text": "a", "cry": "A"}]


def test_a_column_named_like_the_steps_own_is_hidden_and_comes_back() -> None:
    step = Shout(input_mappings={"text": "prompt"})
    assert out(step, [{"text": "mine", "prompt": "a"}]) == [
        {"text": "mine", "prompt": "a", "loud": "A"}
    ]


def test_the_output_of_an_earlier_step_survives_a_mapped_output_of_the_same_name() -> None:
    step = Generation(output_mappings={"generation": "g2"})
    rows = out(step, [{"instruction": "x", "generation": "first"}])
    assert rows == [{"instruction": "x", "generation": "first", "g2": "new of x"}]


def test_hidden_columns_follow_every_copy_of_their_row_whatever_the_order() -> None:
    step = Thrice(input_mappings={"text": "prompt"})
    rows = out(step, [{"text": f"own {n}", "prompt": n} for n in range(4)])
    assert len(rows) == 12
    assert all(row["text"] == f"own {row['prompt']}" for row in rows)


def test_two_columns_can_change_places() -> None:
    mapping = ColumnMapping({"a": "b", "b": "a"}, {})
    assert mapping.enter({"a": 1, "b": 2}) == {"b": 1, "a": 2}
    assert mapping.leave(mapping.enter({"a": 1, "b": 2})) == {"a": 1, "b": 2}


def test_an_output_mapping_wins_over_the_way_back_and_the_original_stays() -> None:
    mapping = ColumnMapping({"text": "prompt"}, {"text": "evolved"})
    row = mapping.enter({"prompt": "a"})
    row["text"] = row["text"] + "!"
    assert mapping.leave(row) == {"prompt": "a", "evolved": "a!"}


def test_what_the_step_wrote_wins_over_a_hidden_column() -> None:
    mapping = ColumnMapping({"text": "prompt"}, {})
    row = mapping.enter({"prompt": "a", "text": "hidden"})
    row["prompt"] = "written"
    assert mapping.leave(row) == {"prompt": "written", "text": "hidden"}


def test_failed_expanded_and_filtered_entries_are_renamed_too() -> None:
    mapping = ColumnMapping({}, {"x": "y"})
    failure = Failure("E", "m")
    assert mapping.leave_entry(FailedRow({"x": 1}, failure)) == FailedRow({"y": 1}, failure)
    assert mapping.leave_entry([{"x": 1}, {"x": 2}]) == [{"y": 1}, {"y": 2}]
    assert mapping.leave_entry(None) is None


def test_null_rows_have_the_declared_outputs_under_their_mapped_names() -> None:
    step = Shout(output_mappings={"loud": "cry"})
    assert step.null_rows({"text": "a"}) == {"text": "a", "cry": None}


def test_mappings_must_name_declared_columns() -> None:
    with pytest.raises(ValueError, match="which is no input of it"):
        Shout(input_mappings={"txt": "prompt"}).check_mappings()
    with pytest.raises(ValueError, match="which is no output of it"):
        Shout(output_mappings={"text": "prompt"}).check_mappings()


NAMES = st.sampled_from("abcdef")


@given(
    inputs=st.dictionaries(NAMES, NAMES, max_size=3),
    outputs=st.dictionaries(NAMES, NAMES, max_size=2),
    row=st.dictionaries(NAMES, st.integers(), max_size=6),
)
def test_a_step_that_touches_nothing_loses_no_column(
    inputs: dict[str, str], outputs: dict[str, str], row: dict[str, int]
) -> None:
    mapping = ColumnMapping(inputs, outputs, reads=inputs)
    back = mapping.leave(mapping.enter(row))
    # Only a renamed output may replace a column; every other one has its value again.
    replaced = set(mapping.outputs.values())
    assert {k: v for k, v in back.items() if k in row and k not in replaced} == {
        k: v for k, v in row.items() if k not in replaced
    }


@given(row=st.dictionaries(st.text(max_size=3), st.integers(), max_size=8))
def test_rows_without_mapped_columns_pass_unchanged_and_in_order(row: dict[str, int]) -> None:
    mapping = ColumnMapping({"needed": "absent"}, {"made": "renamed"})
    if {"needed", "absent", "made", "renamed"} & set(row):
        return
    assert list(mapping.leave(mapping.enter(row)).items()) == list(row.items())
