"""Named places where a test makes the program die, fail or wait."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable

import pytest

from asyncdistil.log import failpoint
from asyncdistil.log.failpoint import hits

Arm = Callable[[str], None]


def ended(arm: Arm, specification: str) -> int:
    """How a process ends that passes the place twice; 7 if it lives on."""
    child = os.fork()
    if not child:
        try:
            arm(specification)
            failpoint("here")
            failpoint("here")
        finally:
            os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(
    ("specification", "status"),
    [
        ("here=kill", -signal.SIGKILL),
        ("here=kill@2", -signal.SIGKILL),
        ("here=kill@3", 7),
        ("here=exit:3", 3),
        ("here=exit", 1),
        ("there=kill", 7),
        ("", 7),
    ],
)
def test_an_armed_place_ends_the_process_at_its_hit(
    arm: Arm, specification: str, status: int
) -> None:
    assert ended(arm, specification) == status


def test_an_armed_place_raises_the_errno_that_is_named(arm: Arm) -> None:
    arm("here=raise:ENOSPC@2")
    assert failpoint("here") is None
    with pytest.raises(OSError, match="failpoint here") as caught:
        failpoint("here")
    assert caught.value.errno == errno.ENOSPC
    assert failpoint("here") is None
    assert hits() == {"here": 3}


def test_an_armed_place_waits_and_goes_on(arm: Arm) -> None:
    arm("here=delay:0.001;here=partial:5")
    assert failpoint("here") == 5
    arm("")
    assert failpoint("here") is None
    assert hits() == {}


@pytest.mark.parametrize("wrong", ["here", "here=explode", "here=", "=kill;here"])
def test_a_specification_that_can_not_be_read_is_refused_and_arms_nothing(
    arm: Arm, wrong: str
) -> None:
    with pytest.raises(ValueError, match="name=action@hit"):
        arm(f"other=raise:EIO;{wrong}")
    assert failpoint("other") is None
