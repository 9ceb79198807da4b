"""Prices: the nearest known name counts, and yours come before ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncdistil.errors import ParameterError
from asyncdistil.models.pricing import PRICES_VARIABLE, Price, price_of


def test_a_dated_edition_costs_what_its_model_costs() -> None:
    assert price_of("openai", "gpt-4o-2024-08-06") == price_of("openai", "gpt-4o")
    assert price_of("openai", "gpt-4o-mini-2024-07-18") == price_of("openai", "gpt-4o-mini")
    assert price_of("openai", "gpt-4o-2024-05-13") != price_of("openai", "gpt-4o")


def test_a_sibling_does_not() -> None:
    assert price_of("openai", "gpt-4o-mini") != price_of("openai", "gpt-4o")
    assert price_of("openai", "gpt-4o-realtime") is None
    assert price_of("nobody", "gpt-4o") is None


def test_cost_is_in_millionths_of_a_dollar() -> None:
    assert Price(2.5, 10.0).cost_microusd(1_000_000, 0) == 2_500_000
    assert Price(0.15, 0.60).cost_microusd(100, 50) == 45


def test_prices_of_your_own_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "prices.toml"
    file.write_text('[openai]\n"gpt-4o" = [1, 2]\n[own]\n"m" = [3, 4]\n')
    monkeypatch.setenv(PRICES_VARIABLE, str(file))
    assert price_of("openai", "gpt-4o") == (1, 2)
    assert price_of("own", "m") == (3, 4)
    assert price_of("anthropic", "claude-3-haiku-20240307") is not None


@pytest.mark.parametrize("text", ["not toml", '[openai]\n"gpt-4o" = "free"\n', "openai = 3\n"])
def test_a_price_file_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(text)
    monkeypatch.setenv(PRICES_VARIABLE, str(file))
    with pytest.raises(ParameterError, match="price"):
        price_of("openai", "gpt-4o")
