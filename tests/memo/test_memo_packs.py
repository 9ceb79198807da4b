"""Answers in a pack: a run's own come along, durable, and never in the place of what is there."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from xxhash import xxh3_128_digest

from asyncdistil.batch import RunId
from asyncdistil.errors import CorruptRecord, FormatError, StorageError
from asyncdistil.log import LocalFiles, store_root
from asyncdistil.log.pack import PackReader, PackWriter
from asyncdistil.log.portable import portable
from asyncdistil.memo import Key, Memo, namespace_dir
from asyncdistil.memo.portable import (
    MEMBER,
    Answers,
    PackedAnswer,
    check_answers,
    take_in_answers,
    write_answers,
)
from asyncdistil.testing.disk import MemoryDisk

FIRST, SECOND, OTHER = (RunId(digit * 32) for digit in "123")
CACHE = Path("/cache")

Keys = Callable[..., Key]


def packed(target: Path, content: bytes | None) -> Path:
    """A pack that holds nothing but these frames of answers."""
    with closing(PackWriter(target)) as pack:
        if content is not None:
            pack.add(MEMBER, [content])
        pack.finish(pipeline="p", run=FIRST, store_id=bytes(16))
    return target


def framed(*answers: PackedAnswer) -> bytes:
    frames = map(msgspec.msgpack.encode, answers)
    return b"".join(struct.pack("<I", len(data)) + data for data in frames)


def answer(number: int, **fields: Any) -> PackedAnswer:
    usual = {
        "model": b"some model",
        "preimage": b"request %d" % number,
        "sample": 0,
        "run": xxh3_128_digest(FIRST.encode()),
        "body": b"answer %d" % number,
    }
    return PackedAnswer(**{**usual, **fields})


def put(cache: Path, run: str, *keys: Key, sample: int = 0) -> None:
    with closing(Memo.open(cache / "memo", run=run)) as memo:
        for key in keys:
            memo.put(key, sample, b"answer of " + key.preimage)


def test_a_pack_holds_the_answers_that_its_run_took_and_that_its_runs_wrote(
    make_run: Callable[..., Any], key: Keys, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    put(cache, OTHER, key("taken"), key("of nobody"))
    put(cache, OTHER, key("taken"), sample=1)
    put(cache, FIRST, key("of an earlier run"))
    put(cache, SECOND, key("its own"))
    reused = make_run(cache, "p", FIRST)
    make_run(cache, "p", SECOND, samples=[(key("taken").digest, 1)], reused=[reused])
    made = portable(store_root(cache, "p"), SECOND, LocalFiles())
    with closing(PackWriter(tmp_path / "pack")) as pack:
        assert write_answers(pack, made, cache, LocalFiles()) == 3
        pack.finish(pipeline="p", run=made.run, store_id=made.history.store_id)
    with closing(PackReader(tmp_path / "pack")) as reader:
        assert check_answers(reader) == 3
        for known in (0, 3):
            taken = take_in_answers(reader, tmp_path / "there", LocalFiles())
            assert taken == Answers(new=3 - known, known=known)
    with closing(Memo.open(tmp_path / "there" / "memo")) as memo:
        assert memo.get(key("taken"), 1) == b"answer of request taken"
        assert memo.get(key("of an earlier run")) is not None
        assert memo.get(key("its own")) is not None
        assert memo.get(key("taken"), 0) is memo.get(key("of nobody")) is None
        assert memo.statistics().models.keys() == {"some model"}
    # Whose they are comes along, so that a collection there knows what needs them.
    with closing(Memo.open(tmp_path / "there" / "memo", run=SECOND)) as memo:
        assert memo.get(key("its own"), own_run=True) is not None
        assert memo.get(key("of an earlier run"), own_run=True) is None


def test_an_answer_that_is_damaged_while_a_memo_is_open_is_left_out(
    key: Keys, tmp_path: Path
) -> None:
    put(tmp_path, FIRST, key("damaged"), key("sound"))
    with closing(Memo.open(tmp_path / "memo")) as memo:
        (path,) = memo.directory.glob("*.adm")
        image = path.read_bytes().replace(b"answer of request dam", b"answer of request DAM")
        path.write_bytes(image)
        assert [entry.body for _, entry in memo.entries()] == [b"answer of request sound"]


def test_a_cache_without_answers_makes_a_pack_without_them(
    make_run: Callable[..., Any], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    make_run(cache, "p", FIRST)
    made = portable(store_root(cache, "p"), "", LocalFiles())
    with closing(PackWriter(tmp_path / "pack")) as pack:
        assert write_answers(pack, made, cache, LocalFiles()) == 0
        pack.finish(pipeline="p", run=made.run, store_id=made.history.store_id)
    with closing(PackReader(tmp_path / "pack")) as reader:
        assert MEMBER not in reader.names()
        assert check_answers(reader) == 0
        assert take_in_answers(reader, tmp_path / "there", LocalFiles()) == Answers(0, 0)
    assert not (tmp_path / "there").exists()


def test_an_answer_that_is_here_is_never_replaced_by_that_of_a_pack(
    key: Keys, tmp_path: Path
) -> None:
    with closing(Memo.open(tmp_path / "memo")) as memo:
        memo.put(key(1), 0, b"paid for here")
    path = packed(tmp_path / "pack", framed(answer(1), answer(2), answer(1, sample=7)))
    with closing(PackReader(path)) as reader:
        assert take_in_answers(reader, tmp_path, LocalFiles()) == Answers(new=2, known=1)
    with closing(Memo.open(tmp_path / "memo")) as memo:
        assert memo.get(key(1)) == b"paid for here"
        assert memo.get(key(1), 7) == b"answer 1"
        assert memo.get(key(2)) == b"answer 2"


def test_answers_that_were_taken_in_survive_a_power_cut(
    key: Keys, tmp_path: Path, takes_all: Any
) -> None:
    path = packed(tmp_path / "pack", framed(*map(answer, range(20))))
    disk = MemoryDisk()
    with closing(PackReader(path)) as reader:
        assert take_in_answers(reader, CACHE, disk).new == 20
    assert disk.open_descriptors == 0
    with closing(Memo.open(CACHE / "memo", files=disk.after_power_cut(takes_all))) as memo:
        assert [memo.get(key(n)) for n in range(20)] == [b"answer %d" % n for n in range(20)]


def test_an_import_whose_answers_do_not_reach_the_disk_says_so(tmp_path: Path) -> None:
    path = packed(tmp_path / "pack", framed(answer(1)))
    disk = MemoryDisk()

    def refuse(act: str, where: Path) -> None:
        if act == "fdatasync" and where.suffix == ".adm":
            raise OSError(errno.EIO, "Input/output error")

    disk.before = refuse
    with (
        closing(PackReader(path)) as reader,
        pytest.raises(StorageError, match=r"\.adm can't be synced .*import again"),
    ):
        take_in_answers(reader, CACHE, disk)
    assert disk.open_descriptors == 0


HOSTILE: dict[str, tuple[bytes, type[Exception]]] = {
    "a length that is cut short": (framed(answer(1)) + b"\1\0", CorruptRecord),
    "a length behind the end": (framed(answer(1)) + b"\xff\xff\xff\xff123", CorruptRecord),
    "bytes that are no answer": (struct.pack("<I", 3) + b"\xc1\xc1\xc1", FormatError),
    "a deep nest of arrays": (struct.pack("<I", 5000) + b"\x91" * 5000, FormatError),
    "a model whose name is no text": (framed(answer(1, model=b"\xff")), FormatError),
    "a run of another length": (framed(answer(1, run=b"short")), FormatError),
    "a sample before the first": (framed(answer(1, sample=-1)), FormatError),
    "a sample that no pool has": (framed(answer(1, sample=1 << 32)), FormatError),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_answers_that_no_export_writes_are_refused_whole(tmp_path: Path, what: str) -> None:
    content, error = HOSTILE[what]
    path = packed(tmp_path / "pack", framed(answer(0)) + content)
    with closing(PackReader(path)) as reader, pytest.raises(error, match=str(path)):
        check_answers(reader)


def test_an_answer_can_be_put_under_no_other_request_than_its_own(
    key: Keys, tmp_path: Path
) -> None:
    """A forged answer names no digest: it is made of the request that the pack holds."""
    path = packed(tmp_path / "pack", framed(answer(1, model=b"another model")))
    with closing(PackReader(path)) as reader:
        assert check_answers(reader) == 1
        take_in_answers(reader, tmp_path, LocalFiles())
    with closing(Memo.open(tmp_path / "memo")) as memo:
        assert [n for n in range(5) if memo.get(key(n)) is not None] == [1]
    assert namespace_dir(tmp_path / "memo").exists()
