"""Packages that a pipeline or a step asks for, compared with what is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, TypeVar

from asyncdistil.errors import MissingRequirement, ParameterError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_C = TypeVar("_C", bound=type)
_ATTRIBUTE = "__requirements__"


def requirements(specifiers: Sequence[str]) -> Callable[[_C], _C]:
    """Say which packages a step class needs; a run checks them before it starts.

    Args:
        specifiers: As in ``pip install``: ``"nltk>=3.8"``.

    Raises:
        ParameterError: One of them cannot be read.
    """
    checked = all_parsed(specifiers)

    def declare(step: _C) -> _C:
        setattr(step, _ATTRIBUTE, checked)
        return step

    return declare


def required_by(step: type) -> tuple[str, ...]:
    """Specifiers that a step class and its bases declared, each once."""
    found = (text for base in step.__mro__ for text in vars(base).get(_ATTRIBUTE, ()))
    return tuple(dict.fromkeys(found))


def all_parsed(specifiers: Sequence[str]) -> tuple[str, ...]:
    """Read several specifiers, and write them in one way.

    Raises:
        ParameterError: One of them is none, or there is one text in place of a list.
    """
    if isinstance(specifiers, str):
        raise ParameterError(f"requirements {specifiers!r} are one text: give a list, [...]")
    return tuple(str(parsed(text)) for text in specifiers)


def parsed(text: str) -> Requirement:
    """Read one specifier.

    Raises:
        ParameterError: It is none.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        return Requirement(text)
    except InvalidRequirement as error:
        why = str(error).splitlines()[0]
        raise ParameterError(
            f'requirement {text!r} cannot be read ({why}): write it as for pip, such as "nltk>=3.8"'
        ) from None


def check_requirements(specifiers: Iterable[str]) -> None:
    """Compare what is asked for with what is installed, by version and not by text.

    Raises:
        MissingRequirement: Names every package that is missing or has another version, and the
            command that installs them.
    """
    wanted: list[str] = []
    problems: list[str] = []
    for text in dict.fromkeys(specifiers):
        requirement = parsed(text)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        installed = _installed_version(requirement.name)
        if installed is None:
            problems.append(f"{requirement.name} is not installed")
        elif not requirement.specifier.contains(installed, prereleases=True):
            problems.append(f"{requirement.name} is {installed}, not {requirement.specifier}")
        else:
            continue
        wanted.append(text)
    if wanted:
        command = " ".join(f"'{text}'" for text in wanted)
        raise MissingRequirement(
            f"this pipeline needs other packages: {'; '.join(problems)}. Install them with"
            f" `pip install {command}`"
        )


def _installed_version(name: str) -> str | None:
    """Version of a distribution; the name of a module it installs is understood too."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        owners = metadata.packages_distributions().get(name, ())
        return metadata.version(owners[0]) if owners else None
