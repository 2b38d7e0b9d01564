"""The command line: what it makes of its arguments, what it says, and with which code it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rayllm_batch import CNNDailySummary, RayLLMBatch, cli
from rayllm_batch.errors import EngineError, OutputError, WorkloadError
from rayllm_batch.metrics import RunMetrics

CONFIG = "configs/demo-cpu.yaml"
GIVEN = ["--config", CONFIG, "--workload", "rayllm_batch:CNNDailySummary"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine.py").write_text(
        "from rayllm_batch import ChatWorkloadBase\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Mine(ChatWorkloadBase):\n    question: str = 'why?'\n"
        "    def parse_row(self, row):\n        return {'messages': [{'role': 'user', 'content': self.question}]}\n"
    )
    (tmp_path / "needs.py").write_text("import a_module_that_is_not_there\n")
    return tmp_path


def test_a_workload_of_this_folder_with_its_fields(folder: Path) -> None:
    made = cli.workload("mine:Mine", ["question=what: now?", "dataset_fraction=0.5", "sampling_params={max_tokens: 7, temperature: 0}"][1:])
    assert type(made).__name__ == "Mine" and made.dataset_fraction == 0.5
    assert made.sampling_params == {"max_tokens": 7, "temperature": 0} and made.question == "why?"
    assert cli.workload("mine:Mine", ["question=what now?"]).question == "what now?"


@pytest.mark.parametrize(("spec", "fields", "said"), [
    ("mine", [], "must be MODULE:CLASS"),
    ("mine:Mina", [], "has no class 'Mina'. Did you mean 'Mine'"),
    ("yours:Mine", [], "there is no module 'yours'"),
    ("needs:Mine", [], "needs the module 'a_module_that_is_not_there'"),
    ("mine:Mine", ["question"], "must be KEY=VALUE"),
    ("mine:Mine", ["question={"], "not valid YAML"),
    ("mine:Mine", ["questoin=x"], "Did you mean 'question'"),
])
def test_what_is_wrong_with_a_workload_is_said(folder: Path, spec: str, fields: list[str], said: str) -> None:
    with pytest.raises(WorkloadError) as caught:
        cli.workload(spec, fields)
    assert said in str(caught.value)


def test_replicas() -> None:
    assert cli.replicas("4") == 4 and cli.replicas("2-8") == (2, 8)
    with pytest.raises(WorkloadError, match="a range such as 2-8"):
        cli.replicas("some")


def write_manifest(folder: Path, failed: int) -> None:
    (folder / "_rayllm_batch").mkdir(parents=True)
    (folder / "_rayllm_batch" / "manifest.json").write_text(json.dumps({"state": "complete", "rows": 9, "failed": failed}))


@pytest.mark.parametrize(("outcome", "code"), [
    (0, cli.DONE),
    (1, cli.ROWS_FAILED),
    (EngineError("The engine died."), cli.FAILED),
    (OutputError("Make room, and run the same again: it continues."), cli.FAILED),
    (OutputError("The output folder holds another job."), cli.WRONG_INPUT),
    (WorkloadError("parse_row"), cli.WRONG_INPUT),
    (KeyboardInterrupt(), cli.INTERRUPTED),
])
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, outcome: int | BaseException, code: int
) -> None:
    """outcome: what `run` raises, or how many rows have an error in the folder, of this run or an earlier one."""
    called: dict[str, Any] = {}

    def run(batch: RayLLMBatch, output: str, **options: object) -> None:
        called.update(options, output=output, batch=batch)
        if isinstance(outcome, BaseException):
            raise outcome
        write_manifest(Path(output), failed=outcome)

    monkeypatch.setattr(RayLLMBatch, "run", run)
    out = str(tmp_path / "out")
    assert cli.main(["run", *GIVEN, "--output", out, "--id-column", "id", "--num-replicas", "2-3", "--verbose"]) == code
    assert called["output"] == out and called["id_column"] == "id" and not called["retry_failed"]
    batch = called["batch"]
    assert isinstance(batch.workload, CNNDailySummary) and batch.num_replicas == (2, 3) and batch.verbose
    said = capsys.readouterr().err
    if isinstance(outcome, Exception):
        assert str(outcome) in said
    if isinstance(outcome, KeyboardInterrupt):
        assert said == "Interrupted. The same command continues it.\n"


@pytest.mark.parametrize(("begins", "error", "code"), [
    (True, None, cli.ROWS_FAILED),
    (True, EngineError("The engine died."), cli.FAILED),
    (True, KeyboardInterrupt(), cli.INTERRUPTED),
    (False, OutputError("The output folder holds another job."), cli.WRONG_INPUT),
])
def test_a_report_is_written_of_every_run_that_began(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, begins: bool, error: BaseException | None, code: int
) -> None:
    written: list[str] = []

    def run(batch: RayLLMBatch, output: str, **_: object) -> None:
        if begins:
            batch.metrics = RunMetrics(rows=9, failed=2)
        if error:
            raise error
        write_manifest(Path(output), failed=2)

    monkeypatch.setattr(RayLLMBatch, "run", run)
    monkeypatch.setattr(RayLLMBatch, "report", lambda batch, path: written.append(path))
    assert cli.main(["run", *GIVEN, "--output", str(tmp_path / "out"), "--report", "mine.html"]) == code
    assert written == (["mine.html"] if begins else [])


@pytest.mark.parametrize(("arguments", "called", "printed"), [
    (["check"], {"output": None, "output_format": "parquet", "id_column": None}, ""),
    (["check", "--output", "out", "--id-column", "id"], {"output": "out", "output_format": "parquet", "id_column": "id"}, ""),
    (["preview"], {"n": 8}, ""),
    (["preview", "-n", "3"], {"n": 3}, ""),
    (["estimate"], {"sample_rows": 64, "gpu_hour_usd": None}, "two hours\n"),
    (["estimate", "--sample-rows", "10", "--gpu-hour-usd", "2.5"], {"sample_rows": 10, "gpu_hour_usd": 2.5}, "two hours\n"),
])
def test_check_preview_and_estimate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], called: dict[str, Any], printed: str
) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(RayLLMBatch, "check", lambda batch, output, **given: seen.append({"output": output, **given}))
    monkeypatch.setattr(RayLLMBatch, "preview", lambda batch, **given: seen.append(given))
    monkeypatch.setattr(RayLLMBatch, "estimate", lambda batch, **given: seen.append(given) or "two hours")
    assert cli.main([*arguments, *GIVEN]) == cli.DONE
    assert seen == [called] and capsys.readouterr().out == printed


def test_a_wrong_config_is_one_line_and_no_traceback() -> None:
    command = [sys.executable, "-m", "rayllm_batch", "check", "--config", "configs/none.yaml", "--workload", "rayllm_batch:CNNDailySummary"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == cli.WRONG_INPUT and run.stderr.startswith("ConfigError: Config file 'configs/none.yaml' does not exist")
    assert "Traceback" not in run.stderr


def test_help_has_the_exit_codes_and_an_example() -> None:
    run = subprocess.run([sys.executable, "-m", "rayllm_batch", "run", "--help"], capture_output=True, text=True, check=False)
    assert run.returncode == 0
    for words in ("exit codes:", "130", "example:", "--retry-failed", "--report", "--verbose", "MODULE:CLASS", "KEY=VALUE"):
        assert words in run.stdout
