"""Answers go to the Hub: the command with `--output hf://`, its push broken, on another machine; and `push_to_hub`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer

from rayllm_batch import ChatWorkloadBase, RayLLMBatch, cli
from rayllm_batch.data.dataset_file import first_rows, read_dataset_file
from rayllm_batch.errors import ConfigError, RayLLMBatchError
from rayllm_batch.model import hub_client

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
PLACE = "hf://datasets/alice/answers"


class Rows(ChatWorkloadBase):
    sampling_params: dict = {"max_tokens": 4}

    def load_dataset(self) -> Any:
        return [{"number": n, "api_key": "sk-of-a-row"} for n in range(40)]

    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        if row["number"] == 7:
            raise ValueError("no seven")
        return {"messages": [{"role": "user", "content": f"number {row['number']}"}]}


def test_answers_go_to_the_hub(  # noqa: PLR0917 (a fixture each)
    ray_cluster: Any,
    isolated: Path,
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("rayllm_batch.termination._is_rays", lambda _: True)
    monkeypatch.setattr(hub_client, "SERVER_ERROR_RETRIES", 0)
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"number": {n}}}\n' for n in range(40)))
    calls = tmp_path / "calls"
    config = f"{{model_id: {ROOT}/assets/demo-model, llm_engine: echo, accelerator_type: CPU, engine_kwargs: {{calls_file: {calls}}}}}"
    (tmp_path / "echo.yaml").write_text(config)
    command = ["run", "--config", str(tmp_path / "echo.yaml"), "--prompt", "number {number}", "-s", "max_tokens=4"]
    command += ["--input", str(tmp_path / "rows.jsonl"), "--output", PLACE]

    assert cli.main(command) == cli.WRONG_INPUT and not calls.exists()
    assert "needs a Hugging Face token" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    hub.fail("POST /api/datasets/alice/answers/commit", 500)
    assert cli.main(command) == cli.FAILED
    err = capsys.readouterr().err
    assert "could not be pushed" in err and "it continues" in err and "hf_alice" not in err
    assert calls.stat().st_size == 40 and hub.repos["datasets", "alice/answers"].private
    hub.faults.clear()
    assert cli.main(command) == cli.DONE
    shutil.rmtree(isolated / "rayllm_batch")  # as on another machine
    assert cli.main(command) == cli.DONE
    assert "Fetching" in capsys.readouterr().out and calls.stat().st_size == 40, "no row was asked again"

    # The answers are rows again; read here, since the cluster's processes know another Hub.
    rows = first_rows(read_dataset_file(f"{PLACE}@main/part-*.parquet"), 256)
    assert sorted(row["number"] for row in rows or ()) == list(range(40))
    assert rows and all(row["generated_text"] for row in rows)

    read = RayLLMBatch(str(tmp_path / "echo.yaml"), Rows())

    with pytest.raises(RayLLMBatchError, match="call run"):
        read.push_to_hub("alice/memory")
    with pytest.raises(ConfigError, match="work_folder"):
        read.run(work_folder=tmp_path)
    read.run()
    page = read.push_to_hub("alice/memory", private=False, token="hf_alice")
    repo = hub.repos["datasets", "alice/memory"]
    assert page.endswith("/datasets/alice/memory") and not repo.private
    card = repo.files["README.md"].decode()
    assert (
        "| rows | 40 |" in card and "| rows with an error | 1 |" in card and "sk-of" not in card and "hf_" not in card
    )
    read.run(tmp_path / "answers", output_format="jsonl")
    read.push_to_hub("hf://datasets/alice/memory@try/jsonl")
    assert any(name.endswith(".jsonl") for name in repo.branches["try"].files)
