"""The workload that a command line names: found, imported and made, or what is wrong with it said."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rayllm_batch import ChatWorkloadBase
from rayllm_batch.errors import WorkloadError
from rayllm_batch.load_workload import OTHER_NAMES, load_workload, pairs


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(
        sys, "modules", {name: module for name, module in sys.modules.items() if name != "mine"}
    )  # another test's
    monkeypatch.setenv("PYTHONPATH", "")
    (tmp_path / "mine.py").write_text(
        "from rayllm_batch import ChatWorkloadBase\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Mine(ChatWorkloadBase):\n    question: str = 'why?'\n"
        "    def parse_row(self, row):\n        return {'messages': [{'role': 'user', 'content': self.question}]}\n"
    )
    with (tmp_path / "mine.py").open("a") as file:
        file.write(
            "class Raises(Mine):\n    def __post_init__(self):\n        raise ValueError('not today')\n"
            "class Asks(Mine):\n    topic: str\n"
        )
    (tmp_path / "broken.py").write_text("import os\ndef f(:\n")
    (tmp_path / "divides.py").write_text("1 / 0\n")
    (tmp_path / "exits.py").write_text("raise SystemExit(7)\n")
    (tmp_path / "needs.py").write_text("import a_module_that_is_not_there\n")
    return tmp_path


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("choices=[spam, ham]", "choices is output_schema, such as -w 'output_schema=[yes, no]'"),
        ("guided_json={type: object}", "guided_json is output_schema, such as"),
        ("response_format={type: json_object}", "response_format is output_schema, such as"),
        ("Schema={}", "Schema is output_schema, such as"),
        ("data_file=a.csv", "data_file is dataset_file, or --input."),
        ("limit=7", "limit is dataset_fraction: up to 1 a share of the rows, above 1 their number."),
        ("max_new_tokens=7", "max_new_tokens is one of sampling_params, which -s sets."),
        ("dataset_fil=a.csv", "Did you mean 'dataset_file'?"),
    ],
)
def test_another_name_of_a_field_is_told_which_it_is(folder: Path, given: str, said: str) -> None:
    with pytest.raises(WorkloadError, match="Its fields: ") as error:
        load_workload("mine:Mine", [given])
    assert said in str(error.value)


def test_every_other_name_stands_for_a_field() -> None:
    fields = set(ChatWorkloadBase.__dataclass_fields__)
    assert {field for field, _ in OTHER_NAMES.values()} <= fields and not fields & set(OTHER_NAMES)


def test_a_field_of_ones_own_may_have_such_a_name(folder: Path) -> None:
    (folder / "mine.py").open("a").write("class Chooses(Mine):\n    choices: list\n")
    assert load_workload("mine:Chooses", ["choices=[spam, ham]"]).choices == ["spam", "ham"]


def test_a_workload_of_this_folder_with_its_fields(folder: Path) -> None:
    made = load_workload(
        "mine:Mine",
        ["question=what: now?", "dataset_fraction=0.5", "sampling_params={max_tokens: 7, temperature: 0}"][1:],
    )
    assert type(made).__name__ == "Mine" and made.dataset_fraction == 0.5
    assert made.sampling_params == {"max_tokens": 7, "temperature": 0} and made.question == "why?"
    assert load_workload("mine:Mine", ["question=what now?"]).question == "what now?"


@pytest.mark.parametrize(
    ("spec", "fields", "said"),
    [
        ("mine", [], "must be FILE.py:CLASS or MODULE:CLASS"),
        ("mine:Mina", [], "has no class 'Mina'. Did you mean 'Mine'"),
        ("yours:Mine", [], "there is no module 'yours'"),
        ("needs:Mine", [], "needs the module 'a_module_that_is_not_there'"),
        ("broken:Mine", [], "broken cannot be imported: SyntaxError: "),
        ("broken.py:Mine", [], "(broken.py, line 2)"),
        ("divides:Mine", [], "divides cannot be imported: ZeroDivisionError: division by zero (divides.py, line 1)"),
        ("exits.py:Mine", [], "cannot be imported: SystemExit: 7 (exits.py, line 1)"),
        ("mnie.py:Mine", [], "Did you mean 'mine.py'"),
        ("mine.py:Mina", [], "Did you mean 'Mine'"),
        ("mine.py", [], "must be FILE.py:CLASS"),
        ("mine.py:Raises", [], "Raises cannot be made with nothing: ValueError: not today (mine.py, line "),
        ("mine.py:Asks", [], "The workload needs topic="),
        ("mine:Mine", ["question"], "must be KEY=VALUE"),
        ("mine:Mine", ["question={"], "not valid YAML"),
        ("mine:Mine", ["questoin=x"], "Did you mean 'question'"),
        ("mine:Mine", ["question=a", "question=b"], "-w question=... is given twice"),
        ("mine:Mine", ["question="], "-w question= has no value"),
        ("mine:Mine", ["question=\n"], "question=null for none"),
        ("mine:Mine", ["question=!!timestamp 2024-99-99"], "not valid YAML"),
        ("mine:Mine", ["question=!!int x"], "not valid YAML"),
        ("mine:Mine", ["question=" + "[" * 3000], "not valid YAML"),
        ("mine:Mine", ["dataset_fraction=" + "9" * 5000], "not valid YAML"),
    ],
)
def test_what_is_wrong_with_a_workload_is_said(folder: Path, spec: str, fields: list[str], said: str) -> None:
    with pytest.raises(WorkloadError) as caught:
        load_workload(spec, fields)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "spec", ["jobs/triage.py:Triage", "./jobs/triage.py:Triage", "jobs/triage:Triage", "{here}/jobs/triage.py:Triage"]
)
def test_a_workload_of_a_file(folder: Path, spec: str) -> None:
    (folder / "jobs").mkdir()
    (folder / "jobs" / "triage_words.py").write_text("def of(row):\n    return 'about ' + row['text']\n")
    (folder / "jobs" / "triage.py").write_text(
        "import triage_words\nfrom rayllm_batch import ChatWorkloadBase\nclass Triage(ChatWorkloadBase):\n"
        "    def parse_row(self, row):\n"
        "        return {'messages': [{'role': 'user', 'content': triage_words.of(row)}]}\n"
    )
    made = load_workload(spec.format(here=folder), [], dataset_file="rows.jsonl")
    assert made.dataset_file == "rows.jsonl" and made.parse_row({"text": "x"})["messages"][0]["content"] == "about x"


def test_a_file_named_as_a_module_that_others_import(folder: Path) -> None:
    (folder / "json.py").write_text((folder / "mine.py").read_text())
    assert type(load_workload("json.py:Mine", [])).__module__ == "workload_json"
    import json

    assert json.dumps([]) == "[]"


def test_its_code_travels_with_what_lies_beside_it(folder: Path) -> None:
    (folder / "jobs").mkdir()
    (folder / "jobs" / "words.py").write_text("def of(row):\n    return 'about ' + row['text']\n")
    (folder / "jobs" / "triage.py").write_text(
        "import words\nfrom rayllm_batch import ChatWorkloadBase\nclass Triage(ChatWorkloadBase):\n"
        "    def parse_row(self, row):\n        return words.of(row)\n"
    )
    code = """
