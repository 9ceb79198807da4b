"""The pages in a real browser, where there is one: how they look, and that nothing in them runs."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, DIMMED_MONOKAI

from asyncdistil.cli.bars import frame
from asyncdistil.models import OpenAILLM
from asyncdistil.pipeline import Pipeline
from asyncdistil.pipeline.outlook import Outlook
from asyncdistil.report import page_of
from asyncdistil.steps import LoadDataFromDicts, RowStep, Step, StepInput, StepResources
from asyncdistil.steps.tasks import TextGeneration
from asyncdistil.supervisor.progress import Progress
from asyncdistil.supervisor.stored_run import StoredRun
from asyncdistil.testing.model_server import ModelServer
from asyncdistil.typing import StepOutput

playwright = pytest.importorskip(
    "playwright.sync_api", reason="browsers are driven with playwright"
)
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
COMMAND = Path(sys.executable).with_name("asyncdistil")
SCREENSHOTS = "ASYNCDISTIL_TEST_SCREENSHOTS"
"""Folder to leave the pictures in, for people to look at: `docs/images` has them."""
MOST_BYTES = 200_000
SCHEMES = ["light", "dark"]
ATTACK = "</dd><script>document.title='taken over'</script><img src=x onerror=document.title='no'>"

pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no chromium here")


@contextmanager
def browsing(height: int = 1100) -> Iterator[list[Any]]:
    """A page in each scheme, of one browser, and what it complained of in ``page.complaints``."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield [opened(browser, scheme, height) for scheme in SCHEMES]
        browser.close()


