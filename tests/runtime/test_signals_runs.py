"""Signals to whole runs: what each one ends, what it leaves, and how the next run goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.testing.crash import Attempt, Ended, Scene, Strike

SCRIPT = (Path(__file__).parent / "crash_scene.py").read_text()
CHAIN = {"rows": 4000, "sizes": [50, 50, 50, 50]}
STATUS = {"SIGINT": -signal.SIGINT, "SIGTERM": 128 + signal.SIGTERM, "SIGHUP": 128 + signal.SIGHUP}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "scene", SCRIPT)


def start(
    scene: Scene,
    options: dict[str, Any] = CHAIN,
    *,
    strike: Strike | None = None,
    hang: str = "",
) -> Attempt:
    return scene.start(json.dumps(options), strike=strike, environment={"HANG": hang})


def nothing_is_left(scene: Scene) -> None:
    assert scene.processes() == []
    assert scene.locks() == []
    assert scene.leftovers() == []


def repeated(scene: Scene, *steps: str) -> int:
    counts = (Counter(scene.visits(step)) for step in steps)
    return sum(count - 1 for counter in counts for count in counter.values())


def goes_on(scene: Scene, options: dict[str, Any] = CHAIN) -> dict[str, Any]:
    """Run to the end; all rows are there, in order. Gives the report."""
    ended = scene.run(json.dumps(options))
    assert ended.returncode == 0, ended.errors[-2000:]
    told = json.loads((scene.folder / "result.json").read_text())
    rows = options["rows"]
    chain = [{"x": x, "a": x + 1, "b": x + 1, "c": x + 1} for x in range(rows)]
    assert told["rows"] == {"default": chain}
    nothing_is_left(scene)
    report: dict[str, Any] = told["report"]
    return report


def says_how_to_go_on(ended: Ended) -> None:
    assert "Every finished batch is kept: run it again and it goes on from there." in ended.errors


@pytest.mark.parametrize(("name", "step"), [("SIGINT", "a"), *((name, "c") for name in STATUS)])
def test_the_first_signal_lets_workers_finish_what_they_hold(
    scene: Scene, name: str, step: str
) -> None:
    ended = start(scene, strike=Strike(step, 1500, name)).end()

    assert ended.returncode == STATUS[name], ended.errors[-2000:]
    says_how_to_go_on(ended)
    nothing_is_left(scene)

    report = goes_on(scene)
    assert report["resumed"]
    assert report["lost_in_flight_rows"] == 0
    assert repeated(scene, *"abc") == 0


def test_workers_unload_their_steps_when_a_run_is_stopped(scene: Scene) -> None:
    start(scene, strike=Strike("b", 1500, "SIGINT")).end()
    assert scene.visits("b.unload")
    # The last step may not have been loaded yet: its worker starts beside the others.
    assert all(scene.visits(f"{s}.unload") == scene.visits(f"{s}.load") for s in "abc")


def test_a_signal_while_steps_load_stops_the_run_before_its_first_row(scene: Scene) -> None:
    ended = start(scene, strike=Strike("b.load", 0, "SIGINT")).end()
    assert ended.returncode == STATUS["SIGINT"]
    says_how_to_go_on(ended)
    nothing_is_left(scene)
    goes_on(scene)
    assert repeated(scene, *"abc") == 0


def test_a_signal_behind_the_last_row_costs_no_row(scene: Scene) -> None:
    ended = start(scene, strike=Strike("c", CHAIN["rows"] - 1, "SIGINT")).end()
    assert ended.returncode in {0, STATUS["SIGINT"]}
    nothing_is_left(scene)
    goes_on(scene)
    assert repeated(scene, *"abc") == 0


def test_the_second_signal_stops_at_once(scene: Scene) -> None:
    attempt = start(scene, hang="b 1500")
    assert attempt.until(lambda: 1500 in scene.visits("b"))
    attempt.send("SIGINT")
    assert attempt.until(lambda: "once more to stop at once" in attempt.said())
    attempt.send("SIGINT")
    ended = attempt.end()

    assert ended.returncode == STATUS["SIGINT"], ended.errors[-2000:]
    says_how_to_go_on(ended)
    nothing_is_left(scene)

    report = goes_on(scene)
    assert 0 < repeated(scene, *"abc") <= report["lost_in_flight_rows"]


def test_the_third_signal_leaves_without_a_word(scene: Scene) -> None:
    attempt = start(scene, hang="b 1500")
    assert attempt.until(lambda: 1500 in scene.visits("b"))
    attempt.send("SIGINT")
    assert attempt.until(lambda: "once more to stop at once" in attempt.said())
    attempt.send("SIGINT")
    assert attempt.until(lambda: "stopping at once" in attempt.said())
    attempt.send("SIGTERM")
    ended = attempt.end()

    assert ended.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in ended.errors
    assert scene.processes() == []
    assert scene.locks() == []

    report = goes_on(scene)
    assert repeated(scene, *"abc") <= report["lost_in_flight_rows"]


def test_a_run_under_nohup_outlives_its_terminal(scene: Scene) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        attempt = start(scene, strike=Strike("b", 1500, "SIGHUP"))
    finally:
        signal.signal(signal.SIGHUP, before)
    ended = attempt.end()
    assert ended.returncode == 0, ended.errors[-2000:]
    nothing_is_left(scene)
    assert repeated(scene, *"abc") == 0


def test_a_stopped_and_continued_supervisor_repeats_nothing(scene: Scene) -> None:
    attempt = start(scene, strike=Strike("b", 1500, "SIGSTOP"))
    assert attempt.until(lambda: state(attempt.pid) == "T")
    attempt.send("SIGCONT")
    assert attempt.end().returncode == 0
    nothing_is_left(scene)
    assert repeated(scene, *"abc") == 0


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("closed", ["1", "0 1 2"])
def test_a_run_needs_no_standard_streams(scene: Scene, closed: str) -> None:
    close = " ".join(f"{number}>&-" for number in closed.split())
    script = [sys.executable, str(scene.folder / "script.py"), json.dumps(CHAIN)]
    ended = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {close}', "sh", *script],
        cwd=scene.folder,
        env={**os.environ, "ASYNCDISTIL_TEST_CALLS": str(scene.folder / "calls")},
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=90,
    )
    assert ended.returncode == 0, ended.stderr.decode()[-2000:]
    goes_on(scene)
    assert repeated(scene, *"abc") == 0


def test_output_into_a_pipe_that_nobody_reads_does_not_end_a_run(scene: Scene) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    script = [sys.executable, str(scene.folder / "script.py"), json.dumps(CHAIN)]
    try:
        ended = subprocess.run(
            script,
            cwd=scene.folder,
            env={**os.environ, "ASYNCDISTIL_TEST_CALLS": str(scene.folder / "calls")},
            check=False,
            stdout=write_end,
            stderr=write_end,
            timeout=90,
        )
    finally:
        os.close(write_end)
    assert ended.returncode in {0, 120}  # 120: Python itself could not flush at its exit
    goes_on(scene)
    assert repeated(scene, *"abc") == 0


# --- two runs of one name ---------------------------------------------------------------------


def held_up(scene: Scene) -> Attempt:
    """A run that stays in one row until it is stopped."""
    attempt = start(scene, hang="b 1500")
    assert attempt.until(lambda: 1500 in scene.visits("b"))
    return attempt


def test_a_second_run_of_a_name_is_told_who_has_it(scene: Scene) -> None:
    first = held_up(scene)
    second = start(scene).end()
    assert second.returncode == 1
    assert "StoreLocked" in second.errors
    assert f"pid {first.pid} " in second.errors
    first.send("SIGKILL")
    first.end()
    assert scene.processes() == []
    goes_on(scene)


def test_a_second_run_waits_for_the_first_if_asked_to(scene: Scene) -> None:
    first = held_up(scene)
    patient = {**CHAIN, "run": {"wait_seconds": 60}}
    second = start(scene, patient)
    assert second.until(lambda: "waiting up to" in second.said())
    first.send("SIGKILL")
    first.end()
    assert second.end().returncode == 0
    nothing_is_left(scene)
    goes_on(scene)


def test_waiting_for_another_run_ends_with_ctrl_c(scene: Scene) -> None:
    first = held_up(scene)
    second = start(scene, {**CHAIN, "run": {"wait_seconds": 3600}})
    assert second.until(lambda: "waiting up to" in second.said())
    second.send("SIGINT")
    assert second.end().returncode == STATUS["SIGINT"]
    first.send("SIGKILL")
    first.end()
    assert scene.processes() == []
