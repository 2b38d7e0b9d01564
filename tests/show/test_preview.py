"""What preview() shows: all that the model sees, and what it answers."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image

from rayllm_batch.media.medium import Medium
from rayllm_batch.show.preview import PROMPT_CHARACTERS, as_html, as_text
from rayllm_batch.show.thumbnail import SIDE, Thumbnail

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


def test_a_terminal_gets_the_beginning_and_the_end_of_a_long_prompt_and_a_table_all_of_it() -> None:
    long = "a" * PROMPT_CHARACTERS + "b" * PROMPT_CHARACTERS
    text = as_text([row(prompt=long)])
    assert f"[... {PROMPT_CHARACTERS:,} characters ...]" in text
    assert text.count("a" * (PROMPT_CHARACTERS // 2)) == 1 and "b" * (PROMPT_CHARACTERS // 2) in text
    assert long in as_html([row(prompt=long)])


TYPED = {"title": "<b>Storm</b>", "people": [{"name": "Ann", "age": None}], "tone": None}


def test_further_columns_are_a_table_and_typed_answers_one_of_their_fields() -> None:
    text = as_text([row(parsed=TYPED, words=5, note=None, logprobs=[[]]), row(parsed=None)])
    assert text.split("\n\n")[0].splitlines()[-4:] == [
        "    parsed.title: <b>Storm</b>",
        '    parsed.people: [{"name":"Ann","age":null}]',
        "    parsed.tone: null",
        "    words: 5",
    ]
    page = as_html([row(parsed=TYPED)])
    assert "&lt;b&gt;Storm&lt;/b&gt;" in page and "<b>Storm" not in page and ">parsed.people</td>" in page
    assert "fields</th>" in page and "fields</th>" not in as_html([row()]), "only where there are any"
    assert "    parsed: good" in as_text([row(parsed="good")])
    assert "    parsed: [1,2]" in as_text([row(parsed=[1, 2])]), "a typed list is one answer"


def test_an_invalid_answer_is_shown_with_what_is_wrong_with_it() -> None:
    failed = row(error="answer: field 'title': too long", generated_text='{"title": 1}', parsed=None, num_requests=2)
    lines = as_text([failed]).splitlines()
    assert lines[0] == "[1] 1,234 in, 5 out, stop, 2 requests"
    assert lines[-2:] == ["    error: answer: field 'title': too long", '    generated_text: {"title": 1}']
    assert "<b>error:</b> answer: field" in as_html([failed])


def test_the_answers_of_one_row_are_numbered_and_so_are_their_fields() -> None:
    several = row(generated_texts=["one", "<two>"], parsed=[{"a": 1, "b": "x"}, None])
    assert as_text([several]).splitlines()[-6:] == [
        "    generated_text [1]: one",
        "    generated_text [2]: <two>",
        "    parsed.a [1]: 1",
        "    parsed.a [2]: null",
        "    parsed.b [1]: x",
        "    parsed.b [2]: null",
    ]
    assert "<b>[2]</b> &lt;two&gt;" in as_html([several])


def test_a_rollout_shows_its_columns_and_how_often_it_asked() -> None:
    made = row(prompt=None, num_requests=3, best="<i>two</i>", scores=[1, 2])
    text = as_text([made])
    assert "    | (a rollout: 3 requests)" in text and "    best: <i>two</i>" in text and "    scores: [1,2]" in text
    assert "&lt;i&gt;two" in as_html([made]) and "(a rollout: 1 request)" in as_text([{**made, "num_requests": 1}])


def test_pictures_are_shown_small_in_a_table_and_named_in_a_terminal() -> None:
    Image.new("RGB", (640, 480), "red").save(file := io.BytesIO(), "PNG")
    media = [
        Thumbnail.of(Medium("image", file.getvalue(), "d", 640, 480)),
        Thumbnail.of(Medium("audio", b"", "e", seconds=3.25)),
    ]
    text, page = as_text([row(media=media)]), as_html([row(media=media), row()])
    assert "    | <image 640x480>\n    | <audio 3.2 s>\n    generated_text" in text
    assert page.count("<img ") == 1 and "&lt;audio 3.2 s&gt;" in page
    small = Image.open(io.BytesIO(base64.b64decode(page.split("base64,")[1].split("'")[0])))
    assert small.size == (SIDE, SIDE * 3 // 4) and "media" not in page.replace("alt=", "")
