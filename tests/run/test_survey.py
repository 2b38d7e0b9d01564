"""Rows beside a folder of answers: which are asked something else now, and of which that cannot be known."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rayllm_batch.data.row_id import as_pairs, row_ids
from rayllm_batch.media.rules import MediaRules
from rayllm_batch.output import run_columns
from rayllm_batch.output.finished_rows import Asked
from rayllm_batch.run.survey import are_asked_the_same, look
from rayllm_batch.workers.media_prompts import MediaPrompts
from rayllm_batch.workers.prompts import PromptJob, digest_of, prompt_tables


def picture(colour: str) -> bytes:
    from PIL import Image

    Image.new("RGB", (8, 8), colour).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def job(folder: Path, question: str = "What?") -> PromptJob:
    def parse_row(row: dict[str, Any]) -> dict[str, Any]:
        media = [{"type": "image", "image": one} for one in row["sources"]]
        return {"messages": [{"role": "user", "content": [*media, {"type": "text", "text": question}]}]}

    media = MediaPrompts(MediaRules(folder=str(folder)), as_text=True)
    return PromptJob(parse_row, tokenizer="", as_text=True, media=media)


INSIDE = "data:image/png;base64," + base64.b64encode(picture("blue")).decode()
TABLE = pa.Table.from_pylist([{"sources": its} for its in (["a.png"], ["b.png"], [INSIDE], [], ["a.png", "b.png"])])


@pytest.fixture
def answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Asked]:
    import ray

    monkeypatch.setattr(ray, "get", lambda one: one)
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(picture("red"))
    rows = [row for part in prompt_tables(TABLE, job(tmp_path)) for row in run_columns.stage_rows(part)]
    assert not any(row[run_columns.STAGE_ERROR] for row in rows)
    digests = np.array([digest_of(row, job(tmp_path)) for row in rows], dtype=np.uint64)
    return tmp_path, Asked(as_pairs(b"".join(row_ids(TABLE, None))), digests)


def found(folder: Path, asked: Asked, job_now: PromptJob) -> tuple[list[int], int, int, str]:
    """Which rows are asked something else, how many were compared, how many not, and the error of one."""
    [row] = look(TABLE, job_now, asked, parse=True).to_pylist()
    ids = row_ids(TABLE, None)
    changed = [i for i, one in enumerate(ids) if one in row["changed"]]
    assert row["known"] == b"".join(ids) and not row["new"]
    return changed, row["compared"], row["unread"], row["why"]


def test_the_same_is_the_same(answered: tuple[Path, Asked]) -> None:
    assert found(*answered, job(answered[0])) == ([], 5, 0, "")


def test_the_driver_knows_what_is_the_same_and_leaves_the_rest_to_a_task(answered: tuple[Path, Asked]) -> None:
    folder, asked = answered
    halves = [TABLE.slice(0, 3), TABLE.slice(3)]
    assert are_asked_the_same(halves, asked, job(folder))
    assert not are_asked_the_same(halves, asked, job(folder, "Why?"))
    no_tokenizer = replace(job(folder), as_text=False, tokenizer=str(folder), media=None)
    assert not are_asked_the_same(halves, asked, no_tokenizer)


def test_another_question_and_another_picture_are_something_else(answered: tuple[Path, Asked]) -> None:
    folder, asked = answered
    assert found(folder, asked, job(folder, "Why?")) == ([0, 1, 2, 3, 4], 5, 0, "")
    (folder / "b.png").write_bytes(picture("green"))
    assert found(folder, asked, job(folder)) == ([1, 4], 5, 0, "")


def test_of_media_that_are_gone_nothing_is_known(answered: tuple[Path, Asked]) -> None:
    folder, asked = answered
    (folder / "b.png").unlink()
    changed, compared, unread, why = found(folder, asked, job(folder))
    assert (changed, compared, unread) == ([], 3, 2) and why.startswith("media: ") and "b.png" in why
    changed, compared, unread, _ = found(folder, asked, job(folder, "Why?"))
    assert (changed, compared, unread) == ([0, 2, 3], 3, 2), "what can be read is compared"


def test_of_a_folder_that_is_gone_or_not_allowed_any_more_too(answered: tuple[Path, Asked]) -> None:
    folder, asked = answered
    for rules in (MediaRules(), MediaRules(folder=str(folder / "gone")), MediaRules(folder=str(folder), max_bytes=10)):
        now = replace(job(folder), media=MediaPrompts(rules, as_text=True))
        changed, compared, unread, _ = found(folder, asked, now)
        assert not changed and compared + unread == 5 and unread >= 3
