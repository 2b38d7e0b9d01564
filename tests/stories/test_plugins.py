"""A task and an engine that this package does not have, each in a file of its own, by name through the whole of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from rayllm_batch import ChatWorkloadBase, RayLLMBatch, init_engine_from_config
from rayllm_batch.engine import ENGINES
from rayllm_batch.errors import ConfigError, OutputError
from rayllm_batch.tasks import TASKS

DEMO = "configs/demo-cpu.yaml"


@pytest.fixture
def plugins() -> Iterator[None]:
    kept = dict(TASKS._places), dict(ENGINES._places)
    TASKS.register("count", "plugins.count:Count")
    ENGINES.register("parrot", "plugins.parrot:Parrot")
    yield
    TASKS._places, ENGINES._places = kept


def rows(tmp_path: Path) -> str:
    texts = ["one", "two words", "three whole words", "a cat", "", "last"]
    pyarrow.parquet.write_table(pyarrow.table({"text": texts, "id": range(6)}), tmp_path / "rows.parquet")
    return str(tmp_path / "rows.parquet")


class Texts(ChatWorkloadBase):
    def parse_row(self, row: dict[str, Any]) -> Any:
        return row["text"] if row["text"] != "last" else 7


class Chats(ChatWorkloadBase):
    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": row["text"]}]}


def test_names_that_are_not_there() -> None:
    with pytest.raises(
        ConfigError, match="task must be one of generate, embed, classify, score; .*Did you mean 'generate'"
    ):
        init_engine_from_config(DEMO, override={"task": "generat"})
    with pytest.raises(ConfigError, match="llm_engine must be one of vllm, openai, echo; "):
        init_engine_from_config(DEMO, override={"llm_engine": "parrot"})


@pytest.mark.usefixtures("plugins")
def test_settings_that_the_engine_has_and_has_not() -> None:
    no_guesses = {"speculative_config": None}
    own = {"llm_engine": "parrot", "engine_kwargs": {"word": "hello", **no_guesses}}
    assert init_engine_from_config(DEMO, override=own).engine_kwargs["word"] == "hello"
    with pytest.raises(
        ConfigError, match="task: embed needs a pooling engine, but llm_engine in .* is parrot, which only"
    ):
        init_engine_from_config(DEMO, override={"llm_engine": "parrot", "task": "embed", "engine_kwargs": no_guesses})
    with pytest.raises(ConfigError, match="Did you mean 'word'"):
        init_engine_from_config(DEMO, override={"llm_engine": "parrot", "engine_kwargs": {"wrod": "hello"}})


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster", "plugins")
def test_a_task_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, override = tmp_path / "out", {"llm_engine": "echo", "engine_kwargs": {"speculative_config": None}}
    config = init_engine_from_config(DEMO, override={**override, "task": "count"})
    batch = RayLLMBatch(config, Texts(dataset_file=rows(tmp_path)))
    batch.preview(2)
    shown = capsys.readouterr().out
    assert re.search(r"\[1\] \d+ in\n", shown) and re.search(r"num_tokens: \d+", shown)
    answers = sorted(batch.run(folder, id_column="id").take_all(), key=lambda row: row["id"])
    assert set(answers[0]) == {"text", "id", "num_input_tokens", "num_tokens", "error"}
    counted = [row["num_tokens"] for row in answers]
    assert counted[:5] == [row["num_input_tokens"] for row in answers[:5]] and counted[4] < counted[0] < counted[2]
    assert counted[5] is None and "must return a text to count, but returned 7" in answers[5]["error"]
    written = pyarrow.parquet.read_table(next(folder.glob("part-*.parquet"))).schema
    assert written.field("num_tokens").type == "int32"
    assert "['id', 'num_tokens', 'error']" in capsys.readouterr().out, "how the answers are joined to the table"
    page = Path(batch.report(tmp_path / "report.html")).read_text(encoding="utf-8")
    assert "a text to count" in page and "Prompt length" in page
    with pytest.raises(OutputError, match="task was count, is not set"):
        RayLLMBatch(init_engine_from_config(DEMO, override=override), Chats(dataset_file=rows(tmp_path))).check(folder)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster", "plugins")
def test_an_engine_of_ones_own(tmp_path: Path) -> None:
    override = {"llm_engine": "parrot", "engine_kwargs": {"word": "hello", "speculative_config": None}}
    batch = RayLLMBatch(init_engine_from_config(DEMO, override=override), Chats(dataset_file=rows(tmp_path)))
    answers = sorted(batch.run().take_all(), key=lambda row: row["id"])
    assert [row["generated_text"] is None for row in answers] == [False, False, False, True, False, False]
    assert answers[1]["generated_text"].startswith("hello! ") and "two words" in answers[1]["generated_text"]
    assert answers[3]["error"] == "engine: it hides from cats"
