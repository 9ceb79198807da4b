"""What can be installed beside the package, and what messages and pages say about it."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]
OF_DISTILABEL = [
    "anthropic",
    "argilla",
    "cohere",
    "faiss-cpu",
    "faiss-gpu",
    "groq",
    "hf-inference-endpoints",
    "hf-transformers",
    "instructor",
    "litellm",
    "llama-cpp",
    "minhash",
    "mistralai",
    "ollama",
    "openai",
    "outlines",
    "sentence-transformers",
    "text-clustering",
    "vertexai",
    "vision",
    "vllm",
]


def named_in_code() -> Iterator[tuple[str, str]]:
    """Extras that calls and class attributes name, each with where."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            value: ast.expr | None = None
            if (isinstance(node, ast.keyword) and node.arg == "extra") or (
                isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "extra"
            ):
                value = node.value
            text = value.value if isinstance(value, ast.Constant) else None
            # `extra="forbid"` is pydantic's word for unknown fields.
            if isinstance(text, str) and text not in {"", "forbid", "allow", "ignore"}:
                yield text, f"{path.relative_to(ROOT)}:{node.lineno}"  # type: ignore[attr-defined]


def named_in_text() -> Iterator[tuple[str, str]]:
    """Extras in install lines of messages and pages."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.py")]
    for path in [*pages, *(ROOT / "src").rglob("*.py")]:
        for names in re.findall(r"asyncdistil\[([a-z][a-z0-9,-]*)\]", path.read_text()):
            for name in names.split(","):
                yield name, str(path.relative_to(ROOT))


def test_every_extra_that_a_message_or_a_page_names_can_be_installed() -> None:
    named = [*named_in_code(), *named_in_text()]
    assert len(named) > 10
    assert [(name, where) for name, where in named if name not in EXTRAS] == []


@pytest.mark.parametrize("name", OF_DISTILABEL)
def test_an_install_line_of_distilabel_works_with_our_name(name: str) -> None:
    assert name in EXTRAS


def test_all_holds_whatever_an_extra_needs() -> None:
    def needed(extra: str) -> set[str]:
        found: set[str] = set()
        for line in EXTRAS[extra]:
            requirement = Requirement(line)
            if requirement.name != "asyncdistil":
                found.add(requirement.name)
            for inner in requirement.extras:
                found |= needed(inner)
        return found

    others = {name: needed(name) for name in EXTRAS if name not in {"all", "faiss-gpu"}}
    assert needed("all") == set().union(*others.values())
