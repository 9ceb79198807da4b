"""What the pages tell readers to type is what works."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "docs/pipelines.md", "docs/failures.md"]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs_from_top_to_bottom(page: str, tmp_path: Path) -> None:
    blocks = BLOCK.findall((ROOT / page).read_text())
    assert blocks
    script = tmp_path / "page.py"
    script.write_text("\n\n".join(blocks))
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env={**os.environ, "ASYNCDISTIL_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize(
    "page", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
)
def test_every_link_of_a_page_leads_to_a_file(page: str) -> None:
    path = ROOT / page
    missing = [
        target
        for target in LINK.findall(path.read_text())
        if not (path.parent / target).resolve().exists()
    ]
    assert missing == []


def test_no_two_pipelines_that_a_reader_may_type_share_a_name_and_so_a_store() -> None:
    named = re.compile(r"""\bPipeline\((?:name=)?["'](.+?)["']""")
    written = re.compile(r"^\$ asyncdistil init .*?(\w+)\.py$", re.MULTILINE)
    names = [
        name
        for path in (
            ROOT / "README.md",
            *(ROOT / "docs").rglob("*.md"),
            *(ROOT / "docs").rglob("*.py"),
        )
        for pattern in (named, written)
        for name in pattern.findall(path.read_text())
    ]
    assert "questions" in names
    assert sorted(names) == sorted(set(names))


def test_the_exit_codes_of_the_page_are_those_of_the_code() -> None:
    from asyncdistil.cli.ending import ExitCode

    page = (ROOT / "docs/cli.md").read_text()
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    assert told == {int(code) for code in ExitCode}
