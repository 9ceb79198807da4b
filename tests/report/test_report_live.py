"""The live page: it follows a run of another process, and answers nobody else."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromDicts, Step, StepInput
from asyncdistil.typing import StepOutput

COMMAND = Path(sys.executable).with_name("asyncdistil")
HOSTILE = "</script><script>alert(1)</script>"


class Gate(Step):
    """Goes on when somebody opens the other end of a pipe."""

    path: str
    inputs = property(lambda self: ["n"])
    outputs = property(lambda self: ["seen"])

    def process(self, inputs: StepInput) -> StepOutput:
        if inputs[0]["n"]:
            with open(self.path) as pipe:
                pipe.read()
        yield [row | {"seen": HOSTILE} for row in inputs]


def gated(cache: Path) -> Pipeline:
    with Pipeline("gated", cache_dir=cache) as pipeline:
        load = LoadDataFromDicts(name="load", data=[{"n": n} for n in range(2)])
        load >> Gate(name="gate", path=str(cache / "gate"), input_batch_size=1)
    return pipeline


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    os.mkfifo(tmp_path / "gate")
    with subprocess.Popen(
        [COMMAND, "ui", "--json", "--cache-dir", tmp_path], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        told = ""
        while "}" not in told:
            told += process.stdout.readline()
        yield process, json.loads(told)["url"]
        process.kill()


def get(url: str, **headers: str) -> str:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as reply:
        return str(reply.read().decode())


def bodies(url: str) -> Iterator[str]:
    with urllib.request.urlopen(url) as reply:
        for line in reply:
            if line.startswith(b"data: ") and len(line) > 8:
                yield json.loads(line[6:])
            elif line == b"event: end\n":
                return


def refused(url: str, **headers: str) -> int:
    with pytest.raises(urllib.error.HTTPError) as error:
        get(url, **headers)
    error.value.close()
    return int(error.value.code)


def test_a_page_follows_a_run_of_another_process_to_its_end(
    tmp_path: Path, server: tuple[subprocess.Popen[str], str]
) -> None:
    process, url = server
    listing = bodies(f"{url}events")
    assert "Nothing is stored here yet" in next(listing)
    run = threading.Thread(target=gated(tmp_path).run)
    run.start()
    address = next(filter(None, (re.search(r'href="(/[^"]+/run/[^"]+)"', b) for b in listing)))
    origin = url[: url.index("/", 8)]
    page = bodies(f"{origin}{address.group(1)}/events")
    half = next(body for body in page if "<td>gate</td><td>1</td>" in body)
    assert f"under way, in process {os.getpid()}" in half
    (tmp_path / "gate").write_text("")
    whole = next(body for body in page if "<dd>complete</dd>" in body)
    assert "<td>gate</td><td>2</td>" in whole
    assert "&lt;script&gt;alert(1)" in whole
    assert HOSTILE not in whole
    run.join()
    process.send_signal(signal.SIGINT)
    assert list(page) == []
    assert process.wait() == 0


def test_only_loopback_names_and_the_token_are_answered(
    server: tuple[subprocess.Popen[str], str],
) -> None:
    _, url = server
    token = url.split("/")[3]
    assert len(token) >= 24
    assert refused(url, Host="rebound.example") == 403
    assert refused(url, Host="rebound.example:80") == 403
    assert refused(url.replace(token, "guess")) == 404
    assert refused(url.replace(f"{token}/", "")) == 404
    assert refused(f"{url}run/{'..' * 16}/newest") == 404
    assert refused(f"{url}run/{'0' * 32}/newest") == 404


def test_a_page_brings_everything_along_and_may_load_nothing_from_elsewhere(
    server: tuple[subprocess.Popen[str], str],
) -> None:
    _, url = server
    with urllib.request.urlopen(url) as reply:
        policy = reply.headers["Content-Security-Policy"]
        page = reply.read().decode()
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert re.findall(r"https?://", page) == []
    (script,) = re.findall(r'<script src="([^"]+)"', page)
    assert "EventSource" in get(url[: url.index("/", 8)] + script)


def test_a_run_that_is_not_there_is_no_page(tmp_path: Path) -> None:
    done = subprocess.run(
        [COMMAND, "ui", "nobody", "--cache-dir", tmp_path], capture_output=True, check=False
    )
    assert done.returncode == 2
