"""Where a relative dataset_file is looked for: from the working folder, then beside the file of the class that has it."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from rayllm_batch import ChatWorkloadBase, init_engine_from_config
from rayllm_batch.data.data_files import find_files
from rayllm_batch.errors import DatasetError
from rayllm_batch.load_workload import load_workload
from rayllm_batch.output.fingerprint import describe_job
from rayllm_batch.workload.own_file import own_file

CODE = """
from rayllm_batch import ChatWorkloadBase

class Reviews(ChatWorkloadBase):
    dataset_file: str = "data/day.csv"

    def parse_row(self, row):
        return {"prompt": row["text"]}

class Asks(Reviews):
    sampling_params = {"max_tokens": 3}

class Many(Reviews):
    dataset_file = "data/*.csv"
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workload's file with a table beside it, and another working folder."""
    folder = tmp_path / "of the job"
    (folder / "data").mkdir(parents=True)
    (folder / "reviews.py").write_text(CODE)
    (folder / "data" / "day.csv").write_text("text\ngood\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", {name: one for name, one in sys.modules.items() if name != "reviews"})
    monkeypatch.setenv("PYTHONPATH", "")
    return folder


def found(workload: Any) -> list[str]:
    return find_files(workload.dataset_file, own_file(workload)).paths


@pytest.mark.parametrize("name", ["Reviews", "Asks", "Many"])
def test_beside_the_file_where_the_working_folder_has_none(job: Path, name: str, tmp_path: Path) -> None:
    workload = load_workload(f"../of the job/reviews.py:{name}", [])
    assert own_file(workload) == str(job / "reviews.py")
    assert found(workload) == [str(job / "data" / "day.csv")]
    (tmp_path / "elsewhere" / "data").mkdir()
    (tmp_path / "elsewhere" / "data" / "other.csv").write_text("text\nbad\n")
    assert found(workload) == [
        str((tmp_path / "elsewhere" if name == "Many" else job) / "data" / file)
        for file in (["other.csv"] if name == "Many" else ["day.csv"])
    ]
    (tmp_path / "elsewhere" / "data" / "day.csv").write_text("text\nbad\n")
    assert str(tmp_path / "elsewhere" / "data" / "day.csv") in found(workload) and str(job) not in found(workload)[0]


def test_it_is_the_same_job_from_any_folder(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = init_engine_from_config({"model_id": "m", "llm_engine": "echo", "accelerator_type": "CPU"})
    workload = load_workload(str(job / "reviews.py") + ":Reviews", [])
    elsewhere = describe_job(config, workload, None)
    monkeypatch.chdir(job)
    assert describe_job(config, workload, None) == elsewhere and len(elsewhere.rows) == 3


def test_what_the_instance_was_given_is_looked_for_from_the_working_folder_alone(job: Path) -> None:
    """--input rows.csv, in the wrong folder, must not answer other rows of that name."""
    (job / "rows.csv").write_text("text\ngood\n")
    workload = load_workload("../of the job/reviews.py:Reviews", [], dataset_file="rows.csv")
    assert own_file(workload) is None
    with pytest.raises(DatasetError, match="'rows.csv' does not exist") as error:
        found(workload)
    assert str(job) not in str(error.value)


def test_a_class_of_a_notebook_has_no_file() -> None:
    space: dict[str, Any] = {"__name__": "of_a_cell"}
    sys.modules["of_a_cell"] = types.ModuleType("of_a_cell")
    exec(CODE, space)
    assert own_file(space["Reviews"]()) is None
    del sys.modules["of_a_cell"]
    assert own_file(object()) is None

    class Bare(ChatWorkloadBase):
        dataset_file = "rows.jsonl"

    assert own_file(Bare()) == __file__ and own_file(Bare(dataset_file="x.csv")) is None


@pytest.mark.parametrize(("given", "near"), [("data/dya.csv", "data/day.csv"), ("zzz/rows.csv", ""), ("x/*.csv", "")])
def test_the_message_names_both_places(job: Path, given: str, near: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as error:
        find_files(given, str(job / "reviews.py"))
    said = str(error.value)
    assert f"(looked from {tmp_path / 'elsewhere'}, and beside {job / 'reviews.py'})" in said
    assert f"Did you mean {near!r}?" in said if near else "Check the path." in said


@pytest.mark.parametrize("given", ["/none/of/these.csv", "~/none.csv", "s3://"])
def test_beside_is_not_where_a_whole_path_is_looked_for(job: Path, given: str) -> None:
    with pytest.raises(DatasetError) as error:
        find_files(given, str(job / "reviews.py"))
    assert str(job) not in str(error.value)
