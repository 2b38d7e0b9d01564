"""The folders that `init` writes, at work: their own tests pass as they are, and after the edits; and the commands that
their READMEs name do, copied as they stand, where ./run.sh has made the environment and where a wheel is installed.
"""

from __future__ import annotations

import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from environments import ROOT, environment, said

from rayllm_batch.jobs import job_folder

pytestmark = pytest.mark.ray
UV = Path(sys.executable).with_name("uv")


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("task", job_folder.TASKS)
def test_its_test_passes(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From another folder than its own."""
    job_folder.write(str(tmp_path / "job"), task)
    if task in ("classify", "label"):  # a table of the user's own
        (tmp_path / "mine.csv").write_text("body\nThe match was won.\nShares fell.\n")
        code = (tmp_path / "job" / "workload.py").read_text()
        code = code.replace('"rows.jsonl"', '"../mine.csv"').replace('row["text"]', 'row["body"]')
        (tmp_path / "job" / "workload.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path / "job"))
    sys.modules.pop("workload", None)
    tests = runpy.run_path(str(tmp_path / "job" / "test_workload.py"))["TestWorkload"]()
    tests.test_the_config_can_be_read()
    tests.test_the_first_rows()
    sys.modules.pop("workload", None)


@pytest.fixture(params=["clone", "wheel"])
def command(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """`rayllm-batch` of an environment."""
    made = environment(tmp_path / "an environment")
    if request.param == "clone":
        said("bash", "-c", '. scripts/environment.sh; add_package "$1"', "add", made, cwd=ROOT)
    else:
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, tmp_path)
        shutil.copytree(ROOT / "rayllm_batch", tmp_path / "rayllm_batch", ignore=shutil.ignore_patterns("__pycache__"))
        build = [UV, "build", "--offline", "--no-build-isolation", "--python", sys.executable, "--wheel", "-o", "dist"]
        said(*build, ".", cwd=tmp_path)
        (wheel,) = (tmp_path / "dist").glob("*.whl")
        python = made / "bin" / "python"
        said(UV, "pip", "install", "--offline", "--quiet", "--no-deps", "--python", python, wheel, cwd=tmp_path)
        shutil.rmtree(tmp_path / "rayllm_batch")
    return made / "bin" / "rayllm-batch"


def test_what_it_says_can_be_copied_into_a_shell(command: Path, tmp_path: Path) -> None:
    """Of the config the engine is another, which starts at once."""
    model = ROOT / "assets" / "demo-model"
    work = tmp_path / "my work"
    work.mkdir()
    ended = said(command, "init", "my job", "--task", "generate", "--model", model, cwd=work)
    job = work / "my job"
    (job / "config.yaml").write_text(f"model_id: {model}\nllm_engine: echo\naccelerator_type: CPU\n")
    first = re.search(r"^To try it: (.+)$", ended, re.MULTILINE)
    assert first and "The blue kettle" in said("bash", "-ec", first[1], cwd=work)
    block = re.findall(r"^    (.+)$", (job / "README.md").read_text(), re.MULTILINE)
    assert [line.split()[0] for line in block] == ["source", "rayllm-batch", "rayllm-batch", "python"]
    said("bash", "-ec", "\n".join(block), cwd=job)
    assert (job / "report.html").is_file() and list((job / "answers").glob("*.parquet"))
    assert "6 rows" in said(
        command, "check", "--config", job / "config.yaml", "--workload", job / "workload.py:Texts", cwd=work
    )


def test_its_notebook_runs(tmp_path: Path) -> None:
    made = environment(tmp_path / "an environment")
    said("bash", "-c", '. scripts/environment.sh; add_package "$1"', "add", made, cwd=ROOT)
    model = ROOT / "assets" / "demo-model"
    said(made / "bin" / "rayllm-batch", "init", "job", "--model", model, cwd=tmp_path)
    (tmp_path / "job" / "config.yaml").write_text(f"model_id: {model}\nllm_engine: echo\naccelerator_type: CPU\n")
    execute = "source ../an\\ environment/bin/activate && python -m nbconvert --to notebook --execute job.ipynb"
    said("bash", "-ec", execute, cwd=tmp_path / "job")
    assert (tmp_path / "job" / "report.html").is_file()
