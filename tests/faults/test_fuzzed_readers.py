"""Every reader of bytes, fed with changed honest bytes and, in the soak, led by atheris."""

from __future__ import annotations

import importlib.util
import logging
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
TARGETS = ("frames", "records", "events", "codec", "log", "checkpoint", "rows", "memo", "files")
SPECIAL = (0, 1, 0x7F, 0x80, 0x90, 0xC0, 0xC1, 0xC7, 0xD4, 0xDD, 0xDF, 0xFF)
LONGEST = 4_000


@pytest.fixture
def fuzz(borrow: Any, caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.CRITICAL, "asyncdistil")
    return borrow("faults/fuzz_targets.py")


def changed(rng: random.Random, seeds: list[bytes]) -> bytes:
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(0, 5)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(4):
            case 0 if at < len(data):
                data[at] = rng.choice((*SPECIAL, rng.randrange(256)))
            case 1:
                del data[at : at + rng.randint(1, 9)]
            case 2:
                other = rng.choice(seeds)
                start = rng.randrange(len(other) + 1)
                data[at:at] = other[start : start + rng.randint(1, 40)]
            case _:
                data[at:at] = rng.randbytes(rng.randint(1, 5))
    return bytes(data[:LONGEST])


def test_every_reader_has_its_target(fuzz: Any) -> None:
    assert tuple(fuzz.TARGETS) == TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_changed_bytes_are_read_or_refused_by_an_error_of_ours(
    faults: Any, fuzz: Any, target: str
) -> None:
    seeds = fuzz.seeds(target)
    for honest in seeds:
        fuzz.TARGETS[target](honest)
    count = faults.amount(smoke=50, short=500, full=2_000, soak=50_000)
    done = faults.cases(range(count), lambda rng: fuzz.TARGETS[target](changed(rng, seeds)))
    faults.count("fuzzed frames and records", done)


@pytest.mark.soak_only
@pytest.mark.parametrize("target", TARGETS)
def test_inputs_that_coverage_leads_to_are_read_or_refused(
    faults: Any, tmp_path: Path, target: str
) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed: it has wheels for Linux and CPython 3.11 to 3.14")
    seconds = int(faults.share_seconds or 3_600)
    begin = ["-seed=" + str(faults.rng().randrange(1, 1 << 31)), f"-max_len={LONGEST}"]
    limits = [f"-max_total_time={seconds}", "-timeout=60", "-rss_limit_mb=2500"]
    ended = subprocess.run(
        [
            sys.executable,
            str(HERE / "fuzz_targets.py"),
            target,
            *begin,
            *limits,
            f"-artifact_prefix={tmp_path}/find-",
            "-print_final_stats=1",
            str(tmp_path / "corpus"),
        ],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    finds = list(tmp_path.glob("find-*"))
    again = [f"python {HERE / 'fuzz_targets.py'} {target} {find}" for find in finds]
    assert ended.returncode == 0, "\n".join([ended.stdout[-500:], ended.stderr[-3_000:], *again])
    units = [line for line in ended.stderr.splitlines() if "number_of_executed_units" in line]
    faults.count("inputs led by coverage", int(units[0].rpartition(":")[2]))
