"""The rivals: what they are, where they are installed, and where a comparison is unfair to them.

Each lives in a virtual environment of its own below ``ASYNCDISTIL_BENCHMARKS_DIR`` (by default
``~/.cache/asyncdistil-benchmarks``), made from a requirements file that pins every package.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

DIRECTORY_VARIABLE = "ASYNCDISTIL_BENCHMARKS_DIR"
_REQUIREMENTS = Path(__file__).parent / "requirements"
_failures: dict[str, str] = {}


class NotInstalled(Exception):
    """A rival that can't take part, and why."""


@dataclass(frozen=True, slots=True)
class Rival:
    """Somebody else's way to the same result.

    Attributes:
        name: Of its column.
        script: In ``subjects/``.
        caveats: Where the comparison favours us by design, and what it is better at.
    """

    name: str
    script: str
    caveats: str

    @property
    def requirements(self) -> Path:
        """Pins of all of its packages."""
        return _REQUIREMENTS / f"{self.name}.txt"

    @property
    def environment(self) -> Path:
        """Its virtual environment; another one for other pins or another Python."""
        key = hashlib.sha256(self.requirements.read_bytes() + sys.version.encode()).hexdigest()
        return state_directory() / "environments" / f"{self.name}-{key[:12]}"

    def installed(self) -> bool:
        """Whether its environment is complete."""
        return (self.environment / "complete").exists()


RIVALS = {
    rival.name: rival
    for rival in (
        Rival(
            "distilabel",
            "distilabel_runs.py",
            "distilabel 1.5.3 is the one rival of the same kind: one process per step, rows move "
            "between processes, every batch is kept for the cache. The trivial steps used here "
            "show its cost per batch, which is large; with steps that wait seconds for a model "
            "that cost matters far less. It polls for the start of each load stage (about 2.5 s), "
            "which dominates small runs. Where a sample takes more than the budget, fewer than "
            "five are taken. Its cache is not safe against a crash, so it does less work per "
            "batch than we do, not more.",
        ),
        Rival(
            "datatrove",
            "datatrove_runs.py",
            "datatrove runs a whole chain inside one process per task and moves no rows between "
            "processes; it keeps nothing of the steps in between and syncs nothing to disk. A "
            "changed last step therefore means a full rerun, and a killed run repeats whole tasks: "
            "how much depends on how finely the input is cut (ten tasks here), which its user "
            "chooses. It scales to clusters by design, which nothing here shows.",
        ),
        Rival(
            "datasets",
            "datasets_runs.py",
            "`datasets.map` is not a pipeline: each call is a pass over an Arrow file in the "
            "calling process (or in `num_proc` copies of it), with nothing to restart, route or "
            "retry, and no sync to disk. Its cache is keyed by a fingerprint of the function and "
            "of the input file, so appended rows mean that everything runs again. It was given the "
            "same batch size as the others; it prefers 1,000. A killed `map` loses the whole pass.",
        ),
        Rival(
            "ray",
            "ray_runs.py",
            "Ray Data fuses neighbouring row functions into one task and keeps blocks in shared "
            "memory; it has no cache and no resume on one machine. Starting its services takes "
            "seconds, which its users pay once per cluster and not once per run as here, and two "
            "cores are far below what it is made for.",
        ),
    )
}


def state_directory() -> Path:
    """Where environments and the files of runs live."""
    named = os.environ.get(DIRECTORY_VARIABLE)
    return (Path(named) if named else Path("~/.cache/asyncdistil-benchmarks")).expanduser()


def interpreter_of(rival: Rival, *, say: Callable[[str], None]) -> Path:
    """The Python of a rival's environment, which is made if it is missing.

    Raises:
        NotInstalled: It can't be made; says why. It is not tried twice in one run.
    """
    python = rival.environment / "bin" / "python"
    if rival.installed():
        return python
    if rival.name not in _failures:
        say(f"    installing {rival.name}")
        try:
            _install(rival, python)
        except (OSError, subprocess.CalledProcessError) as error:
            output = getattr(error, "stderr", None) or str(error)
            lines = [line for line in output.splitlines() if line.strip()]
            _failures[rival.name] = (lines or [type(error).__name__])[-1].strip()
            shutil.rmtree(rival.environment, ignore_errors=True)
    if rival.name in _failures:
        raise NotInstalled(f"not installed: {_failures[rival.name]}")
    return python


def _install(rival: Rival, python: Path) -> None:
    def run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True, text=True)

    shutil.rmtree(rival.environment, ignore_errors=True)
    run(sys.executable, "-m", "venv", str(rival.environment))
    pip = (str(python), "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "install", "--requirement", str(rival.requirements))
    (rival.environment / "complete").touch()
