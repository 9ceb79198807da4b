"""A Distiset goes to the Hugging Face Hub."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncdistil.distiset.card import card_text
from asyncdistil.distiset.disk import ARTIFACTS_FOLDER, CARD_FILE, LOG_FILE, PIPELINE_FILE
from asyncdistil.errors import DataError

if TYPE_CHECKING:
    from asyncdistil.distiset.distiset import Distiset


def push(
    distiset: Distiset,
    repo_id: str,
    *,
    private: bool,
    token: str | None,
    generate_card: bool,
    include_script: bool,
    **kwargs: Any,
) -> None:
    """Push the rows of each configuration, then all other files in one commit.

    Raises:
        DataError: The script is wanted, but this program was not started from a file.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    extra = _files(distiset)
    script = _running_script() if include_script else None
    if script is not None:
        extra[script.name] = script
    for config, value in distiset.items():
        value.push_to_hub(repo_id, config_name=config, private=private, token=token, **kwargs)
    operations = [
        CommitOperationAdd(path_in_repo=place, path_or_fileobj=path)
        for place, path in extra.items()
    ]
    revision = kwargs.get("revision")
    if generate_card:
        text = card_text(
            distiset,
            repo_id,
            hub=True,
            script=script.name if script else "",
            metadata=_card_head(repo_id, token, revision),
        )
        operations.append(CommitOperationAdd(CARD_FILE, text.encode()))
    if operations:
        HfApi(token=token).create_commit(
            repo_id,
            operations,
            repo_type="dataset",
            revision=revision,
            commit_message="Describe the dataset and the pipeline that made it",
        )


def _files(distiset: Distiset) -> dict[str, Path]:
    """Place in the repository to local file, for all that is not rows."""
    wanted = {PIPELINE_FILE: distiset.pipeline_path, LOG_FILE: distiset.log_filename_path}
    found = {place: path for place, path in wanted.items() if path is not None and path.is_file()}
    artifacts = distiset.artifacts_path
    if artifacts is not None:
        for path in sorted(artifacts.rglob("*")):
            if path.is_file():
                found[f"{ARTIFACTS_FOLDER}/{path.relative_to(artifacts).as_posix()}"] = path
    return found


def _running_script() -> Path:
    script = Path(sys.argv[0])
    if not script.is_file():
        message = "include_script needs a program that was started from a file, not interactively"
        raise DataError(message)
    return script.resolve()


def _card_head(repo_id: str, token: str | None, revision: str | None) -> dict[str, Any]:
    """Head of the card in the repository: ``datasets`` has just listed the configurations in it."""
    from huggingface_hub import DatasetCard, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        path = hf_hub_download(
            repo_id, CARD_FILE, repo_type="dataset", token=token, revision=revision
        )
    except EntryNotFoundError:
        return {}
    head: Any = DatasetCard(
        Path(path).read_text(encoding="utf-8"), ignore_metadata_errors=True
    ).data
    return dict(head.to_dict())
