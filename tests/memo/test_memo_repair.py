"""Repairing the memo: what is good of a damaged segment is kept, the rest is set aside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from asyncdistil.log import LocalFiles
from asyncdistil.log import record as log_record
from asyncdistil.log.record import FileHeader, FileKind, encode_file_header
from asyncdistil.memo import Key, Memo, namespace_dir
from asyncdistil.memo.entry import STORE_ID
from asyncdistil.memo.repair import examine_memo, repair_memo

ANSWERS = 20


def written(memo_dir: Path, key: Callable[[int], Key]) -> Path:
    with_answers = Memo.open(memo_dir)
    for number in range(ANSWERS):
        with_answers.put(key(number), 0, b"answer %d " % number * 40)
    with_answers.close()
    (path,) = namespace_dir(memo_dir).glob("*.adm")
    return path


def answers(memo_dir: Path, key: Callable[[int], Key]) -> list[int]:
    memo = Memo.open(memo_dir)
    found = [n for n in range(ANSWERS) if memo.get(key(n)) == b"answer %d " % n * 40]
    memo.close()
    return found


def test_a_sound_memo_is_left_as_it_is(memo_dir: Path, key: Callable[[int], Key]) -> None:
    path = written(memo_dir, key)
    before = path.read_bytes()
    assert repair_memo(memo_dir.parent, LocalFiles()) == []
    assert path.read_bytes() == before
    assert repair_memo(memo_dir.parent / "nowhere", LocalFiles()) == []


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_what_is_good_of_a_damaged_segment_is_kept_and_the_file_set_aside(
    memo_dir: Path, key: Callable[[int], Key], share: float
) -> None:
    path = written(memo_dir, key)
    image = bytearray(path.read_bytes())
    image[int(len(image) * share)] ^= 1
    path.write_bytes(image)
    files = LocalFiles()
    foreseen = examine_memo(memo_dir.parent, files)
    assert path.read_bytes() == image
    found = repair_memo(memo_dir.parent, files)
    assert found == foreseen
    assert [one.path for one in found] == [path]
    assert not path.exists()
    assert (path.parent / "quarantine" / path.name).read_bytes() == image
    assert examine_memo(memo_dir.parent, files) == []
    assert len(answers(memo_dir, key)) == ANSWERS - 1


def test_the_index_of_a_memo_that_was_repaired_knows_what_is_left(
    memo_dir: Path, key: Callable[[int], Key]
) -> None:
    path = written(memo_dir, key)
    image = bytearray(path.read_bytes())
    image[len(image) // 2] ^= 1
    path.write_bytes(image)
    beside = Memo.open(memo_dir)
    repair_memo(memo_dir.parent, LocalFiles())
    left = answers(memo_dir, key)
    assert [n for n in range(ANSWERS) if beside.get(key(n)) is not None] == left
    beside.close()


def test_a_segment_whose_maker_died_over_its_first_bytes_is_no_damage(
    memo_dir: Path, key: Callable[[int], Key]
) -> None:
    path = written(memo_dir, key)
    torn = path.with_name("0000000002.adm")
    torn.write_bytes(path.read_bytes()[:20])
    assert repair_memo(memo_dir.parent, LocalFiles()) == []
    assert torn.stat().st_size == 20
    assert answers(memo_dir, key) == list(range(ANSWERS))


def test_a_segment_of_a_newer_format_is_never_judged_or_set_aside(
    memo_dir: Path, key: Callable[[int], Key], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(memo_dir, key)
    newer = path.with_name("0000000002.adm")
    with monkeypatch.context() as patch:
        patch.setattr(log_record, "FORMAT_VERSION", 99)
        header, _ = encode_file_header(FileHeader(STORE_ID, FileKind.MEMO, 2))
    image = header + b"whatever that format has here" * 20
    newer.write_bytes(image)
    hurt = bytearray(path.read_bytes())
    hurt[len(hurt) // 2] ^= 1
    path.write_bytes(hurt)
    assert [one.number for one in repair_memo(memo_dir.parent, LocalFiles())] == [1]
    assert newer.read_bytes() == image
    assert len(answers(memo_dir, key)) == ANSWERS - 1
