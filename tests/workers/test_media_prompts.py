"""Rows with pictures in the CPU stage: read, counted, their places in the prompt checked; a bad one fails its row."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tiny_ears
import tokenizer_builders

from rayllm_batch import ChatWorkloadBase, init_engine_from_config
from rayllm_batch.engine.base import Reply, Request
from rayllm_batch.errors import EngineError, RolloutError
from rayllm_batch.media.rules import MediaRules
from rayllm_batch.output import run_columns
from rayllm_batch.output.finished_rows import UNKNOWN
from rayllm_batch.tasks.generate import Generate
from rayllm_batch.workers import prompts
from rayllm_batch.workers.answering import Answering
from rayllm_batch.workers.media_prompts import MediaPrompts
from rayllm_batch.workers.monitor_client import Told
from rayllm_batch.workers.rollouts import Rollouts

PARTS = (
    "{% for m in messages %}{{ m.role }}: {% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}"
    "{% else %}{{ '<' ~ p.type ~ '>' }}{% endif %}{% endfor %};{% endfor %}"
)
EITHER = PARTS.replace("{% for p", "{% if m.content is string %}{{ m.content }}{% else %}{% for p").replace(
    "{% endif %}{% endfor %};", "{% endif %}{% endfor %}{% endif %};"
)
TEXT_ONLY = "{% for m in messages %}{{ m.role + ': ' + m.content + ';' }}{% endfor %}"
BLIND = "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"


class Processor:
    """As transformers': a token for each ten pixels of width."""

    image_processor, image_token = object(), "<image>"
    chat_template = None

    def _get_num_multimodal_tokens(self, image_sizes: Any, **kwargs: Any) -> Any:
        return SimpleNamespace(num_image_tokens=[width // 10 * kwargs.get("times", 1) for _, width in image_sizes])


def picture(width: int, height: int = 10, colour: str = "red") -> bytes:
    from PIL import Image

    Image.new("RGB", (width, height), colour).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenizer_builders.byte_level_bpe(
        tmp_path_factory.mktemp("model"), bos_in_template=False, bos_by_tokenizer=False
    )


@pytest.fixture(autouse=True)
def _no_cached_tokenizer() -> Iterator[None]:
    yield
    for name in ("_rayllm_batch_tokenizer", "_rayllm_batch_processor"):
        sys.__dict__.pop(name, None)


def parse_row(row: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": row["content"]}], **row.get("beside", {})}


def seen(source: Any) -> dict[str, Any]:
    return {"type": "image", "image": source}


def said(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def built(
    folder: Path, *contents: Any, processor: Any = Processor, template: str = EITHER, **media: Any
) -> list[dict[str, Any]]:
    media = {"rules": MediaRules(), "model": "the-model", **media}
    sys.__dict__["_rayllm_batch_processor"] = {repr(("the-model", {})): processor()}
    job = prompts.PromptJob(
        parse_row=lambda row: {"messages": [{"role": "user", "content": contents[row["n"]]}]},
        tokenizer=str(folder),
        chat_template=template,
        media=MediaPrompts(**media),
    )
    rows = run_columns.stage_rows(prompts.build_prompts(pa.table({"n": list(range(len(contents)))}), job))
    for row in rows:
        row["text"] = row[run_columns.TOKEN_IDS] is not None and prompts.loaded(job, True).decode(
            row[run_columns.TOKEN_IDS].tolist()
        )
    return rows


def errors(rows: list[dict[str, Any]]) -> list[Any]:
    return [row[run_columns.STAGE_ERROR] for row in rows]


def test_media_travel_once_a_row_beside_their_placeholders(folder: Path) -> None:
    red, blue = picture(30), picture(50, colour="blue")
    one, several, none = built(
        folder, [seen(red), said("what?")], [seen(red), said("or"), seen(blue), seen(red)], [said("a"), said("b")]
    )
    assert one["text"] == "user: <image>what?;" and several["text"] == "user: <image>or<image><image>;"
    assert [(its.kind, its.data, its.width) for its in run_columns.media_of(one)[0]] == [("image", red, 30)]
    assert run_columns.media_of(one)[1] == 2
    assert [its.data for its in run_columns.media_of(several)[0]] == [red, blue, red]
    assert [its.as_py()["data"] is None for its in several[run_columns.MEDIA]] == [False, False, True]
    assert none["text"] == "user: a\nb;" and run_columns.media_of(none) == ((), 0) and none[run_columns.REQUEST] is None


def test_what_is_asked_differs_by_the_pictures(folder: Path) -> None:
    rows = built(folder, *([seen(picture(30, colour=colour)), said("what?")] for colour in ("red", "blue", "red")))
    requests = [row[run_columns.REQUEST] for row in rows]
    assert requests[0] == requests[2] != requests[1] and "media" in requests[0]


@pytest.mark.parametrize("template", [PARTS, EITHER])
def test_templates_that_take_parts_get_parts(folder: Path, template: str) -> None:
    row, text = built(folder, [said("in"), seen(picture(10)), said("between")], "no picture", template=template)
    assert row["text"] == "user: in<image>between;" and text["text"] == "user: no picture;"


def test_templates_of_texts_get_the_placeholders_first(folder: Path) -> None:
    [row] = built(folder, [said("one"), seen(picture(10)), said("two")], template=TEXT_ONLY)
    assert row["text"] == "user: <image>\none\ntwo;"

    class Nameless(Processor):
        image_token = None  # type: ignore[assignment]

    [row] = built(folder, [seen(picture(10))], template=TEXT_ONLY, processor=Nameless)
    assert "takes texts alone, and its processor names no image_token" in row[run_columns.STAGE_ERROR]


def test_a_template_that_leaves_a_picture_out_is_an_error(folder: Path) -> None:
    [row] = built(folder, [seen(picture(10)), said("what?")], template=BLIND)
    assert errors([row]) == ["media: the prompt has 0 places for its 1 image: see chat_template"]


def test_a_text_cannot_make_a_place_for_a_picture(folder: Path) -> None:
    seam = [said("<ima"), said("ge>"), seen(picture(10))]
    *rows, sewn = built(folder, [said("<image>"), seen(picture(10))], [seen(picture(10)), said("fine")], seam)
    assert sewn[run_columns.STAGE_ERROR].startswith("media: the prompt has 2 places for its 1 image")
    assert "its text has '<image>', which stands for media" in rows[0][run_columns.STAGE_ERROR]
    assert rows[1][run_columns.STAGE_ERROR] is None


def test_a_model_for_text_says_so(folder: Path) -> None:
    class OfText:
        pass

    class Hears(Processor):
        image_processor, feature_extractor = None, object()

    rows = built(
        folder,
        [seen(picture(10))],
        [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}],
        "x",
        processor=OfText,
    )
    assert "it has 1 image, but the model is one for text alone" in errors(rows)[0]
    assert errors(rows)[1].startswith("parse_row: ") and errors(rows)[2] is None
    [row] = built(folder, [seen(picture(10)), seen(picture(20))], processor=Hears)
    assert "it has 2 images, but the model takes audio" in row[run_columns.STAGE_ERROR]


def test_more_media_than_the_context_has_tokens_are_not_fetched(folder: Path) -> None:
    kwargs = {"max_model_len": 20}
    config = init_engine_from_config(
        {"model_id": "the-model", "llm_engine": "vllm", "accelerator_type": "CPU", "engine_kwargs": kwargs}
    )
    made = vars(MediaPrompts.of(config, MediaRules()))
    gone = {"type": "image", "image": "https://a.example/b.png"}
    few, many = built(folder, [gone] * 19, [gone] * 20, **made)
    assert "is not fetched" in few[run_columns.STAGE_ERROR]
    assert "it has 20 images, of a token or more each, but max_model_len is 20" in many[run_columns.STAGE_ERROR]


def test_limits_and_processor_settings_are_the_engines(folder: Path) -> None:
    config = init_engine_from_config(
        {
            "model_id": "the-model",
            "llm_engine": "vllm",
            "accelerator_type": "CPU",
            "engine_kwargs": {"limit_mm_per_prompt": {"image": {"count": 1}}, "mm_processor_kwargs": {"times": 3}},
        }
    )
    made = vars(MediaPrompts.of(config, MediaRules()))
    one, two = built(folder, [seen(picture(20))], [seen(picture(20))] * 2, **made)
    assert "2 images, but limit_mm_per_prompt in engine_kwargs allows 1" in two[run_columns.STAGE_ERROR]
    assert run_columns.media_of(one)[1] == 5


def test_a_bad_picture_is_its_rows_error_and_says_which(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(picture(10))
    good = picture(10)
    rows = built(
        folder,
        [seen(good), seen(b"nothing")],
        [seen("good.png")],
        [seen({"bytes": None, "path": "missing.png"})],
        [{"type": "image_url", "image_url": {"url": "http://example.org/a.png"}}],
        [seen(np.zeros((4, 4, 3), dtype=np.uint8))],
        rules=MediaRules(folder=str(tmp_path)),
    )
    first, named, missing, remote, array = errors(rows)
    assert first.startswith("media: 2 of 2: ") and missing.startswith("media: ")
    assert remote.startswith("media: ") and named is None and array is None
    assert all(row[run_columns.TOKEN_IDS] is None for row in rows if row[run_columns.STAGE_ERROR])


def test_what_a_processor_trips_over_is_the_rows_error(folder: Path) -> None:
    class Picky(Processor):
        def _get_num_multimodal_tokens(self, image_sizes: Any, **kwargs: Any) -> Any:
            raise ValueError("absolute aspect ratio must be smaller than 200")

    [row] = built(folder, [seen(picture(500, 1))], processor=Picky)
    assert row[run_columns.STAGE_ERROR].startswith("media: the model's processor does not take it: ValueError: abs")


def test_tables_with_media_are_of_a_bounded_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "PART_BYTES", 2 * len(picture(10)))
    sys.__dict__["_rayllm_batch_processor"] = {repr(("the-model", {})): Processor()}
    job = prompts.PromptJob(
        parse_row=lambda row: {"messages": [{"role": "user", "content": [seen(picture(10)), said(row["t"])]}]},
        tokenizer=str(folder),
        chat_template=EITHER,
        media=MediaPrompts(MediaRules(), "the-model"),
        sort=True,
    )
    table = pa.table({"t": list("edcba")})
    tables = list(prompts.prompt_tables(table, job))
    assert [one.num_rows for one in tables] == [2, 2, 1] and len({str(one.schema) for one in tables}) == 1
    assert [row["t"] for one in tables for row in one.to_pylist()] == list("abcde"), "in the order of their ids"


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ({"type": "image"}, "must be {\"type\": 'image', 'image': ...}"),
        ({"type": "image", "image": b"x", "url": "y"}, "and no more"),
        (
            {"type": "image_url", "image_url": {"url": "https://a/b", "detail": "high"}},
            "detail of an image_url would have",
        ),
        ({"type": "image_url", "image_url": {}}, 'must be {"url": "https://..."}'),
        ({"type": "input_audio", "input_audio": {"data": "AA=="}}, '"format": "wav"'),
        ({"type": "imag_url", "image_url": {}}, "Did you mean 'image_url'?"),
        ({"type": "video_url", "video_url": 5}, 'must be {"url"'),
    ],
)
def test_a_part_of_another_form_is_an_error_of_parse_row(folder: Path, part: dict[str, Any], why: str) -> None:
    [row] = built(folder, [part])
    assert row[run_columns.STAGE_ERROR].startswith("parse_row: ") and why in row[run_columns.STAGE_ERROR]


def test_sounds_are_counted_by_silence_of_their_length(folder: Path) -> None:
    class Hears(Processor):
        audio_token, feature_extractor, image_processor = "<audio>", SimpleNamespace(sampling_rate=100), None

        def tokenizer(self, text: str) -> dict[str, Any]:
            return {"input_ids": [7]}

        def __call__(self, text: str, audio: Any, sampling_rate: int) -> dict[str, Any]:
            assert not audio[0].any() and text == "<audio>"
            return {"input_ids": [[7] * (len(audio[0]) // 10)]}

    part = {"type": "audio", "audio": tiny_ears.sound(1.5, 440)}
    in_text = {
        "type": "input_audio",
        "input_audio": {"data": base64.b64encode(part["audio"]).decode(), "format": "wav"},
    }
    rows = built(
        folder,
        [part, said("what?")],
        [in_text],
        [part, part],
        [{"type": "audio", "audio": part["audio"][:60]}],
        processor=Hears,
    )
    assert [run_columns.media_of(row)[1] for row in rows] == [14, 14, 28, 0]
    assert rows[0]["text"] == "user: <audio>what?;" and rows[3][run_columns.STAGE_ERROR].startswith(
        "media: the audio ends"
    )


def test_an_engine_that_takes_no_media_gets_none(folder: Path) -> None:
    rows = built(folder, [seen(picture(10))], "text", blind="parrot")
    assert errors(rows) == ["media: it has 1 image, but llm_engine parrot takes text alone", None]
    job = prompts.PromptJob(
        parse_row=lambda row: {"messages": [{"role": "user", "content": [seen(picture(10))]}]},
        tokenizer="",
        as_text=True,
        media=MediaPrompts(MediaRules(), as_text=True, blind="parrot"),
    )
    [row] = run_columns.stage_rows(prompts.build_prompts(pa.table({"n": [0]}), job))
    assert "takes text alone" in row[run_columns.STAGE_ERROR] and run_columns.media_of(row) == ((), 0)


def test_a_processor_that_does_not_load_ends_the_run(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "NoSuchProcessor"}')
    media = MediaPrompts(MediaRules(), str(tmp_path))
    job = prompts.PromptJob(
        parse_row=lambda row: {"messages": [{"role": "user", "content": [seen(picture(10))]}]},
        tokenizer=str(folder),
        chat_template=EITHER,
        media=media,
    )
    with pytest.raises(EngineError, match="processor of .* cannot be loaded"):
        prompts.build_prompts(pa.table({"n": [0]}), job)


def test_a_folder_of_answers_tells_pictures_apart(folder: Path) -> None:
    """What is asked of a row is kept as a digest, beside its answer."""
    sys.__dict__["_rayllm_batch_processor"] = {repr(("the-model", {})): Processor()}
    job = prompts.PromptJob(
        parse_row=lambda row: {"messages": [{"role": "user", "content": [seen(row["picture"]), said("what?")]}]},
        tokenizer=str(folder),
        chat_template=EITHER,
        media=MediaPrompts(MediaRules(), "the-model"),
        with_row_ids=True,
        id_column="id",
    )
    pictures = [picture(10), picture(10, colour="blue"), picture(10), b"none"]
    table = prompts.build_prompts(pa.table({"id": [1, 2, 3, 4], "picture": pictures}), job)
    asked = table.column(run_columns.ASKED).to_pylist()
    assert asked[0] == asked[2] != asked[1] and asked[3] == UNKNOWN
    assert [prompts.digest_of(row, job) for row in run_columns.stage_rows(table)] == asked
    assert table.column("picture").to_pylist() == pictures, "what came in goes out"


def test_no_row_is_read_beside_one_of_endless_media() -> None:
    def together(*counts: int, **rules: Any) -> list[list[int]]:
        rows = [(n, [("image", b"")] * count) for n, count in enumerate(counts)]
        return [[n for n, _ in some] for some in MediaPrompts(MediaRules(**rules))._together(rows)]

    assert together(1, 1, 1000, 1) == [[0, 1], [2], [3]]
    assert together(20, 12, 1) == [[0, 1], [2]] and together() == []
    assert together(1, 1, 1, max_bytes=1 << 30) == [[0, 1], [2]], "as many as may be in memory"


def test_a_signed_url_is_in_no_error(folder: Path) -> None:
    url = "https://bucket.example/a.png?sig=hunter2"
    parts = [
        {"type": "image_url", "image_url": {"url": url, "size": "big"}},
        {"type": "image_url", "image_url": {"url": url, "detail": "high"}},
        {"type": "image", "image": url, "path": "x"},
        {"type": "input_audio", "input_audio": {"data": url}},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image", "image": {"bytes": None, "path": url}},
    ]
    for error in errors(built(folder, *([part] for part in parts))):
        assert error and "hunter2" not in error and "sig=" not in error


def test_settings_of_vllms_own_reading_are_not_ignored(folder: Path) -> None:
    def of(**kwargs: Any) -> dict[str, Any]:
        given = {"model_id": "the-model", "llm_engine": "vllm", "accelerator_type": "CPU"}
        config = init_engine_from_config({**given, "engine_kwargs": {"media_io_kwargs": kwargs}})
        return vars(MediaPrompts.of(config, MediaRules()))

    [row] = built(folder, [seen(picture(10))], **of(video={"num_frames": 8}))
    assert row[run_columns.STAGE_ERROR] is None
    [row] = built(folder, [seen(picture(10))], **of(image={"image_mode": None}, video={"num_frames": 8}))
    assert "media_io_kwargs in engine_kwargs has image.image_mode, without effect" in row[run_columns.STAGE_ERROR]


OWN_RULES = MediaRules()


class Seeing:
    """Replies with what it sees; the first answer to a question for "yes" is none."""

    max_model_len, vocab_size = 400, None

    def __init__(self) -> None:
        self.asked = list[Request]()

    async def generate(self, request: Request) -> Reply:
        self.asked.append(request)
        widths = " ".join(str(one.width) for one in request.media)
        is_first = "structured_outputs" in request.settings and len(self.asked) == 1
        return Reply(widths if is_first or "structured_outputs" not in request.settings else "yes", 1, "stop")


def rolled(folder: Path, roll: Any, rules: MediaRules = OWN_RULES, **workload: Any) -> tuple[Any, Any]:
    class Mine(ChatWorkloadBase):
        async def rollout(self, row: dict[str, Any], generate: Any) -> Any:
            return await roll(generate)

    sys.__dict__["_rayllm_batch_processor"] = {repr(("the-model", {})): Processor()}
    mine = Mine(**workload)
    task: Any = Generate().of(mine, {})
    job: Any = prompts.PromptJob(
        parse_row=dict,
        tokenizer=str(folder),
        chat_template=EITHER,
        task=task,
        media=MediaPrompts(rules, "the-model"),
        rollouts=partial(Rollouts, mine.rollout, task.limits.timeout_s),
    )
    engine: Any = Seeing()
    config = SimpleNamespace(engine_kwargs={}, gpus_per_replica=0)
    replica: Any = SimpleNamespace(prompt=job, deduplicate=True, config=config)

    async def run() -> Any:
        answering = Answering(engine, replica, Told(), lambda reason: None)
        [row] = run_columns.stage_rows(prompts.build_prompts(pa.table({"id": [1]}), job))
        try:
            return await answering.roll(row, {"id": 1})
        finally:
            answering.end()

    return asyncio.run(run()), engine


def ask(*contents: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(contents)}]


def test_a_rollout_gives_media_as_parse_row_does(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "wide.png").write_bytes(picture(50))

    async def roll(generate: Any) -> dict[str, Any]:
        given = [seen(picture(30)), seen("wide.png"), seen(picture(30))]
        first = await generate(ask(*given, said("which?")))
        same = await asyncio.gather(generate(ask(seen(picture(30)))), generate(ask(seen(picture(40)))))
        return {"said": [first.text, *(one.text for one in same)], "tokens": first.num_input_tokens}

    answer, engine = rolled(folder, roll, MediaRules(folder=str(tmp_path)), sampling_params={"temperature": 0.0})
    assert answer.error is None and answer.own_columns["said"] == ["30 50 30", "30", "40"], "equal prompts, others seen"
    [first, *_] = engine.asked
    assert first.media_tokens == 2 + 4 + 2 and answer.own_columns["tokens"] == first.num_input_tokens
    assert [one.data for one in first.media] == [picture(30), picture(50), picture(30)]
    assert answer.num_input_tokens == sum(one.num_input_tokens for one in engine.asked)


def test_an_answer_about_a_picture_is_asked_for_again_with_it(folder: Path) -> None:
    async def roll(generate: Any) -> dict[str, Any]:
        return {"said": (await generate(ask(seen(picture(30)), said("big?")), output_schema=["yes", "no"])).text}

    answer, engine = rolled(folder, roll, reask=1)
    assert answer.own_columns == {"said": "yes"} and answer.num_reasks == 1
    assert [[one.width for one in request.media] for request in engine.asked] == [[30], [30]]


def test_rollouts_hold_few_bytes_of_media_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayllm_batch.workers.answering.MEDIA_BYTES", int(2.5 * len(picture(30))))
    at_once, most = 0, 0

    async def slowly(self: Any, request: Request) -> Reply:
        nonlocal at_once, most
        at_once += len(request.media)
        most = max(most, at_once)
        await asyncio.sleep(0.02)
        at_once -= len(request.media)
        return Reply("seen", 1, "stop")

    monkeypatch.setattr(Seeing, "generate", slowly)

    async def roll(generate: Any) -> dict[str, Any]:
        asked = [seen(picture(30, colour=colour)) for colour in ("red", "blue", "green", "white", "black")]
        found = await asyncio.gather(*(generate(ask(one)) for one in asked), generate(ask(said("text"))))
        return {"said": [one.text for one in found]}

    answer, _ = rolled(folder, roll)
    assert answer.own_columns == {"said": ["seen"] * 6} and most == 2


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("https://a.example/b.png", "media: .*add 'a.example' to the workload's media_hosts"),
        ("../b.png", "media: .*it is not below media_folder"),
        ("gone.png", "media: 1 of 2: .*No such file"),
        (b"no picture", "media: .*the bytes are no image"),
        (object(), "media: .*but a object was given"),
        (SimpleNamespace(url="https://user:secret@a.example"), "media: .*but a SimpleNamespace was given"),
    ],
)
def test_a_rollouts_medium_that_cannot_be_had(folder: Path, tmp_path: Path, source: Any, wanted: str) -> None:
    async def roll(generate: Any) -> dict[str, Any]:
        with contextlib.suppress(RolloutError):
            await generate(ask(*[seen(source)] * (1 + ("gone" in str(source)))))
        assert (await generate(ask(said("still there?")))).text == ""
        return {"said": (await generate(ask(*[seen(source)] * (1 + ("gone" in str(source)))))).text}

    answer, engine = rolled(folder, roll, MediaRules(folder=str(tmp_path)))
    assert re.match(f"rollout: {wanted}", answer.error) and "secret" not in answer.error and len(engine.asked) == 1