import sys
from ray import cloudpickle
from rayllm_batch.run import pipeline
from rayllm_batch.load_workload import load_workload
made = load_workload("jobs/triage.py:Triage", [])
pipeline.ship_by_value(made)
open("sent", "wb").write(cloudpickle.dumps(made.parse_row))
"""
    root = str(Path(__file__).parents[1])
    subprocess.run([sys.executable, "-c", code], cwd=folder, env={"PYTHONPATH": root}, check=True)
    there = "import pickle; print(pickle.load(open('sent', 'rb'))({'text': 'x'}))"
    ran = subprocess.run([sys.executable, "-c", there], cwd=folder, env={}, capture_output=True, text=True, check=False)
    assert ran.stdout == "about x\n", ran.stderr


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("010", "010"),
        ("0x10", "0x10"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("2024-99-01", "2024-99-01"),
        ("0x_", "0x_"),
        ("1_000", "1_000"),
        ("=", "="),
        ("[no, 2024-01-01]", ["no", "2024-01-01"]),
        ("1e3", 1000.0),
        ("-1", -1),
        (".5", 0.5),
        ("true", True),
        ("null", None),
        ("~", None),
        ('""', ""),
        ('"\\n"', "\n"),
        ("{a: [1]}", {"a": [1]}),
        ("the C # scale", "the C # scale"),
        ("###", "###"),
        ('"a #b"', "a #b"),
        ("one\n  two", "one\n  two"),
    ],
)
def test_values_are_what_they_look_like(text: str, value: Any) -> None:
    """Not `no` false, 010 eight, 12:30 750 and 2024-01-01 a date, as in YAML 1.1, nor a comment behind a #."""
    assert pairs([f"key={text}"], "-s") == {"key": value} and type(pairs([f"key={text}"], "-s")["key"]) is type(value)


