from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from importlib.resources import files

import pytest
from pydantic import BaseModel

import asyncdistil.steps.tasks as front
from asyncdistil.steps.tasks import prompts
from asyncdistil.steps.tasks.base import BaseTask

MODULES = [
    f"{front.__name__}.{module.name}"
    for module in pkgutil.iter_modules(front.__path__)
    if module.name != "templates"
] + ["asyncdistil.testing.fake_llm"]
TEMPLATES = files(f"{front.__name__}.templates")
CLASSES = [
    kind
    for name in front.__all__
    if isinstance(kind := getattr(front, name), type) and issubclass(kind, BaseModel)
]
BASES = {"Task", "GeneratorTask", "GlobalTask", "ImageTask"}
BUILT_IN = [kind for kind in CLASSES if kind.__name__ not in BASES]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_true(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_looking_at_the_front_door_loads_no_task_and_no_template_engine() -> None:
    script = (
        "import sys, asyncdistil.steps.tasks as t\n"
        "assert 'TextGeneration' in dir(t)\n"
        "loaded = [m for m in sys.modules if m.startswith('asyncdistil.steps.tasks.')]\n"
        "assert not loaded, loaded\n"
        "t.TextGeneration\n"
        "assert 'asyncdistil.steps.tasks.text_generation' in sys.modules\n"
        "assert 'asyncdistil.steps.tasks.magpie' not in sys.modules\n"
        "assert not {'jinja2', 'yaml', 'PIL', 'pyarrow', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Nonsense"):
        front.Nonsense


@pytest.mark.parametrize("kind", BUILT_IN, ids=lambda kind: kind.__name__)
def test_every_built_in_class_has_a_version_of_its_own_and_says_what_goes_in_and_out(
    kind: type[BaseModel],
) -> None:
    assert isinstance(vars(kind).get("version"), int)
    text = kind.__doc__ or ""
    assert "Inputs" in text or "Outputs" in text
    assert re.search(r"Outputs|outputs", text)


def test_every_prompt_file_is_used_and_every_one_that_is_used_is_there() -> None:
    present = {
        f"{folder.name}/{file.name}" if folder is not TEMPLATES else file.name
        for folder in (TEMPLATES, *(f for f in TEMPLATES.iterdir() if f.is_dir()))
        for file in folder.iterdir()
        if file.name.endswith((".jinja2", ".txt"))
    }
    sources = "".join(
        (files(front.__name__) / f"{name.rpartition('.')[2]}.py").read_text(encoding="utf-8")
        for name in MODULES[:-1]
    )
    declared = {
        name for kind in BUILT_IN if issubclass(kind, BaseTask) for name in kind.prompt_files
    }
    assert declared <= present
    assert {name for name in present - declared if name not in sources} == set()


def test_prompts_have_no_holes() -> None:
    with pytest.raises(Exception, match="undefined"):
        prompts.render("urial.jinja2")


def test_a_changed_prompt_needs_a_new_version() -> None:
    """Keys hold the text of prompts, but fields that default to one are compared by value only.

    If this fails because a prompt was meant to change, raise `version` of the tasks that use it
    and write the new digest here.
    """
    names = sorted(
        f"{folder.name}/{file.name}" if folder is not TEMPLATES else file.name
        for folder in (TEMPLATES, *(f for f in TEMPLATES.iterdir() if f.is_dir()))
        for file in folder.iterdir()
        if file.name.endswith((".jinja2", ".txt"))
    )
    assert prompts.digest(*names) == "4609100cf043205ef672ec683b00cb54"