def opened(browser: Any, scheme: str, height: int) -> Any:
    page = browser.new_page(
        viewport={"width": 1200, "height": height}, color_scheme=scheme, device_scale_factor=1
    )
    page.complaints = []
    page.on("console", lambda said: page.complaints.append(said.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    return page


def pictured(page: Any, name: str, tmp_path: Path) -> int:
    """Take a picture; how light its corner is, 0 to 255."""
    Image = pytest.importorskip("PIL.Image", reason="pictures are looked at with Pillow")
    path = Path(os.environ.get(SCREENSHOTS, tmp_path)) / f"{name}.png"
    page.screenshot(path=path, animations="disabled")
    with Image.open(path) as image:
        corner = int(image.convert("L").getpixel((2, 2)))
    assert path.stat().st_size < MOST_BYTES
    return corner


class Clean(RowStep):
    inputs = property(lambda self: ["topic"])
    outputs = property(lambda self: ["topic"])

    def transform(self, row: dict[str, Any]) -> dict[str, Any]:
        if row["topic"].endswith("7 7"):
            raise ValueError(f"{row['topic']!r} names nothing")
        return row


class Length(RowStep):
    inputs = property(lambda self: ["generation"])
    outputs = property(lambda self: ["words"])

    def transform(self, row: dict[str, Any]) -> dict[str, Any]:
        return row | {"words": len((row["generation"] or "").split())}


def asking(name: str, server: ModelServer, template: str, column: str, **more: Any) -> Any:
    llm = OpenAILLM(model=name, base_url=server.url, api_key="none", max_concurrency=32)
    return TextGeneration(name=name, llm=llm, template=template, columns=[column], **more)


def showcase(cache: Path, server: ModelServer, rows: int) -> Pipeline:
    with Pipeline("questions about topics", cache_dir=cache) as pipeline:
        topics = [{"topic": f"topic {n % 10} {n}"} for n in range(rows)]
        load = LoadDataFromDicts(name="load", data=topics, batch_size=20)
        two = StepResources(replicas=2)
        clean = Clean(name="clean", input_batch_size=10, resources=two)
        ask = asking("ask", server, "Write one question about {{ topic }}.", "topic")
        judge = asking(
            "judge",
            server,
            "Is this a good question? {{ generation }}",
            "generation",
            output_mappings={"generation": "verdict"},
        )
        length = Length(name="length", resources=two)
        load >> clean >> ask >> [judge, length]
    return pipeline


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that could replay a third of its rows."""
    folder = tmp_path_factory.mktemp("showcase")
    with ModelServer(latency_seconds=0.1, latency_sigma=0.5) as server:
        showcase(folder, server, 100).run()
        pipeline = showcase(folder, server, 300)
        pipeline.run()
    return folder, pipeline.name


def test_the_report_follows_light_and_dark(stored: tuple[Path, str], tmp_path: Path) -> None:
    run = StoredRun.open(*stored)
    assert run is not None
    with run:
        (tmp_path / "page.html").write_text(page_of(stored[1], run))
    corners = {}
    with browsing(1250) as pages:
        for scheme, page in zip(SCHEMES, pages, strict=True):
            page.goto((tmp_path / "page.html").as_uri())
            corners[scheme] = pictured(page, f"report-{scheme}", tmp_path)
            assert page.complaints == []
    assert corners["light"] > 200
    assert corners["dark"] < 60


class Copy(Step):
    inputs = property(lambda self: ["text"])
    outputs = property(lambda self: ["copy"])

    def process(self, inputs: StepInput) -> StepOutput:
        yield [row | {"copy": row["text"]} for row in inputs]


class Gate(Copy):
    """Goes on when somebody opens the other end of a pipe."""

    path: str

    def process(self, inputs: StepInput) -> StepOutput:
        if inputs[0]["n"] >= 20:
            with open(self.path) as pipe:
                pipe.read()
        yield from super().process(inputs)


def attacked(cache: Path, name: str, **gate: Any) -> Pipeline:
    with Pipeline(name, cache_dir=cache) as pipeline:
        rows = [{"n": n, "text": ATTACK, ATTACK: n} for n in range(30)]
        load = LoadDataFromDicts(name="load", data=rows, batch_size=10)
        last = Gate(name="gate", input_batch_size=10, **gate) if gate else Copy(name="right")
        load >> [Copy(name="left", input_batch_size=10), last]
    return pipeline


def test_no_text_of_a_row_becomes_a_part_of_the_page(tmp_path: Path) -> None:
    pipeline = attacked(tmp_path, f"calm {ATTACK}")
    pipeline.run()
    run = StoredRun.open(tmp_path, pipeline.name)
    assert run is not None
    with run:
        (tmp_path / "page.html").write_text(page_of(pipeline.name, run))
    with browsing() as (page, _):
        page.goto((tmp_path / "page.html").as_uri())
        assert page.title().startswith("calm </dd><script>")
        assert page.locator("script, img").count() == 0
        assert page.complaints == []


@contextmanager
def served(cache: Path) -> Iterator[str]:
    with subprocess.Popen(
        [COMMAND, "ui", "--json", "--cache-dir", cache], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        told = ""
        while "}" not in told:
            told += process.stdout.readline()
        yield json.loads(told)["url"]
        process.terminate()
        process.stdout.read()
    assert process.returncode == 0


def test_the_live_page_follows_a_run_without_being_loaded_again(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    pipeline = attacked(tmp_path, "what strangers wrote", path=str(tmp_path / "gate"))
    run = threading.Thread(target=pipeline.run)
    run.start()
    with served(tmp_path) as url, browsing(1000) as pages:
        for scheme, page in zip(SCHEMES, pages, strict=True):
            page.goto(url)
            page.locator("a").first.click()
            page.evaluate("window.stays = true")
            page.get_by_text("under way").wait_for()
            page.locator("svg.ad-dag", has_text="20 rows, batch-wise").wait_for()
            page.locator("#live.on").wait_for()
            pictured(page, f"live-{scheme}", tmp_path)
            page.locator("summary", has_text="load").first.click()
        (tmp_path / "gate").write_text("")
        for page in pages:
            page.get_by_text("complete", exact=True).wait_for()
            assert page.evaluate("window.stays")
            assert page.locator("details[open]", has_text="load").count() >= 1
            assert page.locator("main img, main script").count() == 0
            assert page.complaints == []
    run.join()


def test_the_bars_are_drawn_for_light_and_dark_terminals(
    stored: tuple[Path, str], tmp_path: Path
) -> None:
    run = StoredRun.open(*stored)
    assert run is not None
    with run:
        made, progress = half_way(run)
    console = Console(record=True, width=112, file=io.StringIO(), force_terminal=True)
    console.print(frame(made, progress, seconds=12.0, width=112, height=24))
    with browsing(300) as pages:
        themes = (DEFAULT_TERMINAL_THEME, DIMMED_MONOKAI)
        for scheme, theme, page in zip(SCHEMES, themes, pages, strict=True):
            svg = console.export_svg(title="asyncdistil run questions.py", theme=theme, clear=False)
            # A picture of ours asks nobody for a font.
            svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
            assert "replayed" in svg
            (tmp_path / "bars.html").write_text(f"<body style='margin:0'>{svg}")
            page.goto((tmp_path / "bars.html").as_uri())
            pictured(page.locator("svg").first, f"progress-{scheme}", tmp_path)


def half_way(run: StoredRun) -> tuple[Outlook, Progress]:
    """Counters as they were in the middle of a stored run, each step a little behind the last."""
    from asyncdistil.batch import Usage
    from asyncdistil.supervisor.progress import StepProgress

    made = Outlook(run.plan, {name: step.rows for name, step in run.steps.items()})
    progress: Progress = {}
    for now, shares in ((0.0, (1.0, 0.7, 0.4, 0.3, 0.35)), (8.0, (1.0, 1.0, 0.75, 0.5, 0.7))):
        for (name, step), share in zip(run.steps.items(), shares, strict=True):
            usage = step.usage
            paid = (getattr(usage, field) for field in Usage.__struct_fields__)
            computed = max(round(step.rows * share) - step.inputs_replayed, 0)
            progress[name] = StepProgress(
                inputs_computed=computed,
                rows_computed=computed if step.upstreams else step.rows_computed,
                inputs_replayed=step.inputs_replayed,
                rows_replayed=step.inputs_replayed,
                failed=step.failed,
                in_flight=0 if share == 1.0 else 32,
                waiting=0 if share == 1.0 else 18,
                usage=Usage(*(round(value * share) for value in paid)),
                done=share == 1.0,
            )
        made.look(progress, now)
    return made, progress
