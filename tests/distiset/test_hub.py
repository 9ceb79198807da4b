"""Pushing to the Hub, against a small one on this machine that keeps what it is given."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard

REPO = "me/data"
TOKEN = "hf_a_token_for_tests"
PROGRAM = """
import sys
from pathlib import Path
from asyncdistil.distiset import Distiset
here = Path(sys.argv[1])
distiset = Distiset.from_rows({"default": [{"a": 1}, {"a": 2}], "other": [{"b": "x"}]})
distiset.pipeline_path = here / "pipeline.yaml"
distiset.log_filename_path = here / "run.log"
distiset.artifacts_path = here / "made"
script = "script" in sys.argv
distiset.push_to_hub("me/data", private=True, token=sys.argv[2], include_script=script)
"""


class Hub(ThreadingHTTPServer):
    """Keeps the files of one repository."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Desk)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, bytes] = {}
        self.large: dict[str, bytes] = {}
        self.created: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()
        self.commits = 0

    @property
    def commit(self) -> str:
        return f"{self.commits:040x}"

    def tree(self, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
        """Files below a folder, and the folders in it."""
        prefix = f"{folder}/" if folder else ""
        entries: dict[str, dict[str, Any]] = {}
        for name, content in self.files.items():
            first, nested, _ = name.removeprefix(prefix).partition("/")
            if not name.startswith(prefix):
                continue
            if nested:
                path = f"{prefix}{first}"
                entries[path] = {"type": "directory", "path": path, "oid": self.commit}
            if recursive or not nested:
                file = {"type": "file", "path": name, "size": len(content), "oid": self.commit}
                entries[name] = file
        return list(entries.values())


class Desk(BaseHTTPRequestHandler):
    """The part of the Hub's API that pushing needs."""

    server: Hub
    protocol_version = "HTTP/1.1"
    # Or each reply waits 40 ms for the acknowledgement of its first half.
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.tokens.add(self.headers.get("Authorization"))
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            self._answer({"url": f"{self.server.address}/datasets/{REPO}", "name": REPO, "id": "1"})
        elif "/preupload/" in path:
            names = [each["path"] for each in json.loads(body)["files"]]
            self._answer({"files": [_upload_mode(name) for name in names]})
        elif path.endswith("/info/lfs/objects/batch"):
            asked = json.loads(body)["objects"]
            address = self.server.address
            objects = [
                {**each, "actions": {"upload": {"href": f"{address}/lfs/{each['oid']}"}}}
                for each in asked
            ]
            self._answer({"transfer": "basic", "objects": objects})
        elif "/commit/" in path:
            self.server.commits += 1
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.server.files[entry["value"]["path"]] = content
                elif entry["key"] == "lfsFile":
                    large = self.server.large[entry["value"]["oid"]]
                    self.server.files[entry["value"]["path"]] = large
            commit = self.server.commit
            url = f"{self.server.address}/datasets/{REPO}/commit/{commit}"
            self._answer({"commitUrl": url, "commitOid": commit, "pullRequestUrl": None})
        else:
            self._answer({})

    def do_PUT(self) -> None:
        oid = self.path.rpartition("/")[2]
        self.server.large[oid] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer({})

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if found := re.fullmatch(rf"/datasets/{REPO}/resolve/[^/]+/(.+)", path):
            content = self.server.files.get(found[1])
            if content is None:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            else:
                headers = {"ETag": f'"{sha1(content).hexdigest()}"'}
                self._send(200, content, headers | {"X-Repo-Commit": self.server.commit})
        elif found := re.fullmatch(rf"/api/datasets/{REPO}/tree/[^/]+/?(.*)", path):
            entries = self.server.tree(found[1], recursive="recursive=true" in query.lower())
            if entries or not found[1]:
                self._answer(entries)
            else:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        elif not self.server.created:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        else:
            info = {"id": REPO, "sha": self.server.commit, "private": True}
            self._answer({**info, "siblings": [], "tags": []})

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _upload_mode(name: str) -> dict[str, Any]:
    mode = "lfs" if name.endswith(".parquet") else "regular"
    return {"path": name, "uploadMode": mode, "shouldIgnore": False, "oid": None}


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def pushed(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files in the repository after the first push."""
    push(hub, tmp_path_factory.mktemp("first"))
    return dict(hub.files)


def push(hub: Hub, folder: Path, *arguments: str) -> None:
    """Push from a process of its own: the address of the Hub is read when it is imported."""
    (folder / "pipeline.yaml").write_text("pipeline: {}\n")
    (folder / "run.log").write_text("all went well\n")
    (folder / "made/step/plot").mkdir(parents=True, exist_ok=True)
    (folder / "made/step/plot/metadata.json").write_text("{}")
    (folder / "program.py").write_text(PROGRAM)
    subprocess.run(
        [sys.executable, str(folder / "program.py"), str(folder), TOKEN, *arguments],
        check=True,
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "0",
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(folder / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        },
    )


def test_a_push_brings_rows_card_pipeline_log_and_artifacts(
    hub: Hub, pushed: dict[str, bytes]
) -> None:
    rows = {
        name: pq.read_table(io.BytesIO(content)).to_pylist()
        for name, content in pushed.items()
        if name.endswith(".parquet")
    }
    assert rows == {
        "data/train-00000-of-00001.parquet": [{"a": 1}, {"a": 2}],
        "other/train-00000-of-00001.parquet": [{"b": "x"}],
    }
    assert pushed.keys() - rows.keys() - {".gitattributes"} == {
        "README.md", "pipeline.yaml", "pipeline.log", "artifacts/step/plot/metadata.json",
    }  # fmt: skip
    assert pushed["pipeline.yaml"] == b"pipeline: {}\n"
    created = hub.created[0]
    assert created.get("private") or created.get("visibility") == "private"
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert TOKEN.encode() not in b"".join(pushed.values())


def test_the_card_keeps_the_configurations_that_datasets_lists(pushed: dict[str, bytes]) -> None:
    card = DatasetCard(pushed["README.md"].decode())
    head = card.data.to_dict()
    assert [each["config_name"] for each in head["configs"]] == ["default", "other"]
    assert head["tags"] == ["synthetic", "asyncdistil"]
    assert f"curl -L -O https://huggingface.co/datasets/{REPO}/raw/main/pipeline.yaml" in card.text
    assert "\nasyncdistil run pipeline.yaml\n" in card.text


def test_pushing_again_changes_the_card_and_keeps_one_copy_of_it(
    tmp_path: Path, hub: Hub, pushed: dict[str, bytes]
) -> None:
    push(hub, tmp_path, "script")
    card = hub.files["README.md"].decode()
    assert card.count("## What is in it") == 1
    assert "`program.py`" in card
    assert hub.files["program.py"].decode() == PROGRAM
