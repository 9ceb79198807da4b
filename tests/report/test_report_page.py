"""The page about a run: complete in itself, and hostile text stays text."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.errors import ParameterError
from asyncdistil.graph.drawing import Box, Link, draw_svg
from asyncdistil.pipeline import Pipeline
from asyncdistil.report import page_of
from asyncdistil.steps import LoadDataFromDicts, Step, StepInput
from asyncdistil.supervisor.stored_run import StoredRun
from asyncdistil.typing import StepOutput

HOSTILE = "</script><script>alert(1)</script><img src=x onerror='alert(2)'> \x1b[31m \ud800 \u202e"
NAME = "a <b>bold</b> pipeline & more"


class Judge(Step):
    row_wise: bool = True

    @property
    def inputs(self) -> list[str]:
        return ["text"]

    @property
    def outputs(self) -> list[str]:
        return ["score"]

    def process(self, inputs: StepInput) -> StepOutput:
        if any(row["n"] == 1 for row in inputs):
            raise ValueError(f"refused: {HOSTILE}")
        yield [row | {"score": row["n"]} for row in inputs]


def hostile(cache: Path) -> Pipeline:
    with Pipeline(NAME, cache_dir=cache) as pipeline:
        load = LoadDataFromDicts(
            name="load", data=[{"n": n, "text": HOSTILE, "<i>column</i>": n} for n in range(4)]
        )
        load >> Judge(name="judge")
    return pipeline


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "cache"
    hostile(folder).run()
    return folder


@pytest.fixture(scope="module")
def page(cache: Path) -> str:
    run = StoredRun.open(cache, NAME)
    assert run is not None
    with run:
        return page_of(NAME, run)


class Elements(HTMLParser):
    """Every tag with its attributes, and the text between."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_a_page_needs_nothing_from_elsewhere(page: str) -> None:
    elements = Elements(page)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in elements.tags}
    loading = [a for _, attrs in elements.tags for a in attrs if a in ("src", "href", "srcset")]
    assert loading == []
    assert [a for _, attrs in elements.tags for a in attrs if a.startswith("on")] == []
    assert re.findall(r"url\(|@import", page) == []


def test_hostile_text_is_shown_as_text(page: str) -> None:
    text = "".join(Elements(page).text)
    assert "<script>alert(1)</script>" in text
    assert "<b>bold</b>" in text
    assert "<i>column</i>" in text
    assert "refused: </script>" in text
    assert "\x1b" not in page
    page.encode("utf-8")


def test_a_page_shows_figures_failures_rows_and_keys(page: str, cache: Path) -> None:
    text = "".join(Elements(page).text)
    run = StoredRun.open(cache, NAME)
    assert run is not None
    with run:
        assert run.begin.run in text
        for step in run.steps.values():
            assert step.lineage.hex() in text
    assert "ValueError" in text
    assert "field.row_wise" in text


def test_a_graph_of_a_thousand_steps_is_drawn() -> None:
    boxes = [Box(f"step {n} <&>") for n in range(1000)]
    links = [
        Link(boxes[n].name, boxes[m].name) for n in range(1000) for m in (n + 1, n + 9) if m < 1000
    ]
    drawn = draw_svg(boxes, links)
    assert drawn.count("<title>") == 1000
    assert drawn.count('class="edge"') == len(links)
    assert "<&>" not in drawn


def test_boxes_of_a_layer_do_not_touch() -> None:
    boxes = [Box("root"), *(Box(f"leaf {n}") for n in range(5)), Box("end")]
    links = [Link("root", f"leaf {n}") for n in range(5)]
    links += [Link(f"leaf {n}", "end") for n in range(5)] + [Link("root", "end")]
    found = re.findall(r'class="box" x="(\d+)" y="(\d+)"', draw_svg(boxes, links))
    columns: dict[int, list[int]] = {}
    for x, y in found:
        columns.setdefault(int(x), []).append(int(y))
    assert sorted(map(len, columns.values())) == [1, 1, 5]
    (five,) = [sorted(ys) for ys in columns.values() if len(ys) == 5]
    assert all(b - a >= 58 for a, b in pairwise(five))


