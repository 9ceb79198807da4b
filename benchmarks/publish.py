"""Put chosen results into the documentation: the tables and the picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.picture import picture
from benchmarks.table import markdown

_DOCS = Path(__file__).parent.parent / "docs"
_BEGIN = "<!-- figures: written by python -m benchmarks --publish -->"
_END = "<!-- end of figures -->"
_SHOWN = (
    ("chain", "20,000 rows", "seconds", "20,000 rows through a loader and three steps"),
    ("one_row", "one row", "seconds", "from the start of the process to the first row"),
    ("last_step_changed", "200,000 rows", "seconds", "200,000 rows again, last step changed"),
    ("cpu_bound", "10,000 rows of 1 ms", "seconds", "10,000 rows of 1 ms CPU on two processes"),
    ("large_rows", "200,000 rows of 2 KB", "peak_pss_mb", "memory of 200,000 rows of 2 KB"),
)


def publish(paths: Sequence[Path]) -> None:
    """Merge results, question by question, and write them into the documentation.

    Args:
        paths: JSON files; where two answer the same question the first one counts. Machine and
            commit are told from the first.
    """
    loaded: list[dict[str, Any]] = [json.loads(path.read_text()) for path in paths]
    merged: dict[str, Any] = {**loaded[0], "questions": []}
    seen: set[str] = set()
    for results in loaded:
        for question in results["questions"]:
            if question["name"] not in seen:
                seen.add(question["name"])
                merged["questions"].append(question)
    page = _DOCS / "benchmarks.md"
    before, _, rest = page.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    page.write_text(f"{before}{_BEGIN}\n\n{markdown(merged)}\n{_END}{after}")
    (_DOCS / "benchmarks.svg").write_text(picture(merged, _SHOWN))
