"""Results as Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness import median
from benchmarks.rivals import RIVALS

_NOTE_CHARS = 100
_ERROR = re.compile(r"[\w.]+(Error|Exception): ")


def markdown(results: Mapping[str, Any]) -> str:
    """All tables of some results, where they were taken, and the caveats of the rivals in them."""
    lines = [_where(results["environment"]), ""]
    subjects = {
        column["subject"]
        for question in results["questions"]
        for case in question["cases"]
        for column in case["columns"].values()
    }
    for question in results["questions"]:
        lines += [f"### {question['question']}", ""]
        for cases in _alike(question["cases"]):
            lines += [*_table(cases), ""]
    caveats = [f"**{name}.** {each.caveats}" for name, each in RIVALS.items() if name in subjects]
    if caveats:
        lines += ["### Caveats", ""]
    for paragraph in caveats:
        lines += [paragraph, ""]
    return "\n".join(lines)


def _where(environment: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in environment["packages"].items())
    load = " ".join(f"{value:.2f}" for value in environment["load_average"])
    return (
        f"Commit {environment['commit']}, taken {environment['taken']}: {environment['machine']}; "
        f"{environment['kernel']}; {environment['python']}; {environment['loop']}; disk: "
        f"{environment['disk']}; sync mode {environment['sync_mode']} where nothing else is said; "
        f"{packages}. Load average when it began: {load}. A cell is the median, then the least "
        "and the greatest of the samples and their number; `load` is the highest load average "
        "before a sample of that line."
    )


def _alike(cases: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Runs of cases that share their columns: each becomes one table."""
    groups: list[list[Mapping[str, Any]]] = []
    for case in cases:
        if groups and list(groups[-1][0]["columns"]) == list(case["columns"]):
            groups[-1].append(case)
        else:
            groups.append([case])
    return groups


def _table(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    columns = list(cases[0]["columns"])
    lines = [
        "| | " + " | ".join(columns) + " | load |",
        "|---|" + "---|" * (len(columns) + 1),
    ]
    for case in cases:
        for figure, unit in case["figures"].items():
            cells = [_cell(case["columns"][column], figure, unit) for column in columns]
            name = case["name"] if len(case["figures"]) == 1 else f"{case['name']}: {words(figure)}"
            lines.append(f"| {name} | " + " | ".join(cells) + f" | {_load(case)} |")
    return lines


def _load(case: Mapping[str, Any]) -> str:
    loads = [
        sample["load_average"]
        for column in case["columns"].values()
        for sample in column["samples"]
        if "load_average" in sample
    ]
    return f"{max(loads):.1f}" if loads else ""


def _cell(column: Mapping[str, Any], figure: str, unit: str) -> str:
    values = [sample[figure] for sample in column["samples"] if sample.get(figure) is not None]
    if not values:
        return _short(column["note"])
    shown = f"{number(median(values))} {unit}".strip()
    if len(values) > 1:
        shown += f" ({number(min(values))} to {number(max(values))}, {len(values)})"
    else:
        shown += " (1)"
    return shown


def _short(note: str) -> str:
    """The line of a traceback that names the error, else the first line."""
    lines = note.splitlines() or ["–"]
    named = [line for line in lines if _ERROR.match(line)]
    return (named or lines)[0][:_NOTE_CHARS].replace("|", "\\|")


def words(figure: str) -> str:
    """A figure's name for people."""
    return figure.replace("_", " ")


def number(value: float) -> str:
    """Three digits that count, with thousands set apart."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
