"""A Distiset in a directory, laid out as distilabel lays it out.

```text
<path>/<configuration>/…             what ``datasets`` writes for a DatasetDict
<path>/distiset_configs/README.md    the dataset card
                        pipeline.yaml, pipeline.log
                        asyncdistil.json   folder to configuration name, in order
<path>/artifacts/<step>/<name>/…     what steps saved
```

A configuration whose name cannot be a folder (``..``, ``a/b``) gets a folder with an escaped name.
"""

from __future__ import annotations

import atexit
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from asyncdistil.errors import DataError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

    from asyncdistil.distiset.distiset import Distiset

CONFIGS_FOLDER = "distiset_configs"
ARTIFACTS_FOLDER = "artifacts"
PIPELINE_FILE = "pipeline.yaml"
LOG_FILE = "pipeline.log"
CARD_FILE = "README.md"
_NAMES_FILE = "asyncdistil.json"
_PLAIN_NAME = re.compile(r"(?!\.)[\w.\-]{1,100}", re.ASCII)


class Sharding(NamedTuple):
    """How ``datasets`` cuts a split into files: size of one, number of them, processes."""

    max_shard_size: str | int | None
    num_shards: int | None
    num_proc: int | None


def save(
    distiset: Distiset,
    path: str,
    sharding: Sharding,
    storage_options: dict[str, Any],
    *,
    card: bool,
    pipeline: bool,
    log: bool,
) -> None:
    """Write everything below ``path``, a local path or a URL that fsspec knows."""
    path = path.rstrip("/")
    folders = {folder_name(config): config for config in distiset}
    for folder, config in folders.items():
        datasets = distiset[config]
        datasets.save_to_disk(
            f"{path}/{folder}", storage_options=storage_options, **_sharded(datasets, sharding)
        )
    files, root = _file_system(path, storage_options)
    configs = f"{root}/{CONFIGS_FOLDER}"
    files.makedirs(configs, exist_ok=True)
    files.pipe_file(f"{configs}/{_NAMES_FILE}", json.dumps({"configs": folders}).encode())
    if card:
        from asyncdistil.distiset.card import card_text

        text = card_text(distiset, Path(path).name)
        files.pipe_file(f"{configs}/{CARD_FILE}", text.encode())
    for wanted, source, name in (
        (pipeline, distiset.pipeline_path, PIPELINE_FILE),
        (log, distiset.log_filename_path, LOG_FILE),
    ):
        if wanted and source is not None and source.is_file():
            files.pipe_file(f"{configs}/{name}", source.read_bytes())
    artifacts = distiset.artifacts_path
    if artifacts is not None and artifacts.is_dir():
        _put_folder(files, artifacts, f"{root}/{ARTIFACTS_FOLDER}")


def _sharded(value: Any, sharding: Sharding) -> dict[str, Any]:
    """Arguments of ``save_to_disk`` for a Dataset or a DatasetDict."""
    splits = value if isinstance(value, dict) else {"": value}
    shards = dict.fromkeys(splits, sharding.num_shards)
    max_shard_size = sharding.max_shard_size
    for split, dataset in splits.items():
        if not len(dataset):
            # datasets writes no file for no rows, and then cannot load it. The two ways to say
            # how many files there should be exclude each other.
            shards[split], max_shard_size = 1, None
    return {
        "max_shard_size": max_shard_size,
        "num_shards": shards if isinstance(value, dict) else shards[""],
        "num_proc": sharding.num_proc,
    }


def load(
    distiset: Distiset,
    path: str,
    storage_options: dict[str, Any],
    *,
    keep_in_memory: bool | None,
    download_dir: Path | None,
) -> Distiset:
    """Fill an empty Distiset with what lies below ``path``.

    Raises:
        DataError: There is no such directory.
    """
    import datasets

    files, root = _file_system(path, storage_options)
    if not files.isdir(root):
        raise DataError(f"{path!r} is not a directory: give the one that save_to_disk wrote")
    local = Path(root)
    if not _is_local(files):
        local = download_dir or _temporary_directory()
        files.get(f"{root}/", f"{local}/", recursive=True)
    configs = local / CONFIGS_FOLDER
    for folder, config in _folders(local, configs / _NAMES_FILE).items():
        distiset[config] = datasets.load_from_disk(
            str(local / folder), keep_in_memory=keep_in_memory
        )
    if (configs / PIPELINE_FILE).is_file():
        distiset.pipeline_path = configs / PIPELINE_FILE
    if (configs / LOG_FILE).is_file():
        distiset.log_filename_path = configs / LOG_FILE
    if (local / ARTIFACTS_FOLDER).is_dir():
        distiset.artifacts_path = local / ARTIFACTS_FOLDER
    return distiset


def folder_name(config: str) -> str:
    """Folder of a configuration: its name where that is an ordinary one, else an escaped form."""
    if _PLAIN_NAME.fullmatch(config) and config not in (CONFIGS_FOLDER, ARTIFACTS_FOLDER):
        return config
    # "%" is in no plain name, so an escaped name never meets one.
    return "%" + quote(config, safe="", errors="backslashreplace").replace(".", "%2E")


def _folders(local: Path, names: Path) -> dict[str, str]:
    """Find the folder of each configuration; other programs have left no list of them."""
    listed = json.loads(names.read_bytes())["configs"] if names.is_file() else {}
    found = sorted(
        folder.name
        for folder in local.iterdir()
        if folder.is_dir() and folder.name not in (CONFIGS_FOLDER, ARTIFACTS_FOLDER)
    )
    known = {folder: config for folder, config in listed.items() if folder in found}
    return known | {folder: folder for folder in found if folder not in known}


def _file_system(path: str, storage_options: dict[str, Any]) -> tuple[AbstractFileSystem, str]:
    from fsspec.core import url_to_fs

    files, root = url_to_fs(path, **storage_options)
    return files, root.rstrip("/")


def _temporary_directory() -> Path:
    """Make a directory that lives as long as this process: its files stay mapped."""
    path = tempfile.mkdtemp(prefix="distiset-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return Path(path)


def _is_local(files: AbstractFileSystem) -> bool:
    protocol = files.protocol
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)


def _put_folder(files: AbstractFileSystem, source: Path, target: str) -> None:
    for path in sorted(source.rglob("*")):
        if path.is_file():
            place = f"{target}/{path.relative_to(source).as_posix()}"
            files.makedirs(place.rpartition("/")[0], exist_ok=True)
            files.put_file(str(path), place)
