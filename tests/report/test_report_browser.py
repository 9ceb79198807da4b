"""The page in a real browser, where there is one: nothing in it runs, nothing is asked for."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from asyncdistil.pipeline import Pipeline
from asyncdistil.report import page_of
from asyncdistil.steps import LoadDataFromDicts, Step, StepInput
from asyncdistil.supervisor.stored_run import StoredRun
from asyncdistil.typing import StepOutput

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
SCREENSHOTS = "ASYNCDISTIL_TEST_SCREENSHOTS"
"""Folder to leave the pictures in, for people to look at."""
ATTACK = "</dd><script>document.title='taken over'</script><img src=x onerror=document.title='no'>"

pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no chromium here")


class Copy(Step):
    inputs = property(lambda self: ["text"])
    outputs = property(lambda self: ["copy"])

    def process(self, inputs: StepInput) -> StepOutput:
        yield [row | {"copy": row["text"]} for row in inputs]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    with Pipeline(f"calm {ATTACK}", cache_dir=folder) as pipeline:
        load = LoadDataFromDicts(name="load", data=[{"text": ATTACK, ATTACK: n} for n in range(3)])
        load >> [Copy(name="left"), Copy(name="right")]
    pipeline.run()
    run = StoredRun.open(folder, pipeline.name)
    assert run is not None
    with run:
        (folder / "page.html").write_text(page_of(pipeline.name, run))
    return folder / "page.html"


def chromium(folder: Path, *arguments: str) -> str:
    assert BROWSER is not None
    made = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={folder / 'profile'}",
            *arguments,
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    return made.stdout


def test_no_text_of_a_row_becomes_a_part_of_the_page(page: Path, tmp_path: Path) -> None:
    document = chromium(tmp_path, "--dump-dom", page.as_uri())
    assert "<title>calm &lt;/dd&gt;" in document
    assert "<script" not in document
    assert "<img" not in document


@pytest.mark.parametrize(("name", "scheme"), [("light", "1"), ("dark", "0")])
def test_the_page_follows_light_and_dark(
    name: str, scheme: str, page: Path, tmp_path: Path
) -> None:
    picture = Path(os.environ.get(SCREENSHOTS, tmp_path)) / f"report-{name}.png"
    chromium(
        tmp_path,
        f"--blink-settings=preferredColorScheme={scheme}",
        "--window-size=1200,1100",
        "--hide-scrollbars",
        f"--screenshot={picture}",
        page.as_uri(),
    )
    Image = pytest.importorskip("PIL.Image", reason="pictures are compared with Pillow")
    with Image.open(picture) as image:
        corner = image.convert("L").getpixel((2, 2))
    assert (corner > 200) if name == "light" else (corner < 60)
