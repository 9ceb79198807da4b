"""The memo on disks that refuse, beside others at odd moments, and with records forged or large."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from xxhash import xxh3_64_intdigest

from asyncdistil.batch import Digest
from asyncdistil.errors import StorageError
from asyncdistil.log import LocalFiles
from asyncdistil.log.record import FileKind, encode_record, file_seed
from asyncdistil.memo import (
    UNKNOWN,
    Key,
    Memo,
    Replies,
    RowMemo,
    catalogue,
    namespace_dir,
    segment,
    segment_path,
    shelf,
)
from asyncdistil.memo.entry import STORE_ID, MemoRecord, name_of
from asyncdistil.memo.packed import PLACE
from asyncdistil.memo.segment import segment_numbers
from asyncdistil.testing.disk import MemoryDisk

MEMO = Path("/cache/memo")


class Refusing(MemoryDisk):
    """A disk that refuses to read, list, open or write what a test names."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses: dict[str, Callable[[Path], bool]] = {}
        self.before = self._before

    def _before(self, act: str, path: Path) -> None:
        if (refuses := self.refuses.get(act)) is not None and refuses(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def listdir(self, path: Path) -> list[str]:
        self._before("listdir", path)
        return super().listdir(path)

    def open_read(self, path: Path) -> int:
        self._before("open_read", path)
        return super().open_read(path)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        self._before("pread", self._handles[fd].path)
        return super().pread(fd, size, offset)


def everything(_path: Path) -> bool:
    return True


def index(path: Path) -> bool:
    return path.suffix == ".adi" or ".adi." in path.name


@pytest.fixture
def disk() -> Refusing:
    return Refusing()


# --- disks that refuse ----------------------------------------------------------------------------


def test_a_memo_that_can_not_be_listed_is_refused_to_readers_and_writers(disk: Refusing) -> None:
    Memo.open(MEMO, files=disk).close()
    disk.refuses["listdir"] = everything
    for opening in (Memo.open, Memo.peek):
        with pytest.raises(StorageError, match="be opened"):
            opening(MEMO, files=disk)
    disk.refuses.clear()
    assert disk.open_descriptors == 0


def test_a_memo_that_stops_being_readable_forgets_and_says_so(
    disk: Refusing, key: Any, caplog: pytest.LogCaptureFixture
) -> None:
    memo = Memo.open(MEMO, files=disk)
    memo.put(key(1), 0, b"one")
    disk.refuses = {"pread": everything, "listdir": everything}
    assert memo.get(key(1), 0) is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert {"the disk can't read" in r.getMessage() for r in caplog.records} == {True, False}
    disk.refuses = {}
    assert memo.get(key(1), 0) == b"one"
    memo.close()


def test_a_segment_that_can_not_be_opened_is_passed_over_with_a_warning(
    disk: Refusing, key: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (1, 2):
        memo = Memo.open(MEMO, files=disk)
        memo.put(key(number), 0, b"%d" % number)
        memo.close()
    disk.refuses["open_read"] = lambda path: path.name == "0000000001.adm"
    memo = Memo.open(MEMO, files=disk)
    assert (memo.get(key(1), 0), memo.get(key(2), 0)) == (None, b"2")
    assert len(caplog.records) == 1
    disk.refuses.clear()
    memo.refresh()
    assert memo.get(key(1), 0) == b"1"  # it may have been for lack of descriptors
    memo.close()


def test_a_segment_that_is_tidied_away_as_it_is_opened_is_passed_over(
    disk: Refusing, key: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (1, 2):
        memo = Memo.open(MEMO, files=disk)
        memo.put(key(number), 0, b"%d" % number)
        memo.close()

    def goes(path: Path) -> bool:
        if path.name == "0000000001.adm":
            disk.unlink(path)
        return False

    disk.refuses["open_read"] = goes
    memo = Memo.open(MEMO, files=disk)
    assert (memo.get(key(1), 0), memo.get(key(2), 0)) == (None, b"2")
    assert not caplog.records
    memo.close()


def test_a_compaction_that_the_disk_refuses_loses_nothing(disk: Refusing, key: Any) -> None:
    for number in (1, 2):
        memo = Memo.open(MEMO, files=disk)
        memo.put(key(number), 0, b"%d" % number)
        memo.close()
    memo = Memo.open(MEMO, files=disk)
    for act in ("create", "writev", "fdatasync", "unlink", "fsync_dir"):
        disk.refuses = {act: everything}
        with pytest.raises(StorageError, match="be compacted"):
            memo.compact()
        disk.refuses = {}
        assert [memo.get(key(n), 0) for n in (1, 2)] == [b"1", b"2"], act
        fresh = Memo.open(MEMO, files=disk)
        assert [fresh.get(key(n), 0) for n in (1, 2)] == [b"1", b"2"], act
        fresh.close()
    memo.compact()
    assert [memo.get(key(n), 0) for n in (1, 2)] == [b"1", b"2"]
    memo.close()
    assert disk.open_descriptors == 0


def test_a_memo_leaves_an_index_when_that_is_worth_it_and_nothing_half_written(
    disk: Refusing, key: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "_PACK_AT_LEAST", 4)
    directory = namespace_dir(MEMO)

    def left() -> list[str]:
        return [name for name in disk.listdir(directory) if index(Path(name))]

    memo = Memo.open(MEMO, files=disk)
    for number in range(3):
        memo.put(key(number), 0, b"")
    memo.close()
    assert left() == []
    memo = Memo.open(MEMO, files=disk)
    memo.put(key(3), 0, b"")
    for act in ("writev", "replace"):
        disk.refuses = {act: index}
        memo._catalogue.pack_if_worthwhile()
        assert left() == []
    # Nor while somebody else tidies up, who would write one himself.
    disk.refuses = {}
    lock = disk.open_lock(directory / "LOCK")
    assert disk.try_lock(lock)
    memo.close()
    assert left() == []
    disk.close(lock)
    reader = Memo.peek(MEMO, files=disk)
    assert reader is not None
    assert reader.get(key(3), 0) == b""
    reader.close()
    assert left() == []  # who only looks leaves nothing
    Memo.open(MEMO, files=disk).close()
    assert left() == ["index.adi"]
    assert disk.open_descriptors == 0


def test_an_index_that_can_not_be_read_is_made_anew(
    disk: Refusing, key: Any, caplog: pytest.LogCaptureFixture
) -> None:
    memo = Memo.open(MEMO, files=disk)
    memo.put(key(1), 0, b"one")
    memo._catalogue.pack()
    memo.close()
    disk.refuses["pread"] = index
    memo = Memo.open(MEMO, files=disk)
    assert memo.get(key(1), 0) == b"one"
    assert "made anew" in caplog.text
    memo.close()
    assert disk.open_descriptors == 0


def test_there_is_nothing_to_peek_into_where_no_memo_is(disk: Refusing) -> None:
    assert Memo.peek(MEMO, files=disk) is None
    assert disk.files() == {}


# --- others at odd moments ------------------------------------------------------------------------


def test_who_writes_while_others_tidy_up_finds_their_answers_and_its_own(
    disk: Refusing, key: Any
) -> None:
    ended = Memo.open(MEMO, files=disk)
    ended.put(key("ended"), 0, b"of one that ended")
    ended.close()
    writer, tidy = Memo.open(MEMO, files=disk), Memo.open(MEMO, files=disk)
    writer.put(key("own"), 0, b"own")
    tidy.compact()
    writer.refresh()
    assert writer.get(key("own"), 0) == b"own"
    assert writer.get(key("ended"), 0) == b"of one that ended"
    writer.put(key("own"), 1, b"second")
    assert [writer.get(key("own"), sample) for sample in (0, 1)] == [b"own", b"second"]
    writer.close()
    tidy.close()


def test_an_answer_that_was_superseded_after_the_index_was_made_is_tidied_away(
    disk: Refusing, key: Any
) -> None:
    memo = Memo.open(MEMO, files=disk)
    for number in range(3):
        memo.put(key(number), 0, b"old")
    memo._catalogue.pack()
    memo.put(key(1), 0, b"new")
    assert (len(memo), memo.samples(key(1))) == (3, 1)
    memo.close()
    memo = Memo.open(MEMO, files=disk)
    assert memo.statistics().entries == 3
    assert memo.compact().kept == 3
    assert [memo.get(key(n), 0) for n in range(3)] == [b"old", b"new", b"old"]
    memo.close()


def test_an_index_that_is_written_after_others_tidied_up_names_no_segment_that_is_gone(
    disk: Refusing, key: Any
) -> None:
    for number in (1, 2):
        memo = Memo.open(MEMO, files=disk)
        memo.put(key(number), 0, b"%d" % number)
        memo._catalogue.pack()
        memo.close()
    late = Memo.open(MEMO, files=disk)
    disk.unlink(segment_path(namespace_dir(MEMO), 1))  # as a careless hand would
    late.refresh()
    late._catalogue.pack()
    assert late._catalogue.index.covered.keys() == {2}
    assert (late.get(key(1), 0), late.get(key(2), 0), len(late)) == (None, b"2", 1)
    late.close()


def test_what_another_has_just_replaced_is_found_where_it_is_now(disk: Refusing, key: Any) -> None:
    first = Memo.open(MEMO, files=disk)
    first.put(key(1), 0, b"old")
    first.close()
    reader, other = Memo.open(MEMO, files=disk), Memo.open(MEMO, files=disk)
    other.put(key(1), 0, b"new")
    # The place that the reader knows holds nothing any more.
    path = segment_path(namespace_dir(MEMO), 1)
    disk.put(path, disk.files()[path][:200] + bytes(200))
    assert reader.get(key(1), 0) == b"new"
    reader.close()
    other.close()


def test_an_answer_is_a_miss_if_others_tidy_up_faster_than_one_can_look(
    disk: Refusing, key: Any
) -> None:
    first = Memo.open(MEMO, files=disk)
    first.put(key(1), 0, b"one")
    first.close()
    reader, tidy = Memo.open(MEMO, files=disk), Memo.open(MEMO, files=disk)
    reader._shelf.close()
    open_read = disk.open_read
    moves = 0

    def move_first(path: Path) -> int:
        # Between the look at the index and the look at the segment it names, it is moved.
        nonlocal moves
        if path.suffix == ".adm":
            disk.open_read = open_read  # type: ignore[method-assign]
            tidy.compact()
            disk.open_read = move_first  # type: ignore[method-assign]
            moves += 1
        return open_read(path)

    disk.open_read = move_first  # type: ignore[method-assign]
    assert reader.get(key(1), 0) is None
    assert moves == 5
    disk.open_read = open_read  # type: ignore[method-assign]
    assert reader.get(key(1), 0) == b"one"
    reader.close()
    tidy.close()


def test_a_number_that_another_took_a_moment_before_is_passed_over(tmp_path: Path) -> None:
    directory = tmp_path

    class Late(LocalFiles):
        """Others make two files between the look at the directory and our own; one goes again."""

        def __init__(self) -> None:
            self.probes: list[int] = []

        def create(self, path: Path) -> int:
            if path.name == "0000000001.adm":
                os.close(super().create(path))
            return super().create(path)

        def try_lock(self, fd: int) -> bool:
            if not self.probes:  # a reader holds the lock for a moment, to see who writes
                self.probes.append(os.open(directory / "0000000002.adm", os.O_RDONLY))
                assert super().try_lock(self.probes[0])
                return super().try_lock(fd)
            os.close(self.probes.pop())
            self.probes.append(-1)
            if (directory / "0000000003.adm").exists():
                return super().try_lock(fd)
            # Somebody who clears up takes the empty file for that of a dead process.
            os.unlink(directory / "0000000002.adm")
            return super().try_lock(fd)

    class Once(Late):
        def try_lock(self, fd: int) -> bool:
            return LocalFiles.try_lock(self, fd) if -1 in self.probes else super().try_lock(fd)

    files = Once()
    writer = segment.MemoWriter.create(files, directory)
    assert writer.number == 3
    assert segment_numbers(files, directory) == [1, 3]
    writer.close()


def test_many_segments_are_read_with_few_descriptors(
    disk: Refusing, key: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf, "_OPEN_FILES", 2)
    for number in range(6):
        memo = Memo.open(MEMO, files=disk)
        memo.put(key(number), 0, b"%d" % number)
        memo.close()
    memo = Memo.open(MEMO, files=disk)
    for _ in range(2):
        assert [memo.get(key(n), 0) for n in range(6)] == [b"%d" % n for n in range(6)]
        assert disk.open_descriptors <= 2
    assert memo.compact().kept == 6
    assert [memo.get(key(n), 0) for n in range(6)] == [b"%d" % n for n in range(6)]
    memo.close()
    assert disk.open_descriptors == 0


# --- large and forged records ---------------------------------------------------------------------


def test_answers_larger_than_a_look_are_found_and_damage_before_them_is_passed_over(
    disk: Refusing, key: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "_WINDOW_BYTES", 600)
    monkeypatch.setattr(segment, "_SEARCH_BYTES", 700)
    bodies = {number: bytes([number]) * (300 * number) for number in range(1, 7)}
    memo = Memo.open(MEMO, files=disk)
    for number, body in bodies.items():
        memo.put(key(number), 0, body)
    memo.close()

    def found() -> set[int]:
        fresh = Memo.open(MEMO, files=disk)
        got = {n for n, body in bodies.items() if fresh.get(key(n), 0) == body}
        fresh.close()
        return got

    assert found() == bodies.keys()
    path = segment_path(namespace_dir(MEMO), 1)
    image = disk.files()[path]
    for number, body in bodies.items():
        damaged = bytearray(image)
        damaged[image.index(body) + 1] ^= 1
        disk.put(path, bytes(damaged))
        assert found() == bodies.keys() - {number}


def test_what_looks_like_a_record_behind_damage_is_not_believed_by_its_header(
    disk: Refusing, key: Any
) -> None:
    memo = Memo.open(MEMO, files=disk)
    memo.put(key(1), 0, b"one")
    at = len(disk.files()[segment_path(namespace_dir(MEMO), 1)])
    # An answer that holds a whole record of this very file, which belongs elsewhere; and one that
    # holds the header alone of a record that would be in its place.
    seed = file_seed(STORE_ID, FileKind.MEMO, 1)
    elsewhere = b"".join(encode_record(seed, MemoRecord.ENTRY, 8, b"x" * 80)[:2])
    memo.put(key(2), 0, elsewhere)
    memo.put(key(3), 0, b"three")
    memo.close()
    path = segment_path(namespace_dir(MEMO), 1)
    image = bytearray(disk.files()[path])
    inner = image.index(elsewhere)
    header, _, _, _ = encode_record(seed, MemoRecord.ENTRY, inner + 80, b"y" * 40)
    image[inner + 80 : inner + 80 + len(header)] = header
    image[at] ^= 1
    disk.put(path, bytes(image))
    memo = Memo.open(MEMO, files=disk)
    assert [memo.get(key(n), 0) for n in (1, 2, 3)] == [b"one", None, b"three"]
    memo.close()


def test_preimages_are_kept_in_mind_up_to_a_limit_and_written_again_beyond_it(
    disk: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "_REMEMBERED_BYTES", 2500)
    keys = [Key.of(b"%d" % n * 1000, model="m") for n in range(4)]
    memo = Memo.open(MEMO, files=disk)
    path = segment_path(namespace_dir(MEMO), 1)
    for wanted in keys:
        memo.put(wanted, 0, b"first")
    sizes = []
    for wanted in (keys[3], keys[0]):
        before = len(disk.files()[path])
        memo.put(wanted, 1, b"second")
        sizes.append(len(disk.files()[path]) - before)
    assert sizes[0] < 1000 < sizes[1]
    memo.close()
    fresh = Memo.open(MEMO, files=disk)
    assert [fresh.get(wanted, 0) for wanted in keys] == [b"first"] * 4
    assert [fresh.get(keys[n], 1) for n in (3, 0)] == [b"second"] * 2
    fresh.close()


def test_places_of_an_index_that_lead_elsewhere_serve_nothing(disk: Refusing, key: Any) -> None:
    memo = Memo.open(MEMO, files=disk)
    memo.put(key(1), 0, b"one")
    at, length = 168, memo._catalogue.index.find(name_of(key(1).digest, 0))
    assert length is not None
    number, entry_at, entry_length = PLACE.unpack(length)
    model_length = entry_at - (at >> 3)
    places = {
        "of the model's record": (number, at >> 3, model_length),
        "too short for a header": (number, entry_at, 8),
        "too short": (number, entry_at, entry_length - 1),
        "in a segment that is missing": (number + 9, entry_at, entry_length),
    }
    for place in places.values():
        memo._catalogue.index.put(name_of(key(1).digest, 0), PLACE.pack(*place))
        assert memo._shelf.entry(PLACE.pack(*place)) is None
        assert memo.get(key(1), 0) is None
    assert memo._shelf.first(number + 9, 168) is None
    assert memo._shelf.model(number, entry_at << 3) is None
    memo._catalogue.index.put(name_of(key(1).digest, 0), length)
    assert memo.get(key(1), 0) == b"one"
    memo.close()


def test_a_lost_model_record_leaves_its_answers_and_takes_their_readable_name(
    disk: Refusing, key: Any
) -> None:
    memo = Memo.open(MEMO, files=disk)
    memo.put(key(1, "some model"), 0, b"one")
    memo.close()
    path = segment_path(namespace_dir(MEMO), 1)
    image = disk.files()[path]
    memo = Memo.open(MEMO, files=disk)
    at = image.index(b"some model")
    for wrong in (b"same model", image[at : at + 10]):
        body = image[:at] + wrong + image[at + 10 :]
        # A header of a newer format, with hashes that fit, says nothing about its length either.
        disk.put(path, body if wrong == b"same model" else _newer(image))
        assert memo.get(key(1, "some model"), 0) == b"one"
        assert list(memo.statistics().models) != ["some model"]
    memo.close()


def _newer(image: bytes) -> bytes:
    """The segment with its model's record carrying a flag that nobody knows yet."""
    head = bytearray(image[168:240])
    head[5] = 0x80
    seed = (file_seed(STORE_ID, FileKind.MEMO, 1) + 168 * 0x9E3779B97F4A7C15) % 2**64
    head[64:] = xxh3_64_intdigest(bytes(head[:64]), seed).to_bytes(8, "little")
    return image[:168] + bytes(head) + image[240:]


def test_forged_entries_and_models_say_nothing(
    disk: Refusing, key: Any, caplog: pytest.LogCaptureFixture
) -> None:
    memo = Memo.open(MEMO, files=disk)
    memo.put(key(1), 0, b"one")
    memo.close()
    path = segment_path(namespace_dir(MEMO), 1)
    image = disk.files()[path]
    seed = file_seed(STORE_ID, FileKind.MEMO, 1)
    for kind, meta, body in (
        (MemoRecord.ENTRY, b"too short", b""),
        (MemoRecord.MODEL, b"", b"\xff"),
    ):
        image += b"".join(encode_record(seed, kind, len(image), body, meta=meta)[:2])
    disk.put(path, image)
    memo = Memo.open(MEMO, files=disk)
    assert "it was forged" in caplog.text
    assert (len(memo), memo.get(key(1), 0)) == (1, b"one")
    assert memo._shelf.model(1, image.rindex(b"ADDC")) is None
    memo.close()


def test_a_name_that_begins_within_an_entry_of_the_index_is_not_that_entry(disk: Refusing) -> None:
    # The tail of one digest and the beginning of its place make the digest of another.
    memo = Memo.open(MEMO, files=disk)
    first = Digest(bytes(15) + b"\x07")
    memo.put(Key(first, b"first", "m"), 0, b"first")
    memo._catalogue.pack()
    (entry,) = memo._catalogue.index._packed.items()
    for start in range(1, 12):
        other = Key(Digest(entry[start : start + 16]), b"other", "m")
        sample = int.from_bytes(entry[start + 16 : start + 20], "big")
        assert memo.get(other, sample) is None
    assert memo.get(Key(first, b"first", "m"), 0) == b"first"
    memo.close()


@pytest.mark.parametrize("meta", [b"\xc1", msgspec.msgpack.encode([1, 2])])
def test_an_index_that_says_nonsense_or_is_of_a_newer_format_is_made_anew(
    disk: Refusing, key: Any, meta: bytes
) -> None:
    memo = Memo.open(MEMO, files=disk)
    memo.put(key(1), 0, b"one")
    memo._catalogue.pack()
    memo.close()
    path = namespace_dir(MEMO) / "index.adi"
    seed = file_seed(STORE_ID, FileKind.MEMO, 0)
    head, payload, _, _ = encode_record(seed, 146, 0, b"", meta=meta)
    newer = bytearray(disk.files()[path])
    newer[5] = 0x80
    newer[64:72] = xxh3_64_intdigest(bytes(newer[:64]), seed).to_bytes(8, "little")
    for image in (head + payload, bytes(newer)):
        disk.put(path, image)
        memo = Memo.open(MEMO, files=disk)
        assert memo.get(key(1), 0) == b"one"
        memo.close()


class Answer(msgspec.Struct, array_like=True):
    text: str


def test_a_reply_that_was_never_asked_for_is_none(open_memo: Callable[..., Memo], key: Any) -> None:
    replies = Replies(open_memo(), Answer)
    assert replies.get(key(1), 0) is None
    replies.put(key(1), 0, Answer("a"))
    assert replies.get(key(1), 0) == Answer("a")


def test_a_stored_row_that_can_not_be_read_is_made_anew(
    open_memo: Callable[..., Memo], caplog: pytest.LogCaptureFixture
) -> None:
    memo = open_memo()
    rows = RowMemo(memo, step="Length", signature=Digest(bytes(16)), columns=["a"])
    wanted = rows.key({"a": 1})
    assert wanted is not None
    memo.put(wanted, 0, b"\xc1")
    assert repr(rows.get(wanted)) == "UNKNOWN"
    assert rows.get(wanted) is UNKNOWN
    assert "made anew" in caplog.text
    assert rows.put(wanted, {"a": 1, "b": 2})
    assert rows.get(wanted) == {"a": 1, "b": 2}
