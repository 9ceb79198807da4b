"""The tour is a transcript: every command of it is typed again, and must print what it says."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(
    r"^(?P<vary><!-- counts vary -->\n)?```(?P<kind>console|diff)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
HOW_FAR = re.compile(r"^(\[\w+\] \d+ % of |about \d+ s to go|at least \d+ s to go)")
VOLATILE = [
    (re.compile(r"\b\d+(\.\d+)? s\b"), "# s"),
    (re.compile(r"\brun [0-9a-f]{8}\b"), "run #"),
    (re.compile(r"127\.0\.0\.1:\d+"), "127.0.0.1:#"),
]


class Command(NamedTuple):
    """A line after a prompt, and what the page says it printed."""

    line: str
    printed: list[str]


def commands(text: str) -> Iterator[Command]:
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, *printed = part.splitlines()
        yield Command(line, printed)


def settled(lines: list[str], *, vary: bool) -> list[str]:
    """Lines without what differs from run to run."""
    kept = []
    for line in lines:
        if HOW_FAR.match(line):
            continue
        for pattern, sign in VOLATILE:
            line = pattern.sub(sign, line)
        kept.append(re.sub(r"\d[\d,]*", "#", line) if vary else line.rstrip())
    return kept


def edit(place: Path, diff: str) -> None:
    """Apply a hunk that names its file in its first line."""
    name, *lines = diff.splitlines()
    old = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "+")
    new = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "-")
    path = place / name.removeprefix("# ")
    text = path.read_text()
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new))


class Shell:
    """A directory to type commands in; servers go on in the background."""

    def __init__(self, place: Path, opened: ExitStack) -> None:
        self.place = place
        self._opened = opened
        self._environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "ASYNCDISTIL_CACHE_DIR": str(place / "cache"),
            "PYTHONUNBUFFERED": "1",
            "TERM": "dumb",
        }
        self._environment.pop("COLUMNS", None)

    def typed(self, command: Command) -> list[str]:
        """What the command prints until it ends, or for a server what it prints at first."""
        words = shlex.split(command.line)
        if words[1] == "model-server":
            return self._serve(words)
        process = self._started(words)
        assert process.stdout is not None
        if "^C" not in command.printed:
            return process.communicate(timeout=100)[0].splitlines()
        before = command.printed[: command.printed.index("^C")]
        lines: list[str] = []
        while len(lines) < len(before):
            lines += settled([process.stdout.readline().rstrip("\n")], vary=False)
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=100)[0].splitlines()
        assert process.returncode == 130, rest
        return [*lines, "^C", *rest]

    def _serve(self, words: list[str]) -> list[str]:
        port = words.index("--port") + 1
        process = self._started([*words[:port], "0", *words[port + 1 :]])
        self._opened.callback(process.wait)
        self._opened.callback(process.kill)
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        found = re.search(r"http://[^\"]+", line)
        assert found is not None, line
        self._environment["OPENAI_BASE_URL"] = found.group()
        return [line]

    def _started(self, words: list[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            words,
            cwd=self.place,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        self._opened.callback(process.stdout.close)
        return process


def test_the_tour_prints_what_it_says(tmp_path: Path) -> None:
    page = (ROOT / "docs/tour.md").read_text()
    with ExitStack() as opened:
        shell = Shell(tmp_path, opened)
        for block in BLOCK.finditer(page):
            if block["kind"] == "diff":
                edit(tmp_path, block["text"])
                continue
            vary = block["vary"] is not None
            for command in commands(block["text"]):
                printed = shell.typed(command)
                said = settled(command.printed, vary=vary)
                assert settled(printed, vary=vary) == said, command.line
