"""The memo: answers and rows that were paid for once, found again by their content."""

from asyncdistil.memo.key import Key
from asyncdistil.memo.memo import Memo
from asyncdistil.memo.replies import Replies
from asyncdistil.memo.rows import UNKNOWN, RowMemo
from asyncdistil.memo.segment import namespace_dir, segment_path
from asyncdistil.memo.tidy import Compaction, EntryInfo, ModelShare, Statistics

__all__ = [
    "UNKNOWN",
    "Compaction",
    "EntryInfo",
    "Key",
    "Memo",
    "ModelShare",
    "Replies",
    "RowMemo",
    "Statistics",
    "namespace_dir",
    "segment_path",
]
