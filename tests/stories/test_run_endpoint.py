"""Runs through a real Ray over an OpenAI-compatible server that is as rude as servers are, and dies."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Optional

import pyarrow as pa
import pyarrow.parquet
import pytest
from rude_server import MODEL, RudeServer, answer_to

from rayllm_batch import ChatWorkloadBase, RayLLMBatch, init_engine_from_config
from rayllm_batch.errors import ConfigError, EngineError, OutputError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
ROWS = 6_000
KEY = "sk-story-0123456789abcdef"
PASSING = [
    "500",
    "502",
    "503 page",
    "429",
    "cut",
    "truncated",
    "wrong json",
    "page in 200",
    "error in 200",
    "no choices",
]


class Texts(ChatWorkloadBase):
    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": f"row {row['id']}"}]}


def rows(tmp_path: Path, count: int) -> str:
    pa.parquet.write_table(pa.table({"id": range(count)}), tmp_path / "rows.parquet")
    return str(tmp_path / "rows.parquet")


def config(server: RudeServer, **kwargs: Any) -> Any:
    return init_engine_from_config(
        {
            "model_id": MODEL,
            "llm_engine": "openai",
            "engine_kwargs": {"base_url": server.url, **kwargs},
            "runtime_env": {"env_vars": {"OPENAI_API_KEY": KEY}},
        }
    )


def rude(text: str, times: int) -> Optional[str]:
    """Of a hundred rows one is refused, and eight are answered at the second or third time."""
    number = int(text.rpartition(" ")[2]) if text != "Hi" else 50
    if number % 100 == 7:
        return "400"
    if number % 12 == 5 and times < 1 + number % 2:
        return PASSING[number // 12 % len(PASSING)]
    return None


def test_thousands_of_rows_over_a_rude_server_that_dies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server, folder = RudeServer(rude, key=KEY), tmp_path / "out"
    server.keeps_what_it_sees = False
    with server:
        given = config(
            server, max_concurrency=64, give_up_after_s=5, million_input_tokens_usd=1, million_output_tokens_usd=2
        )
        workload = Texts(dataset_file=rows(tmp_path, ROWS), sampling_params={"temperature": 0})

        over = threading.Event()

        def die() -> None:
            while sum(server.answered.values()) < ROWS // 2 and not over.wait(0.05):
                pass
            server.stop()

        killer = threading.Thread(target=die, daemon=True)
        killer.start()
        with pytest.raises(EngineError, match=r"has answered nothing for .* s \(give_up_after_s is 5\)"):
            RayLLMBatch(given, workload).run(folder, id_column="id")
        over.set()
        killer.join()
        before = [row for part in folder.glob("part-*.parquet") for row in pa.parquet.read_table(part).to_pylist()]
        assert ROWS // 3 < len(before) < ROWS
        assert {row["error"] for row in before} == {None}, "failed rows have files of their own"
        paid_before = sum(server.answered.values())
        assert paid_before - len(before) <= 64 + 1, "what was answered, and not cut on its way, is written"
        server.start()
        batch = RayLLMBatch(given, workload)
        answers = batch.run(folder, id_column="id").take_all()
        assert sorted(row["id"] for row in answers) == list(range(ROWS)), "nothing is lost, nothing doubled"
        for row in answers:
            text = f"row {row['id']}"
            if row["id"] % 100 == 7:
                assert row["generated_text"] is None and row["error"] == "engine: HTTP 400: No: 400. Bearer ***"
            else:
                assert row["generated_text"] == answer_to(text) and row["error"] is None, row
                assert (row["num_input_tokens"], row["num_generated_tokens"]) == (2, 3)
        assert len(server.answered) == ROWS - ROWS // 100 + 1, "and the smallest request, before the start"
        assert max(times for text, times in server.answered.items() if text != "Hi") <= 2
    assert batch.metrics is not None and batch.metrics.cost_usd == pytest.approx(
        (batch.metrics.num_input_tokens + 2 * batch.metrics.num_generated_tokens) / 1e6
    )
    said = capsys.readouterr().out
    assert "Run the same again to continue from there." in said and KEY not in said
    page = Path(batch.report(tmp_path / "report.html")).read_text(encoding="utf-8")
    assert KEY not in page and KEY not in repr(batch.engine_config) and "kv cache" not in page.lower()
    assert not [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_what_is_asked_decides_whose_answers_a_folder_holds(tmp_path: Path) -> None:
    class Other(Texts):
        def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
            asked = super().parse_row(row)
            return asked if row["id"] % 2 else {"messages": [{"role": "user", "content": f"other {row['id']}"}]}

    data, folder = rows(tmp_path, 40), tmp_path / "out"
    with RudeServer(key=KEY) as server, RudeServer(key=KEY) as elsewhere:
        RayLLMBatch(config(server), Texts(dataset_file=data)).preview(2)
        RayLLMBatch(config(server), Texts(dataset_file=data)).run(folder, id_column="id")
        with pytest.raises(OutputError, match="of 40 answered rows 20 are asked the same as before, 20 something else"):
            RayLLMBatch(config(elsewhere), Other(dataset_file=data)).run(folder, id_column="id")
        server.stop()
        answers = RayLLMBatch(config(elsewhere), Other(dataset_file=data)).run(folder, id_column="id", changed="redo")
        texts = {row["id"]: row["generated_text"] for row in answers.take_all()}
        assert texts == {n: answer_to(f"row {n}" if n % 2 else f"other {n}") for n in range(40)}
        assert sum(elsewhere.answered.values()) == 20 + 2, "and the smallest request, before each start"
        with pytest.raises(ConfigError, match="cannot be reached"):
            RayLLMBatch(config(server), Texts(dataset_file=data)).run()
