"""What preview() shows: all that the model sees, and what it answers."""

from __future__ import annotations

from typing import Any

from rayllm_batch.show.preview import PROMPT_CHARACTERS, as_html, as_text

PROMPT = "<|begin|><|user|>Summarise:\n\n<b>x</b> & y<|end|><|assistant|>"


def row(**changes: Any) -> dict[str, Any]:
    made = {
        "prompt": PROMPT,
        "generated_text": "A <i>short</i> answer.",
        "num_input_tokens": 1234,
        "num_generated_tokens": 5,
    }
    return {**made, "finish_reason": "stop", "error": None, **changes}


def test_the_prompt_is_whole_and_its_special_tokens_are_seen() -> None:
    text = as_text([row()])
    assert text.splitlines() == [
        "[1] 1,234 in, 5 out, stop",
        "    | <|begin|><|user|>Summarise:",
        "    | ",
        "    | <b>x</b> & y<|end|><|assistant|>",
        "    generated_text: A <i>short</i> answer.",
    ]


def test_in_a_table_nothing_that_a_model_wrote_is_html() -> None:
    page = as_html([row(), row(error="engine: ValueError: <no>", generated_text="", finish_reason="error")])
    assert "&lt;|begin|&gt;&lt;|user|&gt;Summarise:\n\n&lt;b&gt;x&lt;/b&gt; &amp; y&lt;|end|&gt;" in page
    assert "A &lt;i&gt;short&lt;/i&gt; answer." in page and "<b>error:</b> engine: ValueError: &lt;no&gt;" in page
    assert "<i>" not in page and "1,234 in, 5 out, stop" in page


def test_a_row_that_failed_shows_its_error_and_a_row_without_a_prompt_none() -> None:
    text = as_text(
        [row(), row(prompt="", error="parse_row: KeyError: 'article'", finish_reason="error", num_input_tokens=0)]
    )
    assert "[2] 0 in, 5 out, error" in text and "error: parse_row: KeyError: 'article'" in text


def test_further_columns_are_shown_a_field_a_line() -> None:
    typed = row(
        parsed={"name": "<b>wheel</b>", "parts": [{"count": 1}], "due": None},
        generated_texts=["a", "b"],
        num_requests=2,
    )
    text, page = as_text([typed]), as_html([typed])
    for line in (
        'parsed.parts: [{"count": 1}]',
        "parsed.due: null",
        'generated_texts: ["a", "b"]',
        "parsed.name: <b>wheel",
    ):
        assert f"    {line}" in text
    assert "2 requests" in text and "<b>parsed.name:</b> &lt;b&gt;wheel&lt;/b&gt;" in page and "<b>wheel" not in page
    failed = as_text([{**typed, "error": "answer: no", "parsed": None}])
    assert "parsed" not in failed and "answer: no" in failed


def test_a_terminal_gets_the_beginning_and_the_end_of_a_long_prompt_and_a_table_all_of_it() -> None:
    long = "a" * PROMPT_CHARACTERS + "b" * PROMPT_CHARACTERS
    text = as_text([row(prompt=long)])
    assert f"[... {PROMPT_CHARACTERS:,} characters ...]" in text
    assert text.count("a" * (PROMPT_CHARACTERS // 2)) == 1 and "b" * (PROMPT_CHARACTERS // 2) in text
    assert long in as_html([row(prompt=long)])
