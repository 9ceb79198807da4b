"""Which revision of a hub dataset a name stands for. Imports huggingface_hub when called."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from xxhash import xxh3_128_hexdigest

from asyncdistil.codec import canonical_bytes
from asyncdistil.errors import DataError

_COMMIT = re.compile(r"[0-9a-f]{40}")
_REQUEST_SECONDS = 10.0
_log = logging.getLogger("asyncdistil.hub")


def resolve_revision(repo_id: str, revision: str | None) -> str:
    """Return the commit that a revision of a dataset stands for now.

    When the hub can't be reached the last commit that was loaded here is used, and a warning
    names it.

    Args:
        repo_id: Such as ``org/name``.
        revision: Branch, tag or commit; ``None`` for the main branch.

    Returns:
        40 hex digits.

    Raises:
        DataError: There is no such dataset or revision, or you may not read it, or the hub can't
            be reached and it was never loaded here.
    """
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    try:
        return _ask(repo_id, revision)
    except DataError:
        raise
    except Exception as error:  # offline, refused, timed out, 5xx: each client has its classes
        try:
            commit = _record_of(repo_id, revision).read_text(encoding="ascii").strip()
        except OSError:
            raise DataError(
                f"the hub can't be reached to find dataset {repo_id!r} and it was never loaded "
                f"here before ({type(error).__name__}): connect, or use LoadDataFromDisk"
            ) from error
        _log.warning(
            "the hub can't be reached (%s): dataset %r is used at commit %s, "
            "the last one loaded here",
            type(error).__name__,
            repo_id,
            commit,
        )
        return commit


def remember_revision(repo_id: str, revision: str | None, commit: str) -> None:
    """Record in the cache of ``datasets`` that a commit was loaded, for when there is no hub."""
    record = _record_of(repo_id, revision)
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        draft = record.with_name(f"{record.name}.{os.getpid()}")
        draft.write_text(commit, encoding="ascii")
        draft.replace(record)
    except OSError as error:
        # Only the way back when offline is lost; the data itself is there.
        _log.warning("the commit of a hub dataset could not be recorded: %s", error)


def refuse_other_commit(repo_id: str, commit: str, found: str) -> None:
    """Check that the data at hand is of the commit that names it.

    Without the hub, ``datasets`` gives whatever version it has; under the name of another commit
    that would be stale data.

    Args:
        repo_id: Such as ``org/name``.
        commit: What was resolved.
        found: Hash of the builder: a commit, or another kind of hash for datasets with a script.

    Raises:
        DataError: It is of another commit.
    """
    if _COMMIT.fullmatch(found) and found != commit:
        raise DataError(
            f"commit {commit} of dataset {repo_id!r} is not here and the hub can't be reached: "
            f"connect, or give revision={found!r}, which is here"
        )


def _ask(repo_id: str, revision: str | None) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        info = HfApi().dataset_info(repo_id, revision=revision, timeout=_REQUEST_SECONDS)
    except HFValidationError as error:
        raise DataError(f"{repo_id!r} is no name of a hub dataset: {error}") from error
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403, 404):
            at = f" at revision {revision!r}" if revision else ""
            raise DataError(
                f"the hub has no dataset {repo_id!r}{at} that you may read: check the name, and "
                f"HF_TOKEN if it is private or gated"
            ) from None
        raise
    if not info.sha:
        raise DataError(f"the hub names no commit for dataset {repo_id!r}: give revision=")
    return str(info.sha)


def _record_of(repo_id: str, revision: str | None) -> Path:
    from datasets import config

    key = canonical_bytes("asyncdistil/hub revision/1", [repo_id, revision])
    folder = Path(config.HF_DATASETS_CACHE).expanduser() / "asyncdistil-revisions"
    return folder / xxh3_128_hexdigest(key)
