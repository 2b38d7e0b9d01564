"""Whether the answers fit on the disk: refused where they surely do not, warned of where they may not."""

from __future__ import annotations

import logging
import random
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rayllm_batch.errors import OutputError
from rayllm_batch.output.fingerprint import Job
from rayllm_batch.output.folder import OutputFolder
from rayllm_batch.output.part_file import PartFile, encoded
from rayllm_batch.run import output_room
from rayllm_batch.run.output_room import check_output_room
from rayllm_batch.run.rows import SAMPLE_ROWS, Rows
from rayllm_batch.tasks.generate import TOKENS, Generate

WORDS = [
    f"{a}{b}"
    for a in ("re", "con", "mar", "tel", "os", "quin", "vor")
    for b in ("tion", "ped", "al", "ist", "um", "ering")
]
WORKLOAD = SimpleNamespace(sampling_params={"max_tokens": 100})


def article(number: int) -> dict[str, Any]:
    return {"id": number, "article": " ".join(random.Random(number).choices(WORDS, k=400))}


SAMPLE = [article(number) for number in range(SAMPLE_ROWS)]


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the bytes that are free, and keeps the folders that were asked about."""
    asked: list[str] = []

    def leave(number: float) -> list[str]:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or SimpleNamespace(free=int(number)))
        return asked

    return leave


def folder(path: Path, output_format: str = "parquet") -> OutputFolder:
    return OutputFolder(path, Job({"model_id": "org/model"}), output_format)


@pytest.mark.parametrize("output_format", ["parquet", "jsonl"])
def test_the_estimate_holds_for_files_as_they_are_written(
    output_format: str, tmp_path: Path, free: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rows = Rows(None, SAMPLE, 4000)
    size = len(encoded(pa.Table.from_pylist([article(number) for number in range(4000)]), output_format).content)
    asked = free(size)
    check_output_room(
        folder(tmp_path, output_format), rows, WORKLOAD
    )  # the input alone fills the disk: that may not fit
    assert "may not fit: 4,000 rows need up to" in caplog.text and asked == [str(tmp_path)]
    caplog.clear()
    free(size * 0.2)
    with pytest.raises(
        OutputError, match=rf"does not fit: 4,000 rows .* as {output_format} need .* larger disk, or a URI"
    ):
        check_output_room(folder(tmp_path, output_format), rows, WORKLOAD)
    free(size * 1.2 + 4000 * (100 * output_room.BYTES_PER_TOKEN + 48))
    check_output_room(folder(tmp_path, output_format), rows, WORKLOAD)
    assert not caplog.text


def test_rows_that_are_there_already_need_no_room(tmp_path: Path, free: Any, caplog: pytest.LogCaptureFixture) -> None:
    free(1000)
    with folder(tmp_path) as begun:
        begun.store("part-000001-aaaaaaaa.parquet", PartFile(b"rows", pa.schema([("a", pa.int64())])), bytes(16 * 4000))
        check_output_room(begun, Rows(None, SAMPLE, 4000), WORKLOAD)
        assert not caplog.text
        with pytest.raises(OutputError, match="does not fit: 8,000 rows"):
            check_output_room(begun, Rows(None, SAMPLE, 12_000), WORKLOAD)


def test_the_answers_count_but_they_may_be_short(tmp_path: Path, free: Any, caplog: pytest.LogCaptureFixture) -> None:
    free(50_000_000)
    check_output_room(
        folder(tmp_path), Rows(None, [{"id": 1}], 20_000), SimpleNamespace(sampling_params={"max_tokens": 1000})
    )
    assert [record.levelno for record in caplog.records] == [logging.WARNING] and "1,000 tokens a row" in caplog.text
    caplog.clear()
    for workload in (
        SimpleNamespace(sampling_params={}),
        SimpleNamespace(),
        SimpleNamespace(sampling_params={"max_tokens": None}),
    ):
        check_output_room(folder(tmp_path), Rows(None, [{"id": 1}], 20_000), workload)
    assert not caplog.text, "an answer without a limit may be short"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"logprobs": 5}, "100 tokens a row with 600 logprobs"),
        ({"n": 3, "logprobs": 0}, "300 tokens a row with 300 logprobs"),
        ({"logprob_token_ids": [3, 4]}, "100 tokens a row with 300 logprobs"),
        ({"prompt_logprobs": 1}, "100 tokens a row with 1,000 logprobs"),
        ({"prompt_logprobs": 0}, "100 tokens a row with 500 logprobs"),
    ],
)
def test_logprobs_count(asked: dict[str, Any], said: str, tmp_path: Path, free: Any, caplog: Any) -> None:
    task = Generate({"max_tokens": 100, **asked})
    settings = SimpleNamespace(sampling_params=task.settings)
    rows = Rows(None, [{"id": 1}], 20_000, chats=({"prompt": "word" * 500},), task=task)
    free(20_000 * 700)
    check_output_room(folder(tmp_path), Rows(None, [{"id": 1}], 20_000, task=Generate({"max_tokens": 100})), WORKLOAD)
    assert not caplog.text, "without them it fits"
    for output_format in ("parquet", "jsonl"):
        caplog.clear()
        check_output_room(folder(tmp_path / output_format, output_format), rows, settings)
        assert said in caplog.text


def test_the_size_of_a_logprob() -> None:
    draw = random.Random(4)

    def entry(rank: int) -> dict[str, Any]:
        at = draw.randrange(len(WORDS))
        return {"token_id": at * 700, "token": WORDS[at], "logprob": -draw.expovariate(1.0), "rank": rank}

    column = pa.array([[[entry(rank) for rank in range(1, 7)] for _ in range(100)] for _ in range(30)], type=TOKENS)
    for output_format, each in output_room.LOGPROB_BYTES.items():
        size = len(encoded(pa.table({"logprobs": column}), output_format).content) / len(column) / 600
        assert 0.6 * each < size < 1.2 * each


def test_more_rows_asked_for_than_there_may_be_are_not_refused(
    tmp_path: Path, free: Any, caplog: pytest.LogCaptureFixture
) -> None:
    free(1000)
    check_output_room(folder(tmp_path), Rows(None, SAMPLE, 10**9, total_is_a_limit=True), WORKLOAD)
    assert "may not fit" in caplog.text


def test_what_is_not_known_is_left_alone(tmp_path: Path, free: Any, caplog: pytest.LogCaptureFixture) -> None:
    asked = free(0)
    check_output_room(folder(tmp_path), Rows(None, SAMPLE, None), WORKLOAD)
    elsewhere = folder(tmp_path)
    elsewhere.place.is_local = False  # s3://
    check_output_room(elsewhere, Rows(None, SAMPLE, 10**9), WORKLOAD)
    assert asked == [] and not caplog.text


def test_columns_without_a_plain_type_end_no_run(tmp_path: Path, free: Any) -> None:
    free(10_000)
    for strange in (np.zeros((2, 2)), {1, 2}, 2**70):
        check_output_room(folder(tmp_path), Rows(None, [{"image": strange}], 1), WORKLOAD)


@pytest.mark.parametrize("value", [object(), [{"deep": object()}], {"key": (1, object())}, np.array([1, object()])])
@pytest.mark.parametrize("output_format", ["parquet", "jsonl"])
def test_objects_that_no_file_can_hold_are_refused_by_name(tmp_path: Path, value: Any, output_format: str) -> None:
    rows = Rows(None, [{"text": "a", "picture": None}, {"text": "b", "picture": value}], 2)
    with pytest.raises(OutputError, match=r"cannot hold the column 'picture'.*type object.*or run without output_path"):
        check_output_room(folder(tmp_path, output_format), rows, WORKLOAD)
