"""A folder that cannot be a model is found by its files' first bytes, all that is wrong with it at once."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from rayllm_batch.errors import ConfigError
from rayllm_batch.model_folder import INDEX, check_folder

DEMO = Path("assets/demo-model")
WEIGHTS = "model.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 5\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO, tmp_path / "model"))


def refusal(folder: Path, weights: list[str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        check_folder(folder, [WEIGHTS] if weights is None else weights)
    assert repr(str(folder)) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_the_demo_model_is_one(folder: Path) -> None:
    check_folder(folder, [WEIGHTS])
    check_folder(folder, None)


def cut_to(size: int) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(path.read_bytes()[:size])


def header_of(length: int) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])


@pytest.mark.parametrize(("damage", "words"), [
    (cut_to(0), "is empty"), (cut_to(5), "cut short: 5 bytes"), (cut_to(60), "cut short: it has 60 bytes"), (cut_to(2_000_000), "cut short"),
    (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "damaged: it has"), (header_of(2**60), "makes no sense"),
    (header_of(16), "its header is not JSON"), (lambda path: path.write_text(POINTER), "Git LFS pointer"),
    (lambda path: path.write_text("<html><title>503</title>"), "HTML page"), (lambda path: path.write_bytes(b"\0" * 9000), "zero bytes"),
    (lambda path: path.write_bytes(b"GGUF" + bytes(100)), "GGUF"),
])  # fmt: skip
def test_weights(damage: Callable[[Path], object], words: str, folder: Path) -> None:
    damage(folder / WEIGHTS)
    message = refusal(folder)
    assert f"{WEIGHTS} is " in message and words in message


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json", "generation_config.json"])
@pytest.mark.parametrize(("content", "words"), [
    ("", "is empty"), ("{", "not JSON, or cut short"), (POINTER, "Git LFS pointer"), ("[]", "not a JSON object"), ("<!DOCTYPE html>", "HTML page"),
])  # fmt: skip
def test_small_files(name: str, content: str, words: str, folder: Path) -> None:
    (folder / name).write_text(content)
    message = refusal(folder)
    assert f"{name} is" in message and words in message


def test_a_config_of_something_else(folder: Path) -> None:
    (folder / "config.json").write_text('{"name": "my-app"}')
    assert "names neither model_type nor architectures" in refusal(folder)


def test_all_at_once(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    (folder / "tokenizer.json").write_text(POINTER)
    (folder / WEIGHTS).write_bytes(b"")
    message = refusal(folder)
    assert all(f"{name} is" in message for name in ("config.json", "tokenizer.json", WEIGHTS))


def test_a_shard_that_is_missing(folder: Path) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": WEIGHTS, "b": "second.safetensors", "c": "third.safetensors"}}))
    assert f"{INDEX} lists second.safetensors and 1 more, which is not there" in refusal(folder)


def test_nothing_to_compute_with(folder: Path) -> None:
    assert "it has no weights" in refusal(folder, [])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert "it has no tokenizer" in refusal(folder)
    check_folder(folder, [WEIGHTS], own_tokenizer=False)


def test_pytorchs_own_weights(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04 as torch.save writes")
    check_folder(folder, ["pytorch_model.bin"])
    (folder / "pytorch_model.bin").write_text(POINTER)
    assert "pytorch_model.bin is a Git LFS pointer" in refusal(folder, ["pytorch_model.bin"])


def test_an_adapter(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    message = refusal(tmp_path)
    assert "LoRA adapter" in message and "base model" in message and "dynamic_lora_loading_path" in message


def test_one_level_too_high(folder: Path) -> None:
    assert f"{str(folder)!r} does: set model_id to that" in refusal(folder.parent)
    hub = folder.parent / "models--org--name" / "snapshots"
    hub.mkdir(parents=True)
    folder.rename(hub / "abc")
    assert "snapshots/abc' does" in refusal(hub.parent)


def test_nothing_at_all(tmp_path: Path) -> None:
    assert "it has no config.json (it is empty)" in refusal(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    assert "(there are notes.txt)" in refusal(tmp_path)


def test_mistrals_own_format(folder: Path) -> None:
    (folder / "config.json").rename(folder / "params.json")
    check_folder(folder, [WEIGHTS])
