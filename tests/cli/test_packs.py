"""A dataset is packed here and taken in elsewhere, where nobody has a key, a model or a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.cli import packed
from asyncdistil.cli.ending import exit_code_of
from asyncdistil.errors import AsyncDistilError
from asyncdistil.testing import ModelServer

Invoke = Callable[..., "subprocess.CompletedProcess[str]"]

SCRIPT = """
import json, os, sys
from asyncdistil.models import OpenAILLM
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromFileSystem, StepInput, StepOutput, step
from asyncdistil.steps.tasks import TextGeneration


@step(inputs=["generation"], outputs=["length"])
def measure(inputs: StepInput) -> StepOutput:
    for row in inputs:
        row["length"] = len(row["generation"])
    yield inputs


with Pipeline("carried") as pipeline:
    load = LoadDataFromFileSystem(name="load", data_files="questions.jsonl", batch_size=4)
    ask = TextGeneration(
        name="ask",
        llm=OpenAILLM(model="m", base_url="%(url)s", generation_kwargs={"temperature": 0.5}),
        input_batch_size=4,
    )
    load >> ask >> measure(name="measure")

distiset = pipeline.run()
table = distiset["default"]["train"]
print(json.dumps({
    "hit": distiset.report["hit"],
    "fingerprint": table._fingerprint,
    "rows": [[row["instruction"], row["generation"], row["length"]] for row in table],
    "modules": [name for name in ("openai", "torch", "transformers") if name in sys.modules],
    "key": "OPENAI_API_KEY" in os.environ,
}))
"""

DENYING = """
import os, runpy, sys

DENIED = ("socket.connect", "socket.bind", "socket.getaddrinfo", "subprocess.Popen", "os.fork",
          "os.posix_spawn", "os.exec", "os.system")


def deny(event, arguments):
    if event in DENIED and not (event == "socket.bind" and arguments[1] == ""):
        raise PermissionError(f"{event}{arguments!r} is denied here")


