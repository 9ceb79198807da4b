"""What tokens cost, in millionths of a US dollar."""

from __future__ import annotations

import functools
import os
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from asyncdistil.errors import ParameterError

PRICES_VARIABLE = "ASYNCDISTIL_PRICES"
"""Environment variable that names a TOML file with prices of your own."""


class Price(NamedTuple):
    """US dollars per million tokens."""

    prompt: float
    completion: float

    def cost_microusd(self, input_tokens: int, output_tokens: int) -> int:
        """What so many tokens cost, rounded to a millionth of a dollar."""
        # Dollars per million tokens times tokens is millionths of a dollar.
        return round(self.prompt * input_tokens + self.completion * output_tokens)


FREE = Price(0.0, 0.0)


@functools.cache
def _table(own_path: str) -> Mapping[str, Mapping[str, Price]]:
    shipped = resources.files("asyncdistil.models").joinpath("prices.toml").read_text("utf-8")
    tables = [tomllib.loads(shipped)]
    if own_path:
        try:
            tables.append(tomllib.loads(Path(own_path).read_text("utf-8")))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ParameterError(
                f"{PRICES_VARIABLE} names {own_path}, which can't be read as prices: {error}"
            ) from None
    prices: dict[str, dict[str, Price]] = {}
    for table in tables:
        for provider, models in table.items():
            prices.setdefault(provider, {}).update(_prices(provider, models))
    return prices


def _prices(provider: str, models: Any) -> dict[str, Price]:
    try:
        return {name: Price(float(pair[0]), float(pair[1])) for name, pair in models.items()}
    except (AttributeError, TypeError, ValueError, IndexError):
        raise ParameterError(
            f'the prices of {provider!r} must look like: "model" = [prompt, completion]'
        ) from None


def price_of(provider: str, model: str) -> Price | None:
    """List price of a model; the longest known name that begins its name counts.

    Raises:
        ParameterError: The file named by `PRICES_VARIABLE` can't be read.
    """
    known = _table(os.environ.get(PRICES_VARIABLE, "")).get(provider, {})
    names = [name for name in known if _begins(model, name)]
    return known[max(names, key=len)] if names else None


def _begins(model: str, name: str) -> bool:
    """Whether a model is a dated or tagged edition of a known one, and not a sibling of it."""
    if not model.startswith(name):
        return False
    rest = model[len(name) :]
    # "gpt-4o-mini" is no edition of "gpt-4o"; "gpt-4o-2024-08-06" and "…-latest" are.
    return not rest or rest[1:2].isdigit() or rest in {"-latest", "-preview"} or rest[0] in ":@"
