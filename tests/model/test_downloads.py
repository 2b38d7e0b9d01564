"""Files from a loopback Hub: a model's by `download_model`, a dataset's by the `datasets` library."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rayllm_batch.errors import HubUnavailableError, InvalidTokenError, ModelNotFoundError, TokenRequiredError
from rayllm_batch.model.files import download_model, files_to_skip

ROOT = Path(__file__).parents[2]
CONFIGS = ["config.json", "tokenizer.json", "chat_template.jinja", "tokenizer.model", "merges.txt"]

pytestmark = pytest.mark.usefixtures("isolated")


def names(folder: str) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file()}


def test_only_the_files_an_engine_reads(hub):
    extra = ["original/consolidated.00.pth", "pytorch_model.bin", "onnx/model.onnx", "flax_model.msgpack", "a.png"]
    weights = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = "model.safetensors.index.json"
    hub.add("models", "org/llama", {name: name.encode() for name in [*CONFIGS, *weights, index, *extra]})
    folder = download_model("org/llama")
    assert names(folder) == {*CONFIGS, *weights, index}
    assert hub.asked("/resolve/", "GET") == len(CONFIGS) + 3
    assert download_model("org/llama") == folder
    assert hub.asked("/resolve/", "GET") == len(CONFIGS) + 3


@pytest.mark.parametrize(
    ("weights", "load_format", "kept"),
    [
        (["pytorch_model.bin"], "auto", {"pytorch_model.bin"}),
        (["model.safetensors", "pytorch_model.bin"], "auto", {"model.safetensors"}),
        (["consolidated.safetensors", "model.safetensors"], "auto", {"consolidated.safetensors"}),
        (["consolidated.safetensors", "model.safetensors"], "safetensors", {"model.safetensors"}),
        (["model.gguf"], "auto", {"model.gguf"}),
        (["model.safetensors", "pytorch_model.bin"], "dummy", set()),
    ],
)
def test_weights_that_a_repository_holds_twice(weights, load_format, kept):
    from huggingface_hub.utils import filter_repo_objects

    files = [*CONFIGS, *weights]
    left = set(filter_repo_objects(files, ignore_patterns=files_to_skip(files, load_format)))
    assert left == {*CONFIGS, *kept}


def test_token_reaches_every_request_for_a_file(hub):
    with pytest.raises(TokenRequiredError):
        download_model("org/gated")
    with pytest.raises(InvalidTokenError):
        download_model("org/gated", "hf_wrong")
    hub.requests.clear()
    assert names(download_model("org/gated", "hf_alice")) == {"config.json", "model.safetensors"}
    assert {token for _, path, token in hub.requests if "org/gated" in path} == {"hf_alice"}


def test_rate_limits_are_waited_out(hub):
    for part in ("/revision/", "/api/models/org/public", "/tree/", "/resolve/"):
        hub.fail(part, 429, times=1, Retry_After="0")
    assert names(download_model("org/public")) == {"config.json", "model.safetensors"}


def test_several_processes_fetch_each_file_once(hub, hub_env):
    hub.add("models", "org/big", {"config.json": b"{}", "model.safetensors": os.urandom(20_000_000)})
    code = "from rayllm_batch.model.files import download_model; print(download_model('org/big'))"
    children = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=hub_env, stdout=subprocess.PIPE) for _ in range(3)
    ]
    folders = {child.communicate(timeout=60)[0].decode().strip() for child in children}
    assert len(folders) == 1 and names(folders.pop()) == {"config.json", "model.safetensors"}
    assert hub.asked("model.safetensors", "GET") == 1


def test_cache_without_the_hub(hub, monkeypatch):
    folder = download_model("org/public")
    hub.fail("/", 503)
    monkeypatch.setattr("rayllm_batch.model.hub_client.CHECK_SECONDS", 0.5)
    assert download_model("org/public") == folder
    with pytest.raises(HubUnavailableError):
        download_model("org/gated")
    asked = len(hub.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert download_model("org/public") == folder
    with pytest.raises(ModelNotFoundError, match="HF_HUB_OFFLINE=1"):
        download_model("org/gated")
    assert len(hub.requests) == asked


@pytest.fixture
def impatient(monkeypatch):
    """huggingface_hub gives a silent server a third of a second instead of ten, and hardly pauses between its tries."""
    from huggingface_hub import constants, file_download

    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.3)
    monkeypatch.setattr(file_download, "_ETAG_RETRY_TIMEOUT", 0.3, raising=False)


def test_a_download_that_stalls_goes_on_where_it_stopped(hub, impatient):
    weights = os.urandom(3_000_000)
    hub.add("models", "org/big", {"config.json": b"{}", "model.safetensors": weights})
    hub.fail("GET /org/big/resolve/", 0, times=2, sent=1_000_000)
    assert (Path(download_model("org/big")) / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(("asked", "sent"), [("HEAD", 0), ("GET", 0), ("GET", 1_000_000)])
def test_a_download_that_stalls_for_good_names_the_file(hub, impatient, asked, sent):
    repo = hub.add("models", "org/big", {"config.json": b"{}", "model.safetensors": bytes(3_000_000)})
    weights = f"{asked} /org/big/resolve/{repo.sha}/model.safetensors"
    if sent:
        hub.fail(weights, 0, times=1, sent=sent)
    hub.fail(weights, 0)
    with pytest.raises(HubUnavailableError) as caught:
        download_model("org/big")
    assert "fell silent" in caught.value.why and "Still missing: model.safetensors." in caught.value.why
    assert "Run it again" in str(caught.value) and caught.value.__context__ is None
    hub.faults.clear()
    assert names(download_model("org/big")) == {"config.json", "model.safetensors"}


@pytest.mark.parametrize("weights", ["model.safetensors", "consolidated.safetensors", "pytorch_model.bin"])
def test_offline_run_finds_what_an_earlier_one_left(hub, monkeypatch, weights):
    twice = {"model.safetensors", "consolidated.safetensors", "pytorch_model.bin", weights}
    twice -= {"consolidated.safetensors"} if weights == "model.safetensors" else set()
    twice -= {"model.safetensors", "consolidated.safetensors"} if weights == "pytorch_model.bin" else set()
    hub.add("models", "org/model", {name: b"0" for name in ["config.json", *twice]})
    tokenizer = download_model("org/model", load_format="dummy")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert download_model("org/model", load_format="dummy") == tokenizer
    with pytest.raises(ModelNotFoundError):
        download_model("org/model")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert names(download_model("org/model")) == {"config.json", weights}
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert download_model("org/model") == tokenizer


def test_local_folder_stays_where_it_is(hub, tmp_path):
    assert download_model(str(tmp_path)) == str(tmp_path)
    assert download_model("s3://bucket/model") == "s3://bucket/model"
    assert not hub.requests


def test_demo_model_loads_from_its_download(hub):
    from transformers import AutoConfig, AutoTokenizer

    hub.add("models", "org/demo", ROOT / "assets" / "demo-model", gated=True, readers={"alice"})
    folder = download_model("org/demo", "hf_alice")
    assert "model.safetensors" in names(folder)
    assert AutoConfig.from_pretrained(folder).model_type
    assert AutoTokenizer.from_pretrained(folder)("Hello").input_ids
