"""README.ipynb is the source of main.py and README.md, and a failing cell fails the notebook's test."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
EXPORTED = ("main.py", "README.md")


@pytest.fixture(scope="module")
def fresh() -> dict[str, str]:
    """What the committed notebook gives, by jupytext and nbconvert (seconds, so once)."""
    return load_export(ROOT).exported()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what the export reads and writes, to be damaged."""
    for name in ("README.ipynb", *EXPORTED, "jupytext.toml", "scripts/export.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def export(tree: Path, fresh: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """`python scripts/export.py ...` in that tree: its exit code and what it prints."""
    module = load_export(tree)
    monkeypatch.setattr(module, "exported", lambda: fresh)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["export.py", *arguments])
        return module.main(), capsys.readouterr().out

    return run


def load_export(tree: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("export_of_tree", tree / "scripts" / "export.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def files(tree: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in tree.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def test_the_committed_files_are_what_the_notebook_gives(fresh: dict[str, str]) -> None:
    assert set(fresh) == set(EXPORTED)
    for name, text in fresh.items():
        assert (ROOT / name).read_bytes() == text.encode(), f"{name} is not in step: make export"
    compile(fresh["main.py"], "main.py", "exec")
    assert fresh["README.md"].startswith("# ") and "./run.sh" in fresh["README.md"]


def test_the_committed_notebook_has_no_outputs_and_names_its_language() -> None:
    notebook = json.loads((ROOT / "README.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert notebook["metadata"]["language_info"]["name"] == "python"


@pytest.mark.parametrize("name", EXPORTED)
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_check_fails_and_export_mends_it(name: str, damage: str, tree: Path, export) -> None:
    export()
    assert export("--check") == (0, "main.py and README.md are in step with README.ipynb.\n")
    if damage == "changed":
        (tree / name).write_text((tree / name).read_text(encoding="utf-8") + "\n# edited by hand\n", encoding="utf-8")
    else:
        (tree / name).unlink()
    before = files(tree)
    code, shown = export("--check")
    assert code == 1 and f"{name} is not what README.ipynb gives" in shown and "make export" in shown
    assert ("edited by hand" in shown) == (damage == "changed"), "the difference is shown"
    assert [other for other in EXPORTED if f"{other} is not" in shown] == [name]
    assert files(tree) == before, "a check changes nothing"
    assert export()[0] == 0 and export("--check")[0] == 0


def test_check_fails_for_a_notebook_with_outputs(tree: Path, export) -> None:
    export()
    notebook = json.loads((tree / "README.ipynb").read_text(encoding="utf-8"))
    cell = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["left over"]}]
    del notebook["metadata"]["language_info"]
    (tree / "README.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    code, shown = export("--check")
    assert code == 1 and "has outputs" in shown and "--clear-output" in shown and "language_info.name" in shown


def notebook_of(path: Path, *cells: str) -> str:
    from nbformat import v4

    notebook = v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["language_info"] = {"name": "python"}
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return path.name


def test_a_failing_assert_in_a_cell_fails_the_notebook(tmp_path: Path) -> None:
    good = notebook_of(tmp_path / "good.ipynb", "rows = 3\nprint(rows)", "assert rows == 3")
    bad = notebook_of(
        tmp_path / "bad.ipynb", "rows = 3\nprint(rows)", "assert rows == 4, 'rows are missing'", "print('after')"
    )
    nbval = [sys.executable, "-m", "pytest", "-p", "nbval.plugin", "--nbval-lax", "-x", "--nbval-current-env", "-rpf"]
    done = subprocess.run(
        [*nbval, good, bad],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    assert done.returncode == 1, done.stdout + done.stderr
    outcomes = [line.split(" - ")[0] for line in done.stdout.splitlines() if line.startswith(("PASSED", "FAILED"))]
    assert outcomes == [
        "PASSED good.ipynb::Cell 0",
        "PASSED good.ipynb::Cell 1",
        "PASSED bad.ipynb::Cell 0",
        "FAILED bad.ipynb::Cell 1",
    ], "the good one passes, and with -x nothing runs after the failure"
    assert "rows are missing" in done.stdout
