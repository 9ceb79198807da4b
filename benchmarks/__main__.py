"""Command line: ``python -m benchmarks [--fast] [NAME...]``."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import benchmarks
from benchmarks.environment import environment
from benchmarks.harness import Bench
from benchmarks.publish import publish
from benchmarks.rivals import state_directory
from benchmarks.table import markdown

RESULTS = Path(__file__).parent / "results"
_AT_ONCE = 2
_MACHINERY = frozenset(
    {"__main__", "environment", "harness", "picture", "processes", "publish", "rivals", "table"}
)


def questions() -> dict[str, ModuleType]:
    """Modules that ask something: those with a function `answer`, by name."""
    found = {}
    for module in pkgutil.iter_modules(benchmarks.__path__):
        if module.name in _MACHINERY or module.ispkg:
            continue
        loaded = importlib.import_module(f"benchmarks.{module.name}")
        if hasattr(loaded, "answer"):
            found[module.name] = loaded
    return found


def question_of(module: ModuleType) -> str:
    """First line of its docstring."""
    return (module.__doc__ or module.__name__).strip().splitlines()[0]


def main() -> int:
    """Measure what was asked for and write it down.

    Returns:
        0, or 1 if one of our own columns or a floor failed.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="questions; all without any")
    parser.add_argument("--fast", action="store_true", help="one small sample, for correctness")
    parser.add_argument("--list", action="store_true", help="list the questions")
    parser.add_argument("--repeat", type=int, default=5, help="most samples of a column")
    parser.add_argument("--budget", type=float, default=5, help="seconds of a rival's samples")
    parser.add_argument(
        "--rivals",
        choices=("all", "installed", "none"),
        help="all installs missing ones (default); --fast leaves them out unless told",
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="where results are written")
    parser.add_argument(
        "--publish",
        nargs="+",
        type=Path,
        metavar="JSON",
        help="measure nothing: write these results into docs/; the first answer counts",
    )
    options = parser.parse_args()
    if options.publish:
        publish(options.publish)
        return 0
    known = questions()
    if options.list:
        for name, module in known.items():
            print(f"{name:24} {question_of(module)}")
        return 0
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"no question {unknown[0]!r}; there are {', '.join(known)}")
    return _measure({name: known[name] for name in options.names or known}, options)


def _measure(chosen: dict[str, ModuleType], options: argparse.Namespace) -> int:
    work = state_directory() / "work"
    work.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {
        "environment": environment(work),
        "fast": options.fast,
        "questions": [],
    }
    failures: list[str] = []
    # Where no figure counts, one question need not wait for the other.
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        each = pool.map if options.fast else map
        for answer in each(partial(_ask, options=options), chosen.items()):
            results["questions"].append(answer.entry)
            failures += answer.failures
            _write(results, options.output)
    print("\n" + markdown(results))
    for failure in failures:
        print(f"FAILED {failure}", file=sys.stderr)
    return 1 if failures else 0


class _Answer(NamedTuple):
    """What is written down about a question, and what went wrong."""

    entry: dict[str, Any]
    failures: list[str]


def _ask(question: tuple[str, ModuleType], options: argparse.Namespace) -> _Answer:
    name, module = question
    lines: list[str] = []
    say = lines.append if options.fast else partial(print, flush=True)
    say(f"{name}: {question_of(module)}")
    bench = Bench(
        fast=options.fast,
        repeats=options.repeat,
        budget_seconds=options.budget,
        rivals=options.rivals or ("none" if options.fast else "all"),
        say=say,
    )
    started = time.monotonic()
    failures = []
    try:
        module.answer(bench)
    except Exception as error:
        # The other questions may still be answered.
        failures.append(f"{name}: {type(error).__name__}: {error}")
    if lines:
        print("\n".join(lines), flush=True)
    failures += [
        f"{name}: {case.name}: {column}: {kept.note}"
        for case in bench.cases
        for column, kept in case.columns.items()
        if kept.note and kept.subject in ("ours", "floor")
    ]
    entry = {
        "name": name,
        "question": question_of(module),
        "took_seconds": time.monotonic() - started,
        "cases": [asdict(case) for case in bench.cases],
    }
    return _Answer(entry, failures)


def _write(results: dict[str, Any], output: Path) -> None:
    """After every question, so that an interrupted run keeps what it has."""
    output.mkdir(parents=True, exist_ok=True)
    taken = results["environment"]["taken"].replace(":", "")
    commit = results["environment"]["commit"].split()[0]
    stem = f"{taken}-{commit}{'-fast' if results['fast'] else ''}"
    (output / f"{stem}.json").write_text(json.dumps(results, indent=1) + "\n")
    (output / f"{stem}.md").write_text(markdown(results))


if __name__ == "__main__":
    raise SystemExit(main())
