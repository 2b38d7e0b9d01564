"""A folder that cannot be a model is found by its files' first bytes, all that is wrong with it at once."""

from __future__ import annotations

import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from rayllm_batch.errors import ConfigError
from rayllm_batch.model.folder import INDEX, INDEX_OF_BIN, check_folder

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


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut_to(0), "is empty"),
        (cut_to(5), "cut short: 5 bytes"),
        (cut_to(60), "cut short: it has 60 bytes"),
        (cut_to(2_000_000), "cut short"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "damaged: it has"),
        (header_of(2**60), "makes no sense"),
        (header_of(16), "its header is not JSON"),
        (lambda path: path.write_text(POINTER), "Git LFS pointer"),
        (lambda path: path.write_text("<html><title>503</title>"), "HTML page"),
        (lambda path: path.write_bytes(b"\0" * 9000), "zero bytes"),
        (lambda path: path.write_bytes(b"GGUF" + bytes(100)), "GGUF"),
    ],
)
def test_weights(damage: Callable[[Path], object], words: str, folder: Path) -> None:
    damage(folder / WEIGHTS)
    message = refusal(folder)
    assert f"{WEIGHTS} is " in message and words in message


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json", "generation_config.json"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty"),
        ("{", "not JSON, or cut short"),
        (POINTER, "Git LFS pointer"),
        ("[]", "not a JSON object"),
        ("<!DOCTYPE html>", "HTML page"),
        pytest.param("\ufeff{}", "not JSON, or cut short", id="mark of order, which json.load of a text does not take"),
        pytest.param("[" * 100_000, "not JSON, or cut short", id="deep"),
    ],
)
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
    (folder / INDEX).write_text(
        json.dumps({"weight_map": {"a": WEIGHTS, "b": "second.safetensors", "c": "third.safetensors"}})
    )
    assert f"{INDEX} lists second.safetensors and 1 more, which is not there" in refusal(folder)


def test_nothing_to_compute_with(folder: Path) -> None:
    assert "it has no weights" in refusal(folder, [])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert "it has no tokenizer" in refusal(folder)
    check_folder(folder, [WEIGHTS], own_tokenizer=False)


def test_pytorchs_own_weights(folder: Path) -> None:
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as file:  # as torch.save writes
        file.writestr("archive/data.pkl", b"\x80\x02" + bytes(range(256)) * 100)
    check_folder(folder, ["pytorch_model.bin"])
    cut_to(5000)(folder / "pytorch_model.bin")
    assert "pytorch_model.bin is cut short" in refusal(folder, ["pytorch_model.bin"])
    for content, words in (
        (b"Not Found", "not a file of torch.save"),
        (b"<html>Sign in</html>", "an HTML page"),
        (b"", "empty"),
    ):
        (folder / "pytorch_model.bin").write_bytes(content)
        assert f"pytorch_model.bin is {words}" in refusal(folder, ["pytorch_model.bin"])
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02 of an older torch")
    check_folder(folder, ["pytorch_model.bin"])
    (folder / "pytorch_model.bin").write_text(POINTER)
    assert "pytorch_model.bin is a Git LFS pointer" in refusal(folder, ["pytorch_model.bin"])


