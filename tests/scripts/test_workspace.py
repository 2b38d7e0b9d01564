"""The Dockerfile and the devcontainers of it: no image is built here; its steps are those of ./run.sh, from the locks."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_what_it_copies_and_calls_is_there() -> None:
    for sources in re.findall(r"^COPY --chown=\S+ (\S+) \S+$", DOCKERFILE, re.MULTILINE):
        assert (ROOT / sources).exists(), sources
    steps = (ROOT / "scripts" / "environment.sh").read_text()
    assert "make_environment() {" in steps and "add_package() {" in steps
    made, added = DOCKERFILE.index("make_environment"), DOCKERFILE.index("add_package")
    assert made < DOCKERFILE.index("COPY --chown=dev:dev . .") < added, "the package comes with the checkout"
    notebook = re.search(r'"jupyter", "lab", .* "(\S+)"\]$', DOCKERFILE.strip())
    assert notebook and (ROOT / notebook[1]).exists()
    assert "bookworm" in DOCKERFILE, "whose Python is 3.11: requirements/ has 3.10 to 3.12"


def test_nothing_of_this_machine_goes_into_the_image() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv*"} <= set(ignored)


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_a_devcontainer_of_each_kind(kind: str) -> None:
    folder = ROOT / ".devcontainer" / kind
    found = json.loads((folder / "devcontainer.json").read_text())
    assert (folder / found["build"]["dockerfile"]).resolve() == ROOT / "Dockerfile"
    assert (folder / found["build"]["context"]).resolve() == ROOT
    assert found["build"]["args"] == {"KIND": kind} and (ROOT / "requirements" / f"{kind}.txt").exists()
    assert ("--gpus=all" in found["runArgs"]) == (kind == "gpu")
    assert f"useradd --create-home --uid 1000 {found['remoteUser']}" in DOCKERFILE
    environment = re.search(r"^WORKDIR (/opt/\S+)$", DOCKERFILE, re.MULTILINE)
    assert environment
    link, add = (
        f"ln -sfn {environment[1]}/.venv.{kind} .venv.{kind}",
        f". scripts/environment.sh; add_package .venv.{kind}",
    )
    assert found["postCreateCommand"] == f"{link} && bash -euc '{add}'"
    interpreter = found["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert interpreter == f"{environment[1]}/.venv.{kind}/bin/python"
