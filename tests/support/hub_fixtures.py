"""Fixtures that point huggingface_hub at a loopback Hub and at an empty home, in this process and its children."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import HubServer

ROOT = Path(__file__).parents[2]
MODEL_FILES = {"config.json": b'{"model_type": "llama"}', "model.safetensors": b"\0" * 1000}


def standard_hub() -> HubServer:
    """A Hub with a model of each kind, and the users alice, who may read them, and bob, who may not."""
    server = HubServer()
    server.tokens.update({"hf_alice": "alice", "hf_bob": "bob", "hf_narrow": "alice"})
    server.narrow_tokens.add("hf_narrow")
    server.add("models", "org/public", MODEL_FILES)
    server.add("models", "org/gated", MODEL_FILES, gated=True, readers={"alice"})
    server.add("models", "org/private", MODEL_FILES, private=True, readers={"alice"})
    return server


def child_env(hub: HubServer, home: Path) -> dict[str, str]:
    """The environment of a process that shall see that Hub, and nothing of this machine's home and tokens."""
    home.mkdir(exist_ok=True)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "JPY_", "VSCODE"))}
    clean.pop("CI", None)
    return {
        **clean,
        "HOME": str(home),
        "HF_HOME": str(home / "huggingface"),
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with standard_hub() as server:
        yield server


@pytest.fixture
def hub_env(hub: HubServer, tmp_path: Path) -> dict[str, str]:
    return child_env(hub, tmp_path / "home")


@pytest.fixture
def isolated(hub_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process sees that Hub, no token, and an empty cache. The value is HF_HOME."""
    from huggingface_hub import constants, hf_api

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN_PATH", "CI"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "HF_HOME", "HF_ENDPOINT"):
        monkeypatch.setenv(name, hub_env[name])
    home = Path(hub_env["HF_HOME"])
    # huggingface_hub reads its environment once, at its import.
    monkeypatch.setattr(constants, "ENDPOINT", hub_env["HF_ENDPOINT"])
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace("https://huggingface.co", hub_env["HF_ENDPOINT"])
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(hf_api.api, "endpoint", hub_env["HF_ENDPOINT"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        constants, "HF_HUB_DISABLE_XET", True
    )  # uploads by its older protocol, which the loopback Hub has
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "stored_tokens"))
    return home