def test_text_is_not_cut_at_what_yaml_takes_for_a_comment() -> None:
    assert pairs(["stop=issue #5", "seed=5 # five"], "-s") == {"stop": "issue #5", "seed": 5}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[(text, text) for text in ("1.10", "true", "2024", "1e3", "To do: this", "{body}", "- a")],
        *[(text, text) for text in ("Is it issue #5?", "one\n\ntwo")],
        *[("'a'", "a"), ('"To do: \\n"', "To do: \n"), ("!!str 5", "5"), (" b ", "b"), ("null", None)],
        *((text, text) for text in ("Note: be brief", "[INST] #1", "[a, b]", "{a: b}")),
    ],
)
def test_a_field_of_text_gets_the_text(folder: Path, text: str, value: Any) -> None:
    (folder / "texts.py").write_text(
        "from rayllm_batch.workload import ChatWorkloadBase\n"
        "class Texts(ChatWorkloadBase):\n    version: str = ''\n    many: int = 1\n"
        "    def parse_row(self, row): return {}\n"
    )
    made = load_workload("texts.py:Texts", [f"version={text}", "many=7"])
    assert made.version == value and made.many == 7


@pytest.mark.parametrize(
    ("file", "imported"),
    [
        ("email.py", "email.errors"),
        ("queue.py", "queue"),
        ("jobs.py", "statistics"),
        ("jobs.py", "numpy"),
        ("yaml.py", "yaml"),
    ],
)
def test_a_file_beside_that_is_named_as_one_of_the_standard_library_hides_it_from_nobody(
    folder: Path, file: str, imported: str
) -> None:
    """Here and in the processes that Ray starts; and what lies beside the workload is still found."""
    jobs = folder / "more"
    jobs.mkdir()
    mine = (
        "from words import WORD\nfrom rayllm_batch.workload import ChatWorkloadBase\n"
        "class Mine(ChatWorkloadBase):\n    def parse_row(self, row): ..."
    )
    for name, text in ((file, mine), ("words.py", "WORD = 1"), ("statistics.py", ""), ("numpy.py", "")):
        (jobs / name).write_text(text)
    same = "import importlib.util as u; m = __import__({0!r}); print(m.__file__)"
    code = (
        f"from rayllm_batch.load_workload import load_workload\nload_workload('more/{file}:Mine', [])\n"
        "import subprocess, sys\n"
        f"code = {same.format(imported.partition('.')[0])!r}\n"
        f"import {imported}\nexec(code)\n"
        f"subprocess.run([sys.executable, '-c', code + '; import {imported}'], check=True)"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)
    assert run.returncode == 0, run.stderr
    assert len(files := run.stdout.split()) == 2 and not any(file.startswith(str(folder)) for file in files)
