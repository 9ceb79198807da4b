"""Whose code a module is: decided by where it lies and by who claims it."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.signature import is_user_module
from asyncdistil.signature.origin import (
    STANDARD,
    USER,
    origin_of_import,
    origin_of_module,
    origin_of_name,
    origin_of_namespace,
)


def test_installed_standard_and_user_modules_are_told_apart() -> None:
    import collections.abc
    import zipfile

    import attr
    import pydantic

    import asyncdistil.signature

    assert is_user_module(sys.modules[__name__])
    assert origin_of_namespace(globals()) == USER
    for module in (json, collections.abc, sys, zipfile):
        assert origin_of_module(module) == STANDARD
    assert origin_of_module(pydantic).distributions == (("pydantic", pydantic.VERSION),)
    # The package and the distribution need not have the same name.
    assert [name for name, _ in origin_of_module(attr).distributions] == ["attrs"]
    # asyncdistil counts as installed even where it is editable.
    assert origin_of_module(asyncdistil.signature).kind == "installed"


def test_what_has_no_file_is_the_users_unless_python_itself_has_it() -> None:
    assert origin_of_namespace({"__name__": "__main__"}) == USER
    assert origin_of_namespace({"__name__": "__main__", "__file__": "/x/script.py"}) == USER
    assert origin_of_namespace({"__name__": "anything"}) == USER
    assert origin_of_namespace({}) == USER
    assert origin_of_namespace({"__name__": "builtins"}) == STANDARD
    assert origin_of_name("not_loaded_anywhere") == USER


def test_a_users_module_may_be_called_like_one_of_python(tmp_path: Path) -> None:
    shadow = types.ModuleType("statistics")
    shadow.__file__ = str(tmp_path / "statistics.py")
    assert is_user_module(shadow)


def test_an_import_is_placed_without_running_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "explosive.py").write_text("raise RuntimeError")
    (tmp_path / "spacious" / "inner").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert origin_of_import("explosive") == USER
    assert origin_of_import("spacious.inner") == USER
    assert origin_of_import("not_there_at_all") is None
    assert origin_of_import("json.decoder") == STANDARD
    broken = types.ModuleType("broken_spec")
    monkeypatch.setitem(sys.modules, "broken_spec", broken)
    assert origin_of_import("broken_spec") == USER
    monkeypatch.setitem(sys.modules, "blocked", None)
    assert origin_of_import("blocked") is None

    class Refusing:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "refused_by_a_finder":
                raise ImportError(name)

    monkeypatch.setattr(sys, "meta_path", [Refusing, *sys.meta_path])
    assert origin_of_import("refused_by_a_finder") is None


def install(root: Path, name: str, version: str, record: str) -> None:
    metadata = root / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (metadata / "RECORD").write_text(record)


def module_at(path: Path, name: str) -> Any:
    module = types.ModuleType(name)
    module.__file__ = str(path)
    return module


def test_a_directory_of_installed_packages_may_hold_user_code_too(tmp_path: Path) -> None:
    # As "pip install --target ." leaves it.
    install(tmp_path, "vendored", "1.2", "vendored_package/__init__.py,,\nsingle_file.py,,\n")
    package = module_at(tmp_path / "vendored_package" / "__init__.py", "vendored_package")
    inner = module_at(tmp_path / "vendored_package" / "a.py", "vendored_package.a")
    single = module_at(tmp_path / "single_file.py", "single_file")
    own = module_at(tmp_path / "own_code.py", "own_code")
    for module in (package, inner, single):
        assert origin_of_module(module).distributions == (("vendored", "1.2"),)
    assert is_user_module(own)
    # A directory that is gone holds nothing.
    assert is_user_module(module_at(tmp_path / "gone" / "a.py", "a_gone_module"))


def test_a_file_dropped_into_site_packages_is_user_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site-packages"
    install(site, "claimed-by-guess", "1", "claimed_by_guess/__init__.py,,\n")
    install(site, "liar", "1", "something_else.py,,\n")
    monkeypatch.syspath_prepend(str(site))
    assert is_user_module(module_at(site / "dropped_here.py", "dropped_here"))
    guessed = module_at(site / "claimed_by_guess" / "__init__.py", "claimed_by_guess")
    assert origin_of_module(guessed).distributions == (("claimed-by-guess", "1"),)
    # A distribution of the same name that does not list the module does not count.
    assert is_user_module(module_at(site / "liar.py", "liar"))


def test_a_shared_namespace_package_counts_by_who_lists_the_module(tmp_path: Path) -> None:
    install(tmp_path, "one", "1", "shared_space/one/a.py,,\n")
    install(tmp_path, "two", "2", "shared_space/two/b.py,,\n")
    one = module_at(tmp_path / "shared_space" / "one" / "a.py", "shared_space.one.a")
    both = types.ModuleType("shared_space")
    both.__path__ = [str(tmp_path / "shared_space")]
    assert origin_of_module(one).distributions == (("one", "1"),)
    assert origin_of_module(both).distributions == (("one", "1"), ("two", "2"))