def test_a_header_whose_length_looks_like_something_else(folder: Path) -> None:
    for length in (0x0280, 0x8B1F):  # in bytes: as a pickle and as gzip begin
        header = json.dumps({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).ljust(length).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", length) + header + b"abcd")
        check_folder(folder, [WEIGHTS])


def test_shards_by_their_numbers(folder: Path) -> None:
    shards = [f"pytorch_model-0000{n}-of-00003.bin" for n in (1, 3)]
    for name in shards:
        (folder / name).write_bytes(b"\x80\x02")
    assert "lead to pytorch_model-00002-of-00003.bin, which is not there" in refusal(folder, shards)
    (folder / "pytorch_model-00002-of-00003.bin").symlink_to(folder / "gone")
    assert "pytorch_model-00002-of-00003.bin, which is not there" in refusal(folder, shards)
    check_folder(folder, shards, complete=False)


def test_an_index_of_pytorchs_weights(folder: Path) -> None:
    (folder / INDEX_OF_BIN).write_text(json.dumps({"weight_map": {"a": "first.bin", "b": "second.bin"}}))
    (folder / "first.bin").write_bytes(b"\x80\x02")
    assert f"{INDEX_OF_BIN} lists second.bin, which is not there" in refusal(folder, ["first.bin"])
    check_folder(folder, [WEIGHTS])


@pytest.mark.parametrize("index", ['{"weight_map": []}', "{}", '{"weight_map": {}}', "[]"])
def test_an_index_of_nothing(index: str, folder: Path) -> None:
    (folder / INDEX).write_text(index)
    if index == "[]":
        assert f"{INDEX} is not a JSON object" in refusal(folder)
    else:
        check_folder(folder, [WEIGHTS])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("chat_template.jinja", POINTER, "is a Git LFS pointer"),
        ("chat_template.jinja", "", "is empty"),
        ("chat_template.json", "{", "not JSON"),
        ("special_tokens_map.json", "<html>", "is an HTML page"),
    ],
)
def test_what_a_tokenizer_has_beside_it(name: str, content: str, words: str, folder: Path) -> None:
    (folder / name).write_text(content)
    assert f"{name} " in refusal(folder) and words in refusal(folder)
    check_folder(folder, [WEIGHTS], own_tokenizer=False)


def test_files_of_a_slow_tokenizer_count_where_there_is_no_fast_one(folder: Path) -> None:
    (folder / "tokenizer.model").write_text(POINTER)
    check_folder(folder, [WEIGHTS])
    (folder / "tokenizer.json").unlink()
    assert "tokenizer.model is a Git LFS pointer" in refusal(folder)


def test_only_gguf(folder: Path) -> None:
    (folder / "model.Q4_K_M.gguf").write_bytes(b"GGUF")
    check_folder(folder, [WEIGHTS])
    assert "only GGUF weights (model.Q4_K_M.gguf), which vLLM does not read" in refusal(folder, [])


def test_a_base_models_config_beside_an_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    assert "no weights but a LoRA adapter's. Set model_id to its base model" in refusal(folder, [])


def test_a_tokenizers_own_folder(folder: Path) -> None:
    for name in ("config.json", WEIGHTS):
        (folder / name).unlink()
    check_folder(folder, None, own_config=False)
    assert "it has no config.json" in refusal(folder)


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


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"a": []},
        {"a": {"data_offsets": "ab"}},
        {"a": {"data_offsets": ["0", "4"]}},
        {"a": {"data_offsets": [0, 4.0]}},
        {"a": {"data_offsets": {}}},
        {"a": {"data_offsets": [0, None]}},
        {"__metadata__": {}, "a": 5},
    ],
)
def test_a_header_that_is_not_that_of_tensors(header: object, folder: Path) -> None:
    said = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(said)) + said + bytes(4))
    assert f"{WEIGHTS} is not a safetensors file, or damaged: its header" in refusal(folder)


@pytest.mark.parametrize("listed", [["a"], "a", {"a": 1}, {"a": ["x"]}, {"a": WEIGHTS, "b": None}])
def test_an_index_that_is_none(listed: object, folder: Path) -> None:
    for name in (INDEX, INDEX_OF_BIN):
        (folder / name).write_text(json.dumps({"weight_map": listed}))
        assert f"{name} has no weight_map, a file's name for each tensor" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model_type", ["llama"]),
        ("text_config", "x"),
        ("rope_scaling", 2),
        ("quantization_config", [1]),
        ("torch_dtype", {}),
        ("layer_types", 5),
    ],
)
def test_a_config_whose_fields_are_odd(name: str, value: object, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, name: value}))
    assert f"config.json has a {name} that is {type(value).__name__}: " in refusal(folder)


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer.model.v3",
        "sentencepiece.bpe.model",
        "spm.model",
        "spiece.model",
        "vocab.json",
        "vocab.txt",
        "tekken.json",
        "qwen.tiktoken",
        "source.spm",
        "tiktoken.model",
    ],
)
def test_tokenizers_in_less_usual_files(name: str, folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / name).write_text("{}")
    check_folder(folder, [WEIGHTS])


def test_a_tokenizer_that_is_code(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"auto_map": {"AutoTokenizer": ["tokenization_x.X", None]}})
    )
    check_folder(folder, [WEIGHTS])
