"""The figure of rows in hand: there after a death, and never the reason for one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from asyncdistil.batch import RunId, StepName
from asyncdistil.supervisor.in_flight import InFlight, lost_in_flight

RUN, OTHER = RunId("0" * 31 + "1"), RunId("0" * 31 + "2")
STEPS = [StepName("load"), StepName("score"), StepName("judge")]


def test_what_workers_held_at_a_kill_is_told_to_the_run_that_is_taken_up(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        note = InFlight(tmp_path, RUN, 3)
        note.note([5, 700, 0])
        note.note([0, 41, 2])
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert lost_in_flight(tmp_path, RUN, STEPS) == {"score": 41, "judge": 2}
    assert (tmp_path / "in-flight").stat().st_mode & 0o777 == 0o600


def test_a_run_begins_and_ends_with_nothing_in_hand(tmp_path: Path) -> None:
    note = InFlight(tmp_path, RUN, 3)
    assert lost_in_flight(tmp_path, RUN, STEPS) == {}
    note.note([1, 2, 3])
    assert lost_in_flight(tmp_path, RUN, STEPS) == {"load": 1, "score": 2, "judge": 3}
    note.note([1, 2, 3])
    note.note([0, 0, 0])
    note.close()
    note.close()
    assert lost_in_flight(tmp_path, RUN, STEPS) == {}


def test_figures_of_another_run_or_plan_or_from_elsewhere_are_not_believed(tmp_path: Path) -> None:
    note = InFlight(tmp_path, RUN, 3)
    note.note([1, 2, 3])
    note.close()
    assert lost_in_flight(tmp_path, OTHER, STEPS) == {}
    assert lost_in_flight(tmp_path, RUN, [*STEPS, StepName("more")]) == {}
    path = tmp_path / "in-flight"
    written = path.read_bytes()
    for length in range(len(written)):
        path.write_bytes(written[:length])
        assert lost_in_flight(tmp_path, RUN, STEPS) == {}
    path.write_bytes(b"x" + written[1:])
    assert lost_in_flight(tmp_path, RUN, STEPS) == {}
    path.unlink()
    assert lost_in_flight(tmp_path, RUN, STEPS) == {}


@pytest.mark.parametrize("thing", ["a link", "a directory", "a pipe"])
def test_a_place_that_is_taken_costs_the_figure_and_nothing_else(
    tmp_path: Path, thing: str
) -> None:
    path, elsewhere = tmp_path / "in-flight", tmp_path / "elsewhere"
    if thing == "a link":
        elsewhere.write_bytes(b"somebody else's")
        path.symlink_to(elsewhere)
    elif thing == "a directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    note = InFlight(tmp_path, RUN, 3)
    note.note([1, 2, 3])
    assert lost_in_flight(tmp_path, RUN, STEPS) == {}
    note.close()
    if thing == "a link":
        assert elsewhere.read_bytes() == b"somebody else's"
