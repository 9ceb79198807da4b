"""Run a pipeline in a process of its own, end it at a chosen row, look at what is left.

A `Scene` is a folder with a script, its cache directory and a journal of the rows that its steps
were called with. The script's steps call `visit` first thing in ``process``: it notes the rows and,
when it meets the row that was chosen, strikes. So a run is ended at a point of its *progress* and
not of its time, on machines fast and slow.

```python
scene = Scene(tmp_path, script)
scene.run(strike=Strike("score", row=700, signal="SIGKILL"))      # the supervisor dies
ended = scene.run()                                               # taken up again
assert max(Counter(scene.visits("score")).values()) <= 2
assert scene.leftovers() == []
```
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

JOURNAL = "ASYNCDISTIL_TEST_CALLS"
"""Variable that holds the path which journals of single steps begin with."""

STRIKE = "ASYNCDISTIL_TEST_STRIKE"
"""Variable that holds an encoded `Strike`."""

_SUPERVISOR = "ASYNCDISTIL_TEST_SUPERVISOR"

Target: TypeAlias = Literal["supervisor", "worker"]

_START = f'export {_SUPERVISOR}=$$; exec "$@"'
_PATIENCE_SECONDS = 90.0
_POLL_SECONDS = 0.002
_OURS = ("LOCK", "NAME", "PINS", "checkpoint.adk", "reserve", "in-flight")
_OF_A_RUN = ("pipeline.yaml", "pipeline.log")
_KINDS = {".adc": "commits", ".ads": "segments", ".bin": "quarantine", ".txt": "quarantine"}


class Strike(NamedTuple):
    """Send a signal when a step is called with a row.

    Attributes:
        step: Name of the step.
        row: Number of the row, as the step passes it to `visit`.
        signal: Its name, as ``SIGKILL``.
        target: ``supervisor``, or the ``worker`` that meets the row.
        always: Whether it is sent each time the row is met, and not only the first time.
    """

    step: str
    row: int
    signal: str = "SIGKILL"
    target: Target = "supervisor"
    always: bool = False

    def encode(self) -> str:
        """As the environment variable has it."""
        return json.dumps(self)

    @classmethod
    def decode(cls, text: str) -> Strike:
        """Read what `encode` wrote."""
        return cls(*json.loads(text))


def visit(step: str, rows: Sequence[int]) -> None:
    """Note that a step is called with these rows, and strike if the chosen one is among them.

    Called in a worker. The row of a strike is noted before the blow.
    """
    journal = Path(f"{os.environ[JOURNAL]}.{step}")
    text = os.environ.get(STRIKE)
    strike = Strike.decode(text) if text else None
    meets = strike is not None and strike.step == step and strike.row in rows
    known = meets and strike is not None and strike.row in _rows(journal)
    file = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, array.array("q", rows).tobytes())
    finally:
        os.close(file)
    if strike is not None and meets and (strike.always or not known):
        mine = strike.target == "worker"
        pid = os.getpid() if mine else int(os.environ[_SUPERVISOR])
        os.kill(pid, signal.Signals[strike.signal])


def _rows(journal: Path) -> array.array[int]:
    rows = array.array("q")
    if journal.exists():
        rows.frombytes(journal.read_bytes())
    return rows


class Ended(NamedTuple):
    """How a process ended.

    Attributes:
        returncode: Exit status, negative for a signal.
        output: What it printed.
        errors: What it printed as errors.
    """

    returncode: int
    output: str
    errors: str


class Attempt:
    """One process that runs the script of a scene."""

    def __init__(self, process: subprocess.Popen[bytes], outputs: tuple[Path, Path]) -> None:
        self._outputs = outputs
        self._process = process
        self.pid = process.pid

    def until(self, reached: Callable[[], bool], *, seconds: float = _PATIENCE_SECONDS) -> bool:
        """Wait for a condition, at most until the process has ended.

        Returns:
            Whether the condition came true.

        Raises:
            TimeoutError: Neither happened within ``seconds``.
        """
        _wait(lambda: reached() or self._process.poll() is not None, seconds)
        return reached()

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def send(self, name: str) -> None:
        """Send a signal to the process, not to its workers."""
        self._process.send_signal(signal.Signals[name])

    def end(self, *, seconds: float = _PATIENCE_SECONDS) -> Ended:
        """Wait for its end.

        Raises:
            TimeoutError: It did not end within ``seconds``; it was killed.
        """
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise TimeoutError(f"no end within {seconds} s; {self.said()}") from None
        return Ended(code, *(path.read_text("utf-8", "replace") for path in self._outputs))

    def said(self) -> str:
        """What it has printed as errors by now."""
        return self._outputs[1].read_text("utf-8", "replace")


class Scene:
    """A script and everything that its processes leave behind.

    Args:
        folder: Made if missing. Nothing else may be in it.
        script: Source of a script that runs one pipeline with the cache directory ``cache`` in its
            working directory, and whose steps call `visit`.
    """

    def __init__(self, folder: Path, script: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.cache = folder / "cache"
        self._script = folder / "script.py"
        self._script.write_text(script)
        self._journal = folder / "calls"
        self._attempts = 0

    def start(
        self,
        *arguments: str,
        strike: Strike | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Attempt:
        """Start the script."""
        self._attempts += 1
        outputs = tuple(self.folder / f"attempt{self._attempts}.{end}" for end in ("out", "err"))
        variables = {**os.environ, JOURNAL: str(self._journal), **(environment or {})}
        variables.pop(STRIKE, None)
        if strike is not None:
            variables[STRIKE] = strike.encode()
        with outputs[0].open("wb") as out, outputs[1].open("wb") as err:
            process = subprocess.Popen(
                # The shell only tells the process its own pid, which `exec` keeps.
                ["/bin/sh", "-c", _START, "sh", sys.executable, str(self._script), *arguments],
                cwd=self.folder,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        return Attempt(process, (outputs[0], outputs[1]))

    def run(
        self,
        *arguments: str,
        strike: Strike | None = None,
        environment: Mapping[str, str] | None = None,
        seconds: float = _PATIENCE_SECONDS,
    ) -> Ended:
        """Run the script to its end, whatever end that is."""
        return self.start(*arguments, strike=strike, environment=environment).end(seconds=seconds)

    # --- what is left -------------------------------------------------------------------------

    def visits(self, step: str) -> list[int]:
        """Rows that a step was called with, in all attempts, in order."""
        return _rows(Path(f"{self._journal}.{step}")).tolist()

    def visited(self) -> int:
        """How many rows all steps were called with; cheap enough to be polled."""
        files = self.folder.glob(f"{self._journal.name}.*")
        return sum(path.stat().st_size for path in files) // array.array("q").itemsize

    def processes(self, *, seconds: float = _PATIENCE_SECONDS) -> list[int]:
        """Processes of this scene, once there are none or ``seconds`` have passed."""
        with suppress(TimeoutError):
            _wait(lambda: not list(self._processes()), seconds)
        return list(self._processes())

    def _processes(self) -> Iterator[int]:
        mark = f"{JOURNAL}={self._journal}".encode()
        for entry in os.scandir("/proc"):
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with suppress(OSError):
                    if mark in Path(entry.path, "environ").read_bytes().split(b"\0"):
                        yield int(entry.name)

    def locks(self) -> list[str]:
        """Locks that somebody still holds."""
        return [str(lock) for lock in self.cache.glob("pipelines/*/LOCK") if _held(lock)]

    def leftovers(self) -> list[str]:
        """Files in the cache that no store keeps."""
        found = []
        for path in sorted(self.cache.glob("pipelines/*/**/*")):
            parts = path.relative_to(self.cache / "pipelines").parts[1:]
            if path.is_dir() or (parts[0] == "exports" and path.suffix == ".arrow"):
                continue
            if parts[0] == "runs" and parts[-1] in _OF_A_RUN:
                continue
            if parts not in {(name,) for name in _OURS} and _KINDS.get(path.suffix) != parts[0]:
                found.append(str(path))
        return found


def _held(lock: Path) -> bool:
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _wait(reached: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > deadline:
            raise TimeoutError(f"still not so after {seconds} s")
        time.sleep(_POLL_SECONDS)
