from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from asyncdistil.steps.tasks.draws import Draw

content = st.dictionaries(st.text(), st.integers() | st.text() | st.none(), max_size=3)


@given(st.integers(), content)
def test_equal_seed_and_content_draw_the_same_lots(seed: int, row: dict[str, object]) -> None:
    one, other = Draw(seed, row), Draw(seed, dict(reversed(row.items())))
    assert [one.choice("abcdef") for _ in range(20)] == [other.choice("abcdef") for _ in range(20)]


def test_lots_are_pinned_so_that_no_version_changes_a_stored_result() -> None:
    draw = Draw(42, {"instruction": "Count to three."})
    assert "".join(draw.choice("abcdefghij") for _ in range(12)) == "dfgbgddcfjeh"


def test_choices_are_spread_evenly() -> None:
    counts = Counter(Draw(seed, "row").choice("abcd") for seed in range(4000))
    assert all(900 < counts[letter] < 1100 for letter in "abcd")


def test_weights_are_kept_and_need_not_add_up_to_one() -> None:
    counts = Counter(
        Draw(0, n).weighted(["rare", "common", "never"], [1, 9, 0]) for n in range(4000)
    )
    assert counts["never"] == 0
    assert 300 < counts["rare"] < 500


@given(st.integers(), content)
def test_a_lot_is_at_least_zero_and_less_than_one(seed: int, row: dict[str, object]) -> None:
    draw = Draw(seed, row)
    assert all(0 <= draw.uniform() < 1 for _ in range(10))
