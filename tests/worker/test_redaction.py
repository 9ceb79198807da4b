"""What is struck out of texts, and what is left so that they can be read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdistil.redaction import HIDDEN, Redaction

TEXTS = st.text(st.sampled_from("abk_1 -.'"), max_size=40)


def test_a_short_secret_is_hidden_as_a_word_and_left_in_words() -> None:
    redact = Redaction(["k"])
    said = "take the key 'k' (Bearer k, key=k): k1, _k and ok are other words, not k"
    assert redact(said) == (
        f"take the key '{HIDDEN}' (Bearer {HIDDEN}, key={HIDDEN}): k1, _k and ok are other words,"
        f" not {HIDDEN}"
    )


@pytest.mark.parametrize("secret", ["!k", "k!", "-", "a.b"])
def test_an_edge_that_is_no_letter_ends_a_word_itself(secret: str) -> None:
    assert Redaction([secret])(f"it is ({secret})") == f"it is ({HIDDEN})"
    assert Redaction([secret])("none of it") == "none of it"


def test_a_long_secret_is_hidden_within_words_and_the_longer_of_two_first() -> None:
    redact = Redaction(["", "a-secret", "a-secret-and-more"])
    assert redact("xa-secret-and-morex a-secrets") == f"x{HIDDEN}x {HIDDEN}s"


@given(TEXTS, st.text(st.sampled_from("abk_1 -.'"), min_size=8, max_size=10), TEXTS)
def test_no_long_secret_stands_in_a_text_again(before: str, secret: str, after: str) -> None:
    assert secret not in Redaction([secret])(before + secret + after)


@given(TEXTS, st.text(st.sampled_from("ab_"), min_size=1, max_size=7), TEXTS)
def test_no_short_secret_stands_in_a_text_as_a_word(before: str, secret: str, after: str) -> None:
    hidden = Redaction([secret])(f"{before} {secret}. {after}")
    assert secret not in hidden.replace("-", " ").replace(".", " ").replace("'", " ").split()
