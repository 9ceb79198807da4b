"""Counts what the fault tests did and prints one table of it at the end.

Options (``tox -e faults -- --short``):

- ``--depth smoke|short|full|soak``: how much; ``smoke`` is what a plain ``pytest`` does;
- ``--short``: the same as ``--depth short``;
- ``--fault-seed N``: everything that is drawn is drawn from it; random if not given;
- ``--fault-case N``: only this case of a test, as the repeat line of a failure says;
- ``--hours H``: at depth ``soak``, about how long all of it may take; each test gets a share.
"""

from __future__ import annotations

import importlib.util
import os
import random
import sys
import time
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

DEPTHS = ("smoke", "short", "full", "soak")
HERE = Path(__file__).parent
_CASE = pytest.StashKey[int | None]()
_SEED = pytest.StashKey[int]()
_STARTED = pytest.StashKey[float]()
_SHARE_SECONDS = pytest.StashKey[float]()
_BLOCK = 500  # examples that hypothesis draws in one go: it remembers all of them
_FIGURE = "fault figure"
_NOT_ASSERTED = 0


class Target(NamedTuple):
    """A line of the table: least to reach at depth ``full``; 0 if it is only reported."""

    name: str
    least: int
    kind: str = "sum"  # of all tests, or "max", or "all" for counts written as a/b


TARGETS = (
    Target("logs cut at every byte", 3),
    Target("truncations", _NOT_ASSERTED),
    Target("single-bit flips", 200_000),
    Target("single-bit flips not noticed", _NOT_ASSERTED),
    Target("power-loss states", 300_000),
    Target("ext4 power cuts", 100),
    Target("kill points (failpoint x hit)", 1_000),
    Target("fork-kills", 5_000),
    Target("end-to-end SIGKILLs", 50),
    Target("orphans", _NOT_ASSERTED),
    Target("slowest end of an orphan, ms", _NOT_ASSERTED, "max"),
    Target("recovery of 100,000 commits after a crash, ms", _NOT_ASSERTED, "max"),
    Target("recovery of 100,000 commits after a clean end, ms", _NOT_ASSERTED, "max"),
    Target("random DAGs", 10_000),
    Target("state-machine steps", _NOT_ASSERTED),
    Target("refusing disks", _NOT_ASSERTED),
    Target("fuzzed frames and records", _NOT_ASSERTED),
    Target("inputs led by coverage", _NOT_ASSERTED),
    Target("seeded bugs", 12, "all"),
)
_NONE_ALLOWED = ("orphans", "single-bit flips not noticed")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--depth", choices=DEPTHS, default=None)
    group.addoption("--short", action="store_true")
    group.addoption("--fault-seed", type=int, default=None)
    group.addoption("--fault-case", type=int, default=None)
    group.addoption("--hours", type=float, default=None)


def pytest_configure(config: pytest.Config) -> None:
    if getattr(config.option, "fault_seed", None) is None:
        drawn = getattr(config, "workerinput", {}).get("fault_seed")
        config.option.fault_seed = drawn or random.SystemRandom().randrange(1, 1 << 32)
    config.stash[_STARTED] = time.monotonic()
    config.addinivalue_line("markers", "soak_only: runs at depth soak; not collected at any other")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give the processes of pytest-xdist the same seed."""
    node.workerinput["fault_seed"] = seed_of(node.config)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    depth = depth_of(config)
    seconds = {"smoke": 300, "short": 900, "full": 1_800, "soak": 0}[depth]
    if depth != "soak":
        items[:] = [item for item in items if item.get_closest_marker("soak_only") is None]
    ours = [item for item in items if "faults" in getattr(item, "fixturenames", ())]
    hours = config.getoption("hours", default=None)
    if depth == "soak" and hours is not None and ours:
        workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        config.stash[_SHARE_SECONDS] = hours * 3600 * workers / len(ours)
    for item in items:
        if HERE in item.path.parents:
            # Only against hanging: the figures are counts, on machines fast and slow.
            item.add_marker(pytest.mark.timeout(seconds), append=False)


def depth_of(config: pytest.Config) -> str:
    if config.getoption("short", default=False):
        return "short"
    return config.getoption("depth", default=None) or "smoke"


def seed_of(config: pytest.Config) -> int:
    found = getattr(config.option, "fault_seed", None)
    if found is None:
        found = config.option.fault_seed = random.SystemRandom().randrange(1 << 32)
    return found


# --- for the tests --------------------------------------------------------------------------------


class Faults:
    """What a test of this folder needs: how much to do, a seed, a place for its figures."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._node = request.node
        self._config = request.config
        self.depth = depth_of(request.config)
        self.seed = seed_of(request.config)
        self.share_seconds = request.config.stash.get(_SHARE_SECONDS, None)
        self._started = time.monotonic()

    def amount(self, *, smoke: int, short: int, full: int, soak: int) -> int:
        """How much to do at this depth."""
        return {"smoke": smoke, "short": short, "full": full, "soak": soak}[self.depth]

    def count(self, name: str, value: float) -> None:
        """Report a figure."""
        assert any(target.name == name for target in TARGETS), name
        self._node.user_properties.append((_FIGURE, [name, value]))

    def rng(self, *parts: object) -> random.Random:
        """A source of chance that depends on the seed and on the test."""
        return random.Random(f"{self.seed} {self._node.name} {parts}")

    def spent(self) -> bool:
        """Whether this test has had its share of ``--hours``."""
        share = self.share_seconds
        return share is not None and time.monotonic() - self._started > share

    def cases(self, numbers: Iterable[int], trial: Callable[[random.Random], None]) -> int:
        """Do independent trials; one that fails says how to repeat it alone.

        Returns:
            How many were done.
        """
        only = self._config.getoption("fault_case", default=None)
        done = 0
        for number in numbers if only is None else [only]:
            self._node.stash[_CASE] = number
            trial(self.rng(number))
            done += 1
            if self.spent():
                break
        # What fails from here on is no matter of one case.
        self._node.stash[_CASE] = only
        return done

    def until(self, reached: Callable[[], bool], trial: Callable[[random.Random], None]) -> None:
        """Do trials until there are enough."""

        def numbers() -> Iterable[int]:
            number = 0
            while not reached():
                yield number
                number += 1

        self.cases(numbers(), trial)

    def drawn(self, examples: int, trial: Callable[[int, int], None]) -> int:
        """Have hypothesis draw examples, in blocks that can be repeated alone.

        Args:
            examples: How many at most.
            trial: Given a seed and how many to draw from it.

        Returns:
            How many were asked for.
        """
        done = 0

        def block(rng: random.Random) -> None:
            nonlocal done
            size = min(_BLOCK, examples - done)
            trial(rng.randrange(1 << 30), size)
            done += size

        self.until(lambda: done >= examples, block)
        return done


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> Faults:
    return Faults(request)