def test_a_pipeline_draws_itself(cache: Path, tmp_path: Path) -> None:
    file = hostile(cache).draw(tmp_path / "graph.svg")
    assert file.read_text().startswith("<svg")
    assert hostile(cache)._repr_html_() == file.read_text()
    with pytest.raises(ParameterError, match=r"graph\.svg"):
        hostile(cache).draw(tmp_path / "graph.png")


def command(cache: Path, *arguments: str, code: int = 0) -> str:
    made = subprocess.run(
        [str(Path(sys.executable).with_name("asyncdistil")), *arguments],
        env={"ASYNCDISTIL_CACHE_DIR": str(cache), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        cwd=cache,
    )
    assert made.returncode == code, made.stderr
    return made.stdout


def told(cache: Path, *arguments: str, code: int = 0) -> Any:
    return json.loads(command(cache, *arguments, "--json", code=code))


Here = Callable[..., "subprocess.CompletedProcess[str]"]


def told_here(here: Here, cache: Path, *arguments: str, code: int = 0) -> Any:
    done = here(cache, *arguments, "--json")
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def test_stored_rows_are_inspected(command_here: Here, cache: Path) -> None:
    told = partial(told_here, command_here)
    assert [s["step"] for s in told(cache, "inspect", NAME)["steps"]] == ["load", "judge"]
    assert [row["n"] for row in told(cache, "inspect", NAME, "judge", "--head", "3")] == [0, 1, 2]
    found = told(cache, "inspect", NAME, "--where", "score >= 2")
    assert [row["n"] for row in found] == [2, 3]
    schema = told(cache, "inspect", NAME, "judge", "--schema")
    assert schema["columns"]["score"] == {"int": 3, "NoneType": 1}
    assert "\x1b" not in command_here(cache, "inspect", NAME, "judge").stdout
    written = told(cache, "inspect", NAME, "load", "--to", str(cache / "rows.parquet"))
    assert written["rows"] == 4
    told(cache, "inspect", NAME, "nothing", code=5)
    told(cache, "inspect", "nobody", code=2)


def test_failures_are_listed_and_reports_are_written(
    command_here: Here, cache: Path, tmp_path: Path
) -> None:
    told = partial(told_here, command_here)
    (failure,) = told(cache, "failures", NAME)["failures"]
    assert (failure["step"], failure["row"], failure["class"]) == ("judge", [1], "ValueError")
    assert failure["inputs"][0]["n"] == 1
    assert "\x1b" not in command_here(cache, "failures", NAME, "--rows", "--details").stdout
    file = tmp_path / "page.html"
    run = told(cache, "report", NAME, "--to", str(file))["run"]
    assert run in file.read_text()
    assert told(cache, "inspect", run[:6])["run"] == run
    assert told(cache, "inspect", f"{NAME}@{run[:6]}")["run"] == run


SCRIPT = """
from pathlib import Path

from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromDicts, Step, StepInput


class Plus(Step):
    add: int = 1

    @property
    def inputs(self):
        return ["n"]

    def process(self, inputs: StepInput):
        yield [row | {"sum": row["n"] + self.add} for row in inputs]


print("said by the script")
with Pipeline("scripted") as pipeline:
    load = LoadDataFromDicts(name="load", data=[{"n": n} for n in range(6)])
    load >> Plus(name="plus")
if __name__ == "__main__":
    pipeline.run()
    Path("ran").touch()
"""


def test_a_script_is_foreseen_and_not_run(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    foreseen = told(tmp_path, "plan", str(script))
    assert [step["compute"] for step in foreseen["steps"]] == [6, 6]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["script.py"]
    command(tmp_path, "run", str(script))
    assert told(tmp_path, "plan", str(script))["hit"]
    script.write_text(SCRIPT.replace('Plus(name="plus")', 'Plus(name="plus", add=2)'))
    explained = told(tmp_path, "explain", str(script), "plus")
    assert [change["component"] for change in explained["changes"]] == ["field.add"]
    assert "field.add: 1 → 2" in command(tmp_path, "plan", str(script))
    assert "load row 2" in command(tmp_path, "explain", str(script), "plus", "--row", "2")
    told(tmp_path, "explain", str(script), "minus", code=5)
