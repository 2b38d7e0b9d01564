"""What `pip install` gives: the wheel, in an environment that knows nothing of this checkout."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from rayllm_batch import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings it there
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "rayllm_batch"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
UV = Path(sys.executable).with_name("uv")  # in the environment that scripts/environment.sh makes
NOT_OURS = {"vllm", "datasets", "ray", "pynvml"}  # the extra gpu has them; ray[data] is written otherwise
NAMES = {"yaml": "pyyaml", "PIL": "pillow"}  # of modules, where their package has another


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of a copy, beside which setuptools may leave what it likes; nothing is downloaded."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(PACKAGE, folder / "rayllm_batch", ignore=shutil.ignore_patterns("__pycache__"))
    build = [UV, "build", "--offline", "--no-build-isolation", "--python", sys.executable, "--wheel", "-o", "dist", "."]
    subprocess.run(build, cwd=folder, check=True, capture_output=True, timeout=300)
    (found,) = (folder / "dist").glob("*.whl")
    return found


def test_everything_of_the_package_is_in_it(wheel: Path) -> None:
    files = {str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*") if path.is_file()}
    wanted = {name for name in files if "__pycache__" not in name and not name.endswith("README.md")}
    assert {"rayllm_batch/py.typed", "rayllm_batch/report/page.html", "rayllm_batch/jobs/slurm.sh.jinja"} <= wanted
    with zipfile.ZipFile(wheel) as content:
        assert wanted == {name for name in content.namelist() if name.startswith("rayllm_batch/")}
    assert wheel.name == f"rayllm_batch-{__version__}-py3-none-any.whl"


def test_the_command_of_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    """It has the dependencies of this one, by a path, and of this library only the wheel."""
    environment = tmp_path / "fresh"
    subprocess.run([UV, "venv", "--offline", "--quiet", "--python", sys.executable, environment], check=True)
    site = environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    install = [UV, "pip", "install", "--offline", "--quiet", "--no-deps", wheel]
    subprocess.run(install, check=True, env={**os.environ, "VIRTUAL_ENV": str(environment)})
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def said(*words: object) -> str:
        done = subprocess.run([*map(str, words)], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = "import rayllm_batch; print(rayllm_batch.__version__, rayllm_batch.__file__)"
    assert said(environment / "bin" / "python", "-c", where).split() == [
        __version__,
        str(site / "rayllm_batch" / "__init__.py"),
    ]
    command = environment / "bin" / "rayllm-batch"
    assert said(command, "--version") == f"rayllm-batch {__version__}\n"
    assert "usage: rayllm-batch" in said(command, "--help")


def test_the_extras_are_what_the_requirements_pin() -> None:
    pins = {
        line.split(" ")[0]
        for name in ("gpu.in", "common.in")
        for line in (ROOT / "requirements" / name).read_text().splitlines()
        if "==" in line
    }
    gpu, notebook = (set(PROJECT["optional-dependencies"][name]) for name in ("gpu", "notebook"))
    left = {pin.partition("==")[0] for pin in pins - gpu - notebook}
    assert gpu | notebook <= pins and left == {"jupytext", "nbconvert"}, "which make README.md and main.py"


def test_what_is_imported_is_asked_for() -> None:
    wanted = {re.match(r"[\w-]+", line)[0].lower() for line in PROJECT["dependencies"]}  # type: ignore[index]
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module).split(".")[0])
    found -= {*sys.stdlib_module_names, *NOT_OURS, "rayllm_batch", "IPython"}
    brought = {"tokenizers", "typing_extensions"}  # by transformers and pydantic
    assert {NAMES.get(name, name) for name in found} <= wanted | brought


def test_one_version_everywhere() -> None:
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = re.search(r"^version: (\S+)", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert newest and cited and newest[1] == cited[1] == __version__