@pytest.fixture(scope="session")
def borrow() -> Callable[[str], ModuleType]:
    """Import a module of another test folder, by its path below ``tests``."""

    def load(path: str) -> ModuleType:
        name = "borrowed_" + path.removesuffix(".py").replace("/", "_")
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, HERE.parent / path)
            assert spec is not None
            assert spec.loader is not None
            module = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        return sys.modules[name]

    return load


# --- the table ------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Generator[None, Any, Any]:
    report = yield
    if report.failed and HERE in item.path.parents:
        config = item.config
        case = item.stash.get(_CASE, None)
        one = "" if case is None else f" --fault-case {case}"
        report.sections.append(
            (
                "repeat",
                f"pytest '{item.nodeid}' --depth {depth_of(config)} --fault-seed "
                f"{seed_of(config)}{one} -p no:randomly",
            )
        )
    return report


def figures(reporter: Any) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for reports in reporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) != "call":
                continue
            for key, value in report.user_properties:
                if key == _FIGURE:
                    found.setdefault(value[0], []).append(value[1])
    return found


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    found = figures(terminalreporter)
    if not found:
        return
    write = terminalreporter.write_line
    terminalreporter.section(f"figures of the fault tests, depth {depth_of(config)}")
    for line in table(found, depth_of(config)):
        write(line)
    for report in terminalreporter.stats.get("skipped", ()):
        if Path(report.nodeid.partition("::")[0]).parent.name == HERE.name:
            write(f"  not reached: {report.nodeid.rpartition('/')[2]}: {report.longrepr[2]}")
    seconds = time.monotonic() - config.stash[_STARTED]
    write(f"  seed {seed_of(config)}, {seconds:.0f} s")
    for report in terminalreporter.stats.get("failed", ()):
        for title, line in report.sections:
            if title == "repeat":
                write(f"  repeat: {line}")


def table(found: dict[str, list[float]], depth: str) -> list[str]:
    lines = []
    for target in TARGETS:
        if target.name not in found:
            if target.least:
                lines.append(f"  {target.name:50} {'-':>12}   to reach: {target.least:,}")
            continue
        values = found[target.name]
        value = max(values) if target.kind == "max" else sum(values)
        shown = f"caught {value:.0f} of {len(values)}" if target.kind == "all" else f"{value:,.0f}"
        least = f"   to reach: {target.least:,}" if target.least else ""
        if target.name in _NONE_ALLOWED:
            least = "   to reach: 0"
        lines.append(f"  {target.name:50} {shown:>12}{least}")
    return lines


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """At depth ``full`` a figure that is not reached is a failure, unless its test was skipped."""
    config = session.config
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    whole = depth_of(config) == "full" and not config.getoption("keyword")
    if hasattr(config, "workerinput") or reporter is None or not whole or exitstatus:
        return
    if any("::" in argument for argument in config.args):
        return
    found = figures(reporter)
    for target in TARGETS:
        values = found.get(target.name)
        if values is None:
            continue  # its test was skipped, which the table says
        wrong = sum(values) if target.name in _NONE_ALLOWED else 0
        missed = target.least and target.kind != "max" and sum(values) < target.least
        if wrong or missed:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
