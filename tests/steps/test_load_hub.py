"""`LoadDataFromHub` against a hub of our own on the loopback interface."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import pytest

REPO = "org/numbers"
FILE = "data.jsonl"


class Hub(ThreadingHTTPServer):
    """One dataset with several commits; speaks as much of the hub's API as loading needs."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.commits: dict[str, bytes] = {}
        self.main = ""

    def commit(self, rows: list[dict[str, Any]]) -> str:
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        self.main = hashlib.sha1(content).hexdigest()
        self.commits[self.main] = content
        return self.main

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Or each reply waits 40 ms for the acknowledgement of its first half.
    disable_nagle_algorithm = True
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: Any, status: int = 200, **headers: str) -> None:
        self._send(json.dumps(value).encode(), status, Content_Type="application/json", **headers)

    def _entry(self, commit: str) -> dict[str, Any]:
        content = self.server.commits[commit]
        oid = hashlib.sha1(content).hexdigest()
        return {"type": "file", "path": FILE, "size": len(content), "oid": oid}

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length).decode() if length else ""
        path = unquote(urlsplit(self.path).path)
        api, resolve = f"/api/datasets/{REPO}", f"/datasets/{REPO}/resolve/"
        commit = next((c for c in self.server.commits if c in path), self.server.main)
        known = path in (api, f"{api}/revision/main") or commit in path
        if path.startswith(api) and known:
            if "/tree/" in path:
                self._json([self._entry(commit)])
            elif "/paths-info/" in path:
                self._json([self._entry(commit)] if FILE in body else [])
            else:
                siblings = [{"rfilename": FILE}]
                self._json({"id": REPO, "sha": commit, "siblings": siblings, "tags": []})
        elif path.startswith(resolve) and path.endswith(f"/{FILE}"):
            content = self.server.commits[commit]
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            headers = {"X_Repo_Commit": commit, "ETag": etag, "Accept_Ranges": "bytes"}
            span = self.headers.get("Range")
            if span and self.command == "GET":
                first, _, last = span.removeprefix("bytes=").partition("-")
                start, stop = int(first), min(int(last or len(content)) + 1, len(content))
                headers["Content_Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
                self._send(content[start:stop], 206, **headers)
            else:
                self._send(content, **headers)
        else:
            code = "EntryNotFound" if path.startswith(resolve) else "RepoNotFound"
            self._json({"error": "not found"}, 404, X_Error_Code=code)

    do_GET = do_HEAD = do_POST = _handle


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


LOAD = """
import json, logging, sys
from asyncdistil.errors import DataError
from asyncdistil.steps import LoadDataFromHub
logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
out = []
for arguments in json.loads(sys.argv[1]):
    step = LoadDataFromHub(batch_size=2, **arguments)
    try:
        identity = step.data_identity().hex()
        columns = step.outputs
        step.load()
        made = list(step.process())
        rest = [row for rows, _ in step.process(offset=2) for row in rows]
        rows = [row for rows, _ in made for row in rows]
        out.append([identity, step.resolved_revision, columns, rows, rest, made[-1][1]])
    except DataError as error:
        out.append(str(error))
print(json.dumps(out))
"""


def load(url: str, home: Path, *arguments: dict[str, Any], **env: str) -> tuple[list[Any], str]:
    """Load in a process of its own, because the hub's address is read at import."""
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))},
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        **env,
    }
    done = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    out: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return out, done.stderr


ROWS = [{"n": n} for n in range(5)]
NEWER = [{"n": 9}]


class Loaded(NamedTuple):
    """What two processes loaded, before and after a commit."""

    home: Path
    old: str
    new: str
    before: list[Any]
    after: list[Any]


@pytest.fixture(scope="module")
def loaded(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """A start of a process takes longer than all that one of them loads, so there are few."""
    place = tmp_path_factory.mktemp("hub")
    folders = []
    for number, rows in enumerate([ROWS, ROWS, ROWS[1:]]):
        folder = place / str(number)
        folder.mkdir()
        (folder / FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
        folders.append({"repo_id": str(folder)})
    home = place / "home"
    old = hub.commit(ROWS)
    before, _ = load(
        hub.url,
        home,
        {"repo_id": REPO},
        {"repo_id": REPO, "streaming": True},
        {"repo_id": REPO, "num_examples": 3},
        {"repo_id": "org/other"},
        {},
        {"repo_id": REPO, "split": "test"},
        *folders,
    )
    new = hub.commit(NEWER)
    after, _ = load(hub.url, home, {"repo_id": REPO, "revision": old}, {"repo_id": REPO})
    return Loaded(home, old, new, before, after)


def test_a_hub_dataset_is_loaded_at_the_resolved_commit(loaded: Loaded) -> None:
    first, streamed, few = loaded.before[:3]
    assert first[1:] == [loaded.old, first[2], ROWS, ROWS[2:], True]
    assert streamed[3:] == [ROWS, ROWS[2:], True]
    assert few[3:] == [ROWS[:3], ROWS[2:3], True]
    assert first[0] != few[0]

    pinned, moved = loaded.after
    assert (moved[1], moved[3]) == (loaded.new, NEWER)
    assert (pinned[1], pinned[3]) == (loaded.old, ROWS)
    assert moved[0] != pinned[0] == first[0]


def test_offline_the_last_commit_loaded_is_used_and_named(
    hub: Hub, loaded: Loaded, tmp_path: Path
) -> None:
    unseen = hub.commit([{"n": 10}])
    (offline, other), log = load(
        hub.url,
        loaded.home,
        {"repo_id": REPO},
        {"repo_id": REPO, "revision": unseen},
        HF_HUB_OFFLINE="1",
    )
    assert offline[:2] == loaded.after[1][:2]
    assert offline[3] == NEWER
    assert f"is used at commit {loaded.new}, the last one loaded here" in log
    # `datasets` itself would give the rows of the other commit here.
    assert f"commit {unseen} of dataset {REPO!r} is not here" in other
    (refused,), _ = load(hub.url, tmp_path / "new", {"repo_id": REPO}, HF_HUB_OFFLINE="1")
    assert "was never loaded here before" in refused


def test_an_unknown_dataset_and_a_missing_name_are_refused(loaded: Loaded) -> None:
    unknown, unnamed, split = loaded.before[3:6]
    assert "the hub has no dataset 'org/other' that you may read" in unknown
    assert "give it repo_id=" in unnamed
    assert "can't be loaded" in split


def test_a_local_folder_is_loaded_and_named_by_content(loaded: Loaded) -> None:
    made = loaded.before[6:]
    assert [rows for _, _, _, rows, _, _ in made] == [ROWS, ROWS, ROWS[1:]]
    assert made[0][0] == made[1][0] != made[2][0]
