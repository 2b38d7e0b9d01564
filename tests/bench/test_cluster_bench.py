"""What the benches of several nodes count, on made-up rows and samples."""

from __future__ import annotations

from typing import Any

import pytest

from bench.cluster import account, words
from bench.soak import LIFE_S, Soak


def rows(count: int) -> list[dict[str, Any]]:
    """As the echo engine answers them: with the first 12 tokens of the prompt."""
    from transformers import AutoTokenizer

    from bench.cluster import MAX_TOKENS, MODEL

    tokenizer = AutoTokenizer.from_pretrained(MODEL)

    def text(i: int) -> str:
        messages = [{"role": "user", "content": words(i)}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        return tokenizer.decode(ids[:MAX_TOKENS], skip_special_tokens=True)

    return [{"id": i, "generated_text": text(i), "error": None} for i in range(count)]


def test_what_is_lost_doubled_or_wrong() -> None:
    found = rows(5000)
    assert account(found, 5000) == {"lost": 0, "doubled": 0, "wrong": 0}
    worse = [*found[:-3], found[0], found[0], {**found[1], "generated_text": "x"}, {**found[-1], "error": "died"}]
    assert account(worse, 5000) == {"lost": 2, "doubled": 3, "wrong": 2}
    assert account(worse, 5000, of_echo=False)["wrong"] == 1


def test_growth_is_told_from_a_start() -> None:
    soak = object.__new__(Soak)
    starts = [(float(s), 10.0 * s, s) for s in range(0, int(LIFE_S), 5)]
    flat, grows = (
        [(LIFE_S + 5 * i, 600.0, 40) for i in range(40)],
        [(LIFE_S + 5 * i, 600.0 + i, 40 + i) for i in range(40)],
    )
    soak.samples = {"driver 1": starts + flat, "driver 2": starts + grows, "driver 3": starts}
    first, second = soak.growth()
    assert first["MiB"] == [600, 600] and first["handles"] == [40, 40]
    assert second["MiB"] == [pytest.approx(604, abs=1), pytest.approx(634, abs=1)] and second["most handles"] == 79
