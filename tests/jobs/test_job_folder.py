"""The folder that `init` writes. Its own test is run in tests/stories/test_init.py."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from rayllm_batch import cli, init_engine_from_config
from rayllm_batch.jobs import job_folder
from rayllm_batch.load_workload import load_workload

ROOT = Path(__file__).parents[2]
KINDS = {"embed": "embed", "classify": "classify", "score": "score"}


@pytest.mark.parametrize("task", job_folder.TASKS)
@pytest.mark.parametrize("model", [None, "Qwen/Qwen3-0.6B", 'we"ird: {{x}} #'])
def test_every_file_can_be_read(tmp_path: Path, task: str, model: str | None, monkeypatch: Any) -> None:
    folder = tmp_path / "a new" / "job é"
    given = ["--model", model] if model else []
    assert cli.main(["init", str(folder), "--task", task, *given]) == cli.DONE
    wanted = {*job_folder.FILES, "rows.jsonl", "job.ipynb"}
    assert {path.name for path in folder.iterdir()} == wanted
    config = init_engine_from_config(folder / "config.yaml")
    assert config.task == KINDS.get(task, "generate") and config.llm_engine == (
        "openai" if task == "endpoint" else "vllm"
    )
    assert config.model_id == model or (model is None and ("demo" in config.model_id))
    for name in ("workload.py", "test_workload.py"):
        code = (folder / name).read_text(encoding="utf-8")
        ast.parse(code)
        assert max(map(len, code.splitlines())) <= 120 + len(str(ROOT))
    name = job_folder.TASKS[task][0]
    monkeypatch.chdir(folder)
    workload = load_workload(f"workload.py:{name}", [])
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and all(workload.parse_row(row) for row in rows)
    notebook = nbformat.read(folder / "job.ipynb", as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            ast.parse(cell.source)
    read_me = (folder / "README.md").read_text(encoding="utf-8")
    assert read_me.startswith("# job é\n") and f"workload.py:{name}" in read_me
    for text in (path.read_text(encoding="utf-8") for path in folder.iterdir()):
        assert not re.search(r"\{%|%\}", text)


def test_two_edits_are_marked(tmp_path: Path) -> None:
    for task in job_folder.TASKS:
        job_folder.write(str(tmp_path / task), task)
        code = (tmp_path / task / "workload.py").read_text()
        assert re.findall(r"# (Edit \d)", code) == ["Edit 1", "Edit 2"]


def test_what_is_there_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        assert cli.main(["init", str(tmp_path / name)]) == cli.WRONG_INPUT
        assert "is there already" in capsys.readouterr().err
    assert cli.main(["init", str(tmp_path / "file" / "below")]) == cli.WRONG_INPUT
    assert "cannot be written" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_without_the_repository_a_model_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "site-packages" / "rayllm_batch" / "jobs" / "job_folder.py"
    monkeypatch.setattr(job_folder, "__file__", str(installed))
    assert cli.main(["init", str(tmp_path / "job")]) == cli.WRONG_INPUT
    assert "--model Qwen/" in capsys.readouterr().err and not (tmp_path / "job").exists()
    assert cli.main(["init", str(tmp_path / "job"), "--model", "Qwen/Qwen3-0.6B"]) == cli.DONE
    assert '"Qwen/Qwen3-0.6B"' in (tmp_path / "job" / "test_workload.py").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--task", "typed"], "required: FOLDER"),
        (["x", "--task", "typd"], "invalid choice: 'typd'"),
        (["x", "--taks", "typed"], "Did you mean '--task'?"),
    ],
)
def test_what_is_mistyped(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["init", *words])
    assert ended.value.code == cli.WRONG_INPUT and said in capsys.readouterr().err
