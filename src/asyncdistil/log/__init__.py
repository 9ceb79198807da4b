"""The write-ahead log: commit log, segments, recovery. Bytes are described in ``FORMAT.md``."""

from asyncdistil.log.failpoint import failpoint
from asyncdistil.log.files import Files, LocalFiles
from asyncdistil.log.group_sync import Mode
from asyncdistil.log.names import label_store, name_digest, store_root, stores
from asyncdistil.log.segment import SegmentReader, SegmentWriter, segment_path
from asyncdistil.log.store import OnCorruption, Store
from asyncdistil.log.store_reader import StoreReader

__all__ = [
    "Files",
    "LocalFiles",
    "Mode",
    "OnCorruption",
    "SegmentReader",
    "SegmentWriter",
    "Store",
    "StoreReader",
    "failpoint",
    "label_store",
    "name_digest",
    "segment_path",
    "store_root",
    "stores",
]