sys.addaudithook(deny)
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def asked(invoke: Invoke, *arguments: str | Path) -> dict[str, Any]:
    done = invoke(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def asked_of(server: ModelServer) -> int:
    return sum(request.path.endswith("/chat/completions") for request in server.requests)


def run_script(
    path: Path, cache: Path, *, denied: bool, key: str = ""
) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    environment = {**kept, "ASYNCDISTIL_CACHE_DIR": str(cache)}
    if key:
        environment["OPENAI_API_KEY"] = key
    first = ["-c", DENYING] if denied else []
    return subprocess.run(
        [sys.executable, *first, path.name],
        cwd=path.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


@pytest.fixture(scope="module")
def here(
    tmp_path_factory: pytest.TempPathFactory, server: ModelServer
) -> tuple[Path, dict[str, Any]]:
    """A folder with a script, its data and its cache, after a run; and what the run printed."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "script.py").write_text(SCRIPT % {"url": server.url})
    (folder / "questions.jsonl").write_text(
        "".join(json.dumps({"instruction": f"Question {n}?"}) + "\n" for n in range(10))
    )
    done = run_script(folder / "script.py", folder / "cache", denied=False, key="a secret key")
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def pack(here: tuple[Path, dict[str, Any]]) -> Path:
    folder, _ = here
    target = folder / "carried.adpack"
    subprocess.run(
        [
            Path(sys.executable).with_name("asyncdistil"),
            *("cache", "export", "carried", "--cache-dir", folder / "cache", "--to", target),
        ],
        check=True,
        capture_output=True,
        timeout=100,
    )
    return target


def test_a_script_gets_the_very_dataset_elsewhere_without_key_network_or_process(
    invoke_here: Invoke, here: tuple[Path, dict[str, Any]], pack: Path, tmp_path: Path
) -> None:
    folder, made = here
    assert not made["hit"]
    assert made["key"]
    there = tmp_path / "there"
    there.mkdir()
    for name in ("script.py", "questions.jsonl"):
        (there / name).write_bytes((folder / name).read_bytes())
    taken = asked(invoke_here, "cache", "import", pack, "--cache-dir", there / "cache")
    assert taken["answers_written"] == 10
    assert taken["datasets_written"] == 1

    done = run_script(there / "script.py", there / "cache", denied=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {**made, "hit": True, "key": False, "modules": []}
    assert b"a secret key" not in pack.read_bytes()
    # Without the pack, the hook does what it says.
    refused = run_script(there / "script.py", there / "empty", denied=True)
    assert refused.returncode != 0
    assert "denied" in refused.stderr


def test_what_was_taken_in_is_reused_like_work_of_ones_own(
    invoke_here: Invoke,
    here: tuple[Path, dict[str, Any]],
    pack: Path,
    tmp_path: Path,
    server: ModelServer,
) -> None:
    """A step is changed: the answers come out of the rows that were carried; nobody is asked."""
    folder, made = here
    before = asked_of(server)
    script = (folder / "script.py").read_text()
    (tmp_path / "questions.jsonl").write_bytes((folder / "questions.jsonl").read_bytes())
    (tmp_path / "script.py").write_text(script.replace("len(row", "-len(row"))
    asked(invoke_here, "cache", "import", pack, "--cache-dir", tmp_path / "cache")
    done = run_script(tmp_path / "script.py", tmp_path / "cache", denied=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["rows"] == [[q, a, -length] for q, a, length in made["rows"]]
    # Another pipeline has no rows: it gets the answers from the memo.
    (tmp_path / "script.py").write_text(script.replace('"carried"', '"renamed"'))
    done = run_script(tmp_path / "script.py", tmp_path / "cache", denied=False, key="another")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["rows"] == made["rows"]
    assert asked_of(server) == before


def test_equal_runs_make_equal_packs_and_a_second_import_changes_nothing(
    invoke_here: Invoke, here: tuple[Path, dict[str, Any]], pack: Path, tmp_path: Path
) -> None:
    folder, _ = here
    again = asked(
        invoke_here,
        *("cache", "export", "carried", "--cache-dir", folder / "cache"),
        *("--to", tmp_path / "again"),
    )
    assert (tmp_path / "again").read_bytes() == pack.read_bytes()
    cache = tmp_path / "cache"
    whole = ("cache", "import", pack, "--cache-dir", cache, "--sha256", again["sha256"])
    assert not asked(invoke_here, *whole)["known"]
    before = {path: path.read_bytes() for path in cache.rglob("*.a*") if path.is_file()}
    second = asked(invoke_here, *whole)
    assert second["known"]
    assert (second["commits_written"], second["datasets_written"]) == (0, 0)
    assert (second["answers_written"], second["answers_known"]) == (0, 10)
    after = {path: path.read_bytes() for path in cache.rglob("*.a*") if path.is_file()}
    rows = {path for path in before if path.suffix in {".ads", ".arrow", ".adm"}}
    assert {path: before[path] for path in rows} == {path: after[path] for path in rows}
    # A dataset file that was damaged here is mended by it, and kept to be looked at.
    (dataset,) = cache.rglob("*.arrow")
    dataset.write_bytes(b"not what it was")
    assert asked(invoke_here, *whole)["datasets_written"] == 1
    assert dataset.read_bytes() == before[dataset]
    assert [path.read_bytes() for path in cache.rglob("*.damaged")] == [b"not what it was"]


def test_what_cannot_be_packed_or_taken_in_says_why(
    here: tuple[Path, dict[str, Any]], pack: Path, tmp_path: Path
) -> None:
    folder, _ = here
    cache = folder / "cache"
    for name, run, to, error, code in (
        ("carried", "f" * 8, tmp_path / "new", "no one completed run", 5),
        ("nobody", "", tmp_path / "new", "nothing is stored", 2),
        ("carried", "", pack, "is there already", 2),
    ):
        with pytest.raises(AsyncDistilError, match=error) as refused:
            packed.export_run(name, run, to, cache, as_json=True)
        assert exit_code_of(refused.value) == code
    for path, sha256, error, code in (
        (tmp_path / "nothing", "", "there is no file", 2),
        (pack, "0" * 64, "not the one that was asked for", 3),
    ):
        with pytest.raises(AsyncDistilError, match=error) as refused:
            packed.import_pack(path, tmp_path / "cache", sha256=sha256, as_json=True)
        assert exit_code_of(refused.value) == code
    assert not list(tmp_path.iterdir())
