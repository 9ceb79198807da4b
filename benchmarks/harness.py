"""What every question shares: how a sample is taken, checked and kept.

A sample is one process: a script of ``subjects/`` run by the interpreter of its column, in a
directory of its own, which prints one line of JSON. The columns of a case are sampled in turns
(ours, rival, floor, ours, ...), so that a machine that gets busier gets busier for all of them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.processes import MemoryWatch, kill_tree
from benchmarks.rivals import RIVALS, NotInstalled, Rival, interpreter_of, state_directory

SUBJECTS = Path(__file__).parent / "subjects"
_MARK = "RESULT "
_OWN_BUDGET_SECONDS = 60


class SampleFailed(Exception):
    """A subject did not do its work, or not the work that was asked for."""


@dataclass(frozen=True, slots=True)
class Command:
    """What one column runs for one case.

    Attributes:
        subject: ``ours``, ``floor`` or the name of a rival.
        workload: Function of the subject's script.
        parameters: Its arguments.
        prepare: Arguments of earlier runs in the same directory, which are not measured.
        prepare_each: Whether each sample needs such runs again, in a new directory.
        label: Shown in place of the subject's name.
        memory: Whether the memory of the process tree is watched; costs CPU.
        limit_seconds: Time after which a sample is killed and counts as never ended.
    """

    subject: str
    workload: str
    parameters: Mapping[str, Any]
    prepare: tuple[Mapping[str, Any], ...] = ()
    prepare_each: bool = False
    label: str = ""
    memory: bool = False
    limit_seconds: float = 300

    @property
    def column(self) -> str:
        """Name of its column."""
        return self.label or self.subject


@dataclass(slots=True)
class Column:
    """Samples of one column of one case.

    Attributes:
        subject: As in `Command`.
        samples: Everything that each sample reported.
        note: Why there are none, or what went wrong.
    """

    subject: str
    samples: list[dict[str, Any]] = field(default_factory=list)
    note: str = ""

    def values(self, figure: str) -> list[float]:
        """One figure of all samples."""
        return [sample[figure] for sample in self.samples if sample.get(figure) is not None]


@dataclass(slots=True)
class Case:
    """One line of a table.

    Attributes:
        name: What was varied.
        figures: Figures to show, each with its unit.
        columns: By name, in the order in which they are shown.
    """

    name: str
    figures: dict[str, str]
    columns: dict[str, Column] = field(default_factory=dict)


class Bench:
    """Handed to the ``answer`` function of a question.

    Args:
        fast: Take one sample of each, with few rows: for correctness, not for figures.
        repeats: Most samples of a column.
        budget_seconds: No further sample of a rival is taken once its samples took so long.
        rivals: ``all`` installs those that are missing, ``installed`` does not, ``none`` leaves
            them out.
        say: Told what is going on.
    """

    def __init__(
        self,
        *,
        fast: bool,
        repeats: int = 5,
        budget_seconds: float = 5,
        rivals: str = "all",
        say: Callable[[str], None] = print,
    ) -> None:
        self.fast = fast
        self.repeats = 1 if fast else repeats
        self.budget_seconds = budget_seconds
        self.cases: list[Case] = []
        self._rivals = rivals
        self._say = say
        self._work = state_directory() / "work"
        self._work.mkdir(parents=True, exist_ok=True)

    def pick(self, full: Any, fast: Any) -> Any:
        """``fast`` in a fast run, else ``full``."""
        return fast if self.fast else full

    def compare(
        self,
        name: str,
        commands: Sequence[Command],
        *,
        figures: Mapping[str, str] | None = None,
        expect: Mapping[str, Any] | None = None,
    ) -> Case:
        """Sample all columns of a case in turns.

        Args:
            name: What this case varies.
            commands: One per column.
            figures: Figures to show and their units; by default the seconds of the run.
            expect: What every sample must report, or it is not counted and the reason noted.
        """
        case = Case(name, dict(figures or {"seconds": "s"}))
        self.cases.append(case)
        prepared: dict[str, Path] = {}
        spent = dict.fromkeys((command.column for command in commands), 0.0)
        for turn in range(self.repeats):
            for command in commands:
                column = case.columns.setdefault(command.column, Column(command.subject))
                rival = command.subject in RIVALS
                budget = self.budget_seconds if rival else _OWN_BUDGET_SECONDS
                if column.note or (turn and spent[command.column] > budget):
                    continue
                try:
                    self._interpreter(command)
                    started = time.monotonic()
                    sample = self._sample(command, turn, prepared)
                    _check(sample, expect or {})
                except (NotInstalled, SampleFailed) as error:
                    column.note = str(error)
                    self._say(f"    {name}: {command.column}: {error}")
                    continue
                spent[command.column] += time.monotonic() - started
                column.samples.append(sample)
                self._tell(case, command.column, sample)
        for directory in prepared.values():
            shutil.rmtree(directory, ignore_errors=True)
        return case

    def record(
        self,
        name: str,
        column: str,
        sample: Mapping[str, Any],
        *,
        figures: Mapping[str, str],
        note: str = "",
    ) -> None:
        """Keep a sample that a question took in a way of its own; cases are made as needed."""
        case = next((case for case in self.cases if case.name == name), None)
        if case is None:
            case = Case(name, dict(figures))
            self.cases.append(case)
        kept = case.columns.setdefault(column, Column(column))
        if note:
            kept.note = note
            self._say(f"    {name}: {column}: {note}")
        if sample:
            kept.samples.append({**sample, "load_average": os.getloadavg()[0]})
            self._tell(case, column, kept.samples[-1])

    def directory(self) -> Path:
        """Make a directory on the disk that is measured; the caller removes it."""
        return Path(tempfile.mkdtemp(dir=self._work))

    def wanted(self, subject: str) -> bool:
        """Whether a rival takes part in this run."""
        if subject in RIVALS and self._rivals == "none":
            return False
        return subject not in RIVALS or self._rivals == "all" or RIVALS[subject].installed()

    def commands(self, *commands: Command) -> list[Command]:
        """Those whose subjects take part in this run."""
        return [command for command in commands if self.wanted(command.subject)]

    def start(
        self, command: Command, directory: Path, parameters: Mapping[str, Any]
    ) -> subprocess.Popen[str]:
        """Start a subject; its output goes to ``output`` in ``directory``.

        Raises:
            NotInstalled: The rival can't be installed; says why.
        """
        rival: Rival | None = RIVALS.get(command.subject)
        interpreter = self._interpreter(command)
        script = SUBJECTS / (rival.script if rival else f"{command.subject}.py")
        arguments = {**parameters, "directory": str(directory)}
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
            "PYTHONWARNINGS": "ignore",
            "BENCHMARK_STARTED": repr(time.monotonic()),
        }
        with (directory / "output").open("w") as output:
            return subprocess.Popen(
                [interpreter, str(script), command.workload, json.dumps(arguments)],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=directory,
                env=environment,
                start_new_session=True,
                text=True,
            )

    def run(
        self, command: Command, directory: Path, parameters: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Run a subject to its end.

        Raises:
            NotInstalled: The rival can't be installed; says why.
            SampleFailed: It failed, or did not end in time.
        """
        self._interpreter(command)
        load = os.getloadavg()[0]
        started = time.monotonic()
        process = self.start(command, directory, parameters)
        watch = MemoryWatch(process.pid) if command.memory else None
        # Not `wait` with a limit: that looks only every 50 ms.
        late = threading.Timer(command.limit_seconds, kill_tree, (process,))
        late.start()
        try:
            process.wait()
            seconds = time.monotonic() - started
        finally:
            late.cancel()
            peak = watch.stop() if watch else None
            kill_tree(process)
        if seconds >= command.limit_seconds:
            raise SampleFailed(f"no end within {command.limit_seconds:g} s")
        sample = result_of(directory, process.returncode)
        sample["process_seconds"] = seconds
        sample["load_average"] = load
        if peak is not None:
            sample["peak_pss_mb"] = peak / 1e6
        return sample

    def _interpreter(self, command: Command) -> str:
        rival = RIVALS.get(command.subject)
        return sys.executable if rival is None else str(interpreter_of(rival, say=self._say))

    def _sample(self, command: Command, turn: int, prepared: dict[str, Path]) -> dict[str, Any]:
        """One sample, after its preparation."""
        keep = bool(command.prepare) and not command.prepare_each
        directory = prepared.get(command.column)
        if directory is None:
            directory = self.directory()
            if keep:
                prepared[command.column] = directory
            try:
                for earlier in command.prepare:
                    self.run(command, directory, {**command.parameters, **earlier, "turn": -1})
            except BaseException:
                prepared.pop(command.column, None)
                shutil.rmtree(directory, ignore_errors=True)
                raise
        try:
            return self.run(command, directory, {**command.parameters, "turn": turn})
        finally:
            if not keep:
                shutil.rmtree(directory, ignore_errors=True)

    def _tell(self, case: Case, column: str, sample: Mapping[str, Any]) -> None:
        shown = ", ".join(
            f"{figure} {sample[figure]:.4g} {unit}"
            for figure, unit in case.figures.items()
            if sample.get(figure) is not None
        )
        self._say(f"    {case.name}: {column}: {shown}")


def result_of(directory: Path, status: int) -> dict[str, Any]:
    """Read what a subject printed.

    Raises:
        SampleFailed: It failed, or printed no result; with the end of its output.
    """
    text = (directory / "output").read_text(errors="replace")
    for line in reversed(text.splitlines()):
        if line.startswith(_MARK) and status == 0:
            sample: dict[str, Any] = json.loads(line.removeprefix(_MARK))
            return sample
    with suppress(ValueError):
        if status < 0:
            raise SampleFailed(f"killed by {signal.Signals(-status).name}: {text[-600:].strip()}")
    raise SampleFailed(f"ended with status {status}: {text[-600:].strip()}")


def _check(sample: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    wrong = [
        f"{name} is {sample.get(name)!r} and not {value!r}"
        for name, value in expect.items()
        if sample.get(name) != value
    ]
    if wrong:
        raise SampleFailed(f"wrong result: {', '.join(wrong)}")


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)
