"""Damage makes the memo forget, never answer wrongly."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.memo import Key, Memo, namespace_dir, segment_path
from asyncdistil.memo.entry import FIRST_RECORD

BODIES = [b"answer %d " % number * (number + 1) for number in range(3)]
MODELS = ("first model", "second model")


def requests(key: Any) -> list[tuple[Key, int]]:
    """Two samples of one key, and one of a key of another model."""
    return [(key(0, MODELS[0]), 0), (key(0, MODELS[0]), 1), (key(1, MODELS[1]), 0)]


@pytest.fixture
def image(memo_dir: Path, key: Any) -> bytes:
    """A segment with some entries, left by a writer that is gone."""
    memo = Memo.open(memo_dir)
    for (request, sample), body in zip(requests(key), BODIES, strict=True):
        memo.put(request, sample, body)
    memo.close()
    return segment_path(namespace_dir(memo_dir), 1).read_bytes()


def answers(memo_dir: Path, key: Any) -> list[bytes | None]:
    memo = Memo.open(memo_dir)
    try:
        return [memo.get(request, sample) for request, sample in requests(key)]
    finally:
        memo.close()


def bits(image: bytes) -> range:
    """Some of every byte, each of the eight as often; the tests of faults flip all of them."""
    return range(0, len(image) * 8, 5)


def test_a_tail_torn_at_any_byte_is_cut_quietly(
    memo_dir: Path, key: Any, image: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = segment_path(namespace_dir(memo_dir), 1)
    kept_before = 0
    for length in range(len(image) + 1):
        path.write_bytes(image[:length])
        found = answers(memo_dir, key)
        kept = sum(answer is not None for answer in found)
        assert found == [*BODIES[:kept], *[None] * (len(BODIES) - kept)]
        assert kept >= kept_before
        kept_before = kept
    assert kept_before == len(BODIES)
    assert not caplog.records


def test_a_tail_that_a_power_cut_filled_with_zeros_is_cut_quietly(
    memo_dir: Path, key: Any, image: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = segment_path(namespace_dir(memo_dir), 1)
    for length in range(FIRST_RECORD, len(image), 7):
        path.write_bytes(image[:length] + bytes(4096))
        found = answers(memo_dir, key)
        kept = sum(answer is not None for answer in found)
        assert found == [*BODIES[:kept], *[None] * (len(BODIES) - kept)]
    assert not caplog.records


def test_any_flipped_bit_is_a_miss_of_one_answer_or_of_none_and_never_a_wrong_one(
    memo_dir: Path, key: Any, image: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = segment_path(namespace_dir(memo_dir), 1)
    misses = 0
    for bit in bits(image):
        damaged = bytearray(image)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        caplog.clear()
        found = answers(memo_dir, key)
        assert all(answer in (None, body) for answer, body in zip(found, BODIES, strict=True)), bit
        lost = found.count(None)
        # The second sample leans on the preimage of the first.
        assert lost <= 2, bit
        misses += lost > 0
        last = found[-1] is None
        assert caplog.records or last, f"bit {bit} was flipped and nobody said so"
    assert misses > len(bits(image)) / 2


def test_damage_found_after_the_index_was_made_is_a_miss_with_one_warning(
    memo_dir: Path, key: Any, image: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    memo = Memo.open(memo_dir)
    memo._catalogue.pack()
    memo.close()
    path = segment_path(namespace_dir(memo_dir), 1)
    for bit in bits(image)[FIRST_RECORD * 8 // 5 + 1 :]:
        damaged = bytearray(image)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        caplog.clear()
        found = answers(memo_dir, key)
        assert all(answer in (None, body) for answer, body in zip(found, BODIES, strict=True)), bit
        assert len(caplog.records) == (None in found), bit


def test_a_damaged_answer_can_be_given_anew(memo_dir: Path, key: Any, image: bytes) -> None:
    path = segment_path(namespace_dir(memo_dir), 1)
    damaged = image.replace(BODIES[1], b"X" * len(BODIES[1]))
    path.write_bytes(damaged)
    memo = Memo.open(memo_dir)
    assert memo.get(key(0), 1) is None
    memo.put(key(0, MODELS[0]), 1, b"again")
    memo.close()
    assert answers(memo_dir, key) == [BODIES[0], b"again", *BODIES[2:]]


def test_records_in_the_wrong_place_are_not_served(memo_dir: Path, key: Any, image: bytes) -> None:
    directory = namespace_dir(memo_dir)
    # Under another number nothing of it is valid; beside the original it changes nothing.
    shutil.copy(segment_path(directory, 1), segment_path(directory, 2))
    assert answers(memo_dir, key) == BODIES
    segment_path(directory, 1).unlink()
    assert answers(memo_dir, key) == [None] * len(BODIES)


def test_a_memo_carried_to_another_cache_serves_its_answers(
    memo_dir: Path, tmp_path: Path, key: Any, image: bytes
) -> None:
    shutil.copytree(memo_dir, tmp_path / "elsewhere")
    assert answers(tmp_path / "elsewhere", key) == BODIES


@pytest.mark.parametrize("whole", [True, False], ids=["packed", "half packed"])
def test_an_index_damaged_or_cut_anywhere_is_made_anew(
    memo_dir: Path, key: Any, whole: bool
) -> None:
    memo = Memo.open(memo_dir)
    for count, ((request, sample), body) in enumerate(zip(requests(key), BODIES, strict=True)):
        memo.put(request, sample, b"superseded")
        memo.put(request, sample, body)
        if count == 1 and not whole:
            memo._catalogue.pack()
    if whole:
        memo._catalogue.pack()
    memo.close()
    path = namespace_dir(memo_dir) / "index.adi"
    image = path.read_bytes()
    for bit in bits(image):
        damaged = bytearray(image)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert answers(memo_dir, key) == BODIES, bit
    for length in range(len(image)):
        path.write_bytes(image[:length])
        assert answers(memo_dir, key) == BODIES, length
    path.unlink()
    assert answers(memo_dir, key) == BODIES


def test_an_index_that_knows_too_much_serves_nothing_wrong(
    memo_dir: Path, key: Any, image: bytes
) -> None:
    memo = Memo.open(memo_dir)
    memo._catalogue.pack()
    memo.close()
    path = segment_path(namespace_dir(memo_dir), 1)
    for length in range(0, len(image), 11):
        path.write_bytes(image[:length])
        found = answers(memo_dir, key)
        assert all(answer in (None, body) for answer, body in zip(found, BODIES, strict=True))
    path.unlink()
    assert answers(memo_dir, key) == [None] * len(BODIES)


def test_a_cache_deleted_under_a_memo_costs_its_answers_and_nothing_more(
    memo_dir: Path, key: Any, open_memo: Callable[..., Memo]
) -> None:
    memo = open_memo()
    memo.put(key(1), 0, b"1")
    reader = open_memo()
    assert reader.get(key(1), 0) == b"1"
    shutil.rmtree(memo_dir)
    for each in (memo, reader):
        each.refresh()
        assert each.get(key(2), 0) is None
    memo.put(key(2), 0, b"2")
