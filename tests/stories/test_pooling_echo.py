"""Embeddings and scores of an engine without a model, through Ray, a folder, preview, estimate and report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pooled_job
import pooled_rows
import pyarrow as pa
import pyarrow.parquet
import pytest

from rayllm_batch import ChatWorkloadBase, RayLLMBatch, init_engine_from_config
from rayllm_batch.errors import OutputError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
TEXTS = [f"Article {n} is about {what}." for n in range(20) for what in ("the harbour", "money")]


def config(task: str, **engine_kwargs: Any) -> Any:
    return init_engine_from_config(
        {
            "model_id": "assets/demo-model",
            "llm_engine": "echo",
            "accelerator_type": "CPU",
            "task": task,
            "engine_kwargs": {"max_model_len": 64, **engine_kwargs},
        }
    )


def rows(put: Callable[[str, bytes], Path], texts: list[str]) -> str:
    lines = [json.dumps({"id": n, "text": text}) for n, text in enumerate(texts)]
    return str(put("rows.jsonl", "\n".join(lines).encode()))


class Texts(ChatWorkloadBase):
    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        if row["text"] == "bad":
            return {"text": row["text"]}
        return {"prompt": row["text"]}


class Pairs(ChatWorkloadBase):
    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        if row["id"] % 2:
            return {"query": row["text"], "document": row["text"]}
        return {"query": row["text"], "documents": [TEXTS[0], row["text"]]}


def test_embeddings_in_a_folder_that_is_continued(
    put: Callable[[str, bytes], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls, folder = tmp_path / "calls", tmp_path / "out"
    texts = [*TEXTS, TEXTS[0], "bad", "far too long " * 64]
    embed = config("embed", calls_file=str(calls))
    batch = RayLLMBatch(embed, Texts(dataset_file=rows(put, texts[:10])))
    batch.preview(3)
    shown = capsys.readouterr().out
    assert "embedding: 256 numbers: " in shown and "Nearest by cosine: [1] and [2] 0." in shown
    said = str(batch.estimate(sample_rows=4))
    assert "decode" not in said and "output" not in said and "bound by" in said
    batch.run(folder, id_column="id")
    assert "rows/s" in capsys.readouterr().out
    calls.write_bytes(b"")
    more = RayLLMBatch(embed, Texts(dataset_file=rows(put, texts)))
    found = {row["id"]: row for row in more.run(folder, id_column="id").take_all()}
    assert len(calls.read_bytes()) == len(TEXTS) - 10 + 1, (
        "the first ten are there, and of two equal texts one is asked"
    )
    failed = {row["id"]: row["error"] for row in found.values() if row["error"]}
    assert "'text' would have no effect: a text goes into \"prompt\"" in failed[len(TEXTS) + 1]
    assert "max_model_len is 64; shorten it, or set truncate_prompt_tokens" in failed[len(TEXTS) + 2]
    assert all(found[n]["embedding"] is None for n in failed) and len(failed) == 2
    parts = [pyarrow.parquet.read_table(path) for path in sorted(folder.glob("part-*.parquet"))]
    kinds = {part.schema.field("embedding").type for part in parts}
    assert {(kind.value_type, kind.list_size) for kind in kinds} == {(pa.float32(), 256)}  # parquet has its own names
    written = [row for part in parts for row in part.select(["id", "embedding"]).to_pylist()]
    vectors = {row["id"]: np.array(row["embedding"]) for row in written}
    assert np.allclose([vector @ vector for vector in vectors.values()], 1, atol=1e-5)
    assert np.array_equal(vectors[0], vectors[len(TEXTS)]) and not np.allclose(vectors[0], vectors[1])
    page = Path(more.report(tmp_path / "report.html")).read_text(encoding="utf-8")
    assert "Prompt length" in page and "utput tokens" not in page and "Finish reasons" not in page
    other = Texts(dataset_file=rows(put, texts), pooling_params={"use_activation": False})
    with pytest.raises(OutputError, match="workload.pooling_params was {}, is"):
        RayLLMBatch(embed, other).run(folder, id_column="id")


def test_scores_and_texts_that_are_cut_as_json(
    put: Callable[[str, bytes], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workload = Pairs(dataset_file=rows(put, [*TEXTS[:5], "long " * 99]), pooling_params={"truncate_prompt_tokens": 32})
    folder = tmp_path / "out"
    found = {
        row["id"]: row for row in RayLLMBatch(config("score"), workload).run(folder, output_format="jsonl").take_all()
    }
    assert found[0]["score"] is None and found[0]["scores"] == pytest.approx([1, 1], abs=1e-5)
    assert found[1]["scores"] is None and found[1]["score"] == pytest.approx(1, abs=1e-5)
    assert found[2]["scores"][0] < found[2]["scores"][1] == pytest.approx(1, abs=1e-5)
    assert [found[n]["truncated"] for n in range(6)] == [False] * 5 + [True] and found[5]["num_input_tokens"] == 64
    assert "1 row(s) had a text that was cut to truncate_prompt_tokens" in capsys.readouterr().out
    lines = [json.loads(line) for path in folder.glob("part-*.jsonl") for line in path.read_text().splitlines()]
    assert sorted(line["id"] for line in lines) == list(range(6)) and isinstance(lines[0]["truncated"], bool)


def test_half_precision_and_classes(put: Callable[[str, bytes], Path], capsys: pytest.CaptureFixture[str]) -> None:
    half = RayLLMBatch(config("embed"), Texts(dataset_file=rows(put, TEXTS[:4]), embedding_dtype="float16")).run()
    assert half.schema().base_schema.field("embedding").type == pa.list_(pa.float16(), 256)
    names = {"hf_overrides": {"id2label": {0: "sea", 1: "money"}}, "convert": "classify"}
    one, *_ = RayLLMBatch(config("classify", **names), Texts(dataset_file=rows(put, TEXTS[:4]))).run().take_all()
    assert "The column `probabilities` has, in this order: sea, money." in capsys.readouterr().out
    assert one["label"] == ["sea", "money"][int(np.argmax(one["probabilities"]))]
    assert sum(one["probabilities"]) == pytest.approx(1, abs=1e-5)


def written(folder: Path) -> int:
    """Rows of the parts that are there: their ids are written before them."""
    parts = [path.name for path in folder.glob("part-*") if path.suffix in (".parquet", ".jsonl")]
    ids = [folder / "_rayllm_batch" / "rows" / f"{name}.ids" for name in parts]
    return sum(json.loads(path.read_bytes().partition(b"\n")[0])["rows"] for path in ids)


@pytest.mark.parametrize("task", pooled_job.FORMATS)
def test_a_driver_that_is_killed_loses_nothing(task: str, tmp_path: Path, ray_cluster: Any) -> None:
    """Of one task, the run that continues has a row of which the engine dies."""
    folder, calls = tmp_path / "out", tmp_path / "calls"
    command = [sys.executable, "tests/support/pooled_job.py", ray_cluster.get_runtime_context().gcs_address, task]
    path = {**os.environ, "PYTHONPATH": os.pathsep.join([".", "tests/support"])}
    with subprocess.Popen([*command, str(folder)], env=path) as driver:
        try:
            deadline = time.monotonic() + 120
            while not written(folder):
                assert driver.poll() is None and time.monotonic() < deadline, driver.poll()
                time.sleep(0.1)
        finally:
            driver.kill()
    done = written(folder)
    assert 0 < done < pooled_job.ROWS - 50, "in the middle"
    poison = {pooled_job.POISON} if task == "score" else set()
    crash = {"crash_on": "hospital"} if poison else {}
    found = pooled_job.run(task, folder, calls_file=str(calls), **crash).take_all()
    rows = {row["id"]: row for row in found}
    assert len(found) == len(rows) == pooled_job.ROWS, "lost, or doubled"
    failed = {number: row["error"] for number, row in rows.items() if row["error"]}
    assert set(failed) == {pooled_job.FAILS} | poison and "fail_on" in failed[pooled_job.FAILS], failed
    assert all("makes the engine crash" in failed[number] for number in poison)
    if not poison:  # after an engine's death, rows are asked again that were not yet delivered
        assert len(calls.read_bytes()) == pooled_job.ROWS - done - 1, "what was written is not computed again"
    numbers = range(pooled_job.ROWS)
    right = pooled_rows.in_echo(
        pooled_job.config(task), [pooled_job.Numbered(task=task).parse_row({"id": number}) for number in numbers]
    )
    for number, row in zip(numbers, right.drop_columns(["asked"]).to_pylist(), strict=True):
        for name in set(row) - {"error"} if number not in failed else ():
            assert rows[number][name] == pytest.approx(row[name], abs=1e-6), (number, name)
