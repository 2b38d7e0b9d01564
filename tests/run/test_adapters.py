"""LoRA adapters before a start: found where they lie, refused where no engine could load them, and given room."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, Optional

import pytest
from hub_server import HubServer

from rayllm_batch import init_engine_from_config
from rayllm_batch.config import EngineConfig
from rayllm_batch.errors import ConfigError
from rayllm_batch.run.adapters import look_at_adapters, with_places
from rayllm_batch.run.model_check import ModelFacts
from rayllm_batch.run.plan import Lengths, make_plan

LLAMA_8B = {"model_type": "llama", "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}
LLAMA_8B |= {"hidden_size": 4096, "intermediate_size": 14336}


def config(root: Optional[str], accelerator: str = "CPU", **engine_kwargs: Any) -> EngineConfig:
    given: dict[str, Any] = {"model_id": "org/model", "llm_engine": "vllm", "accelerator_type": accelerator}
    given |= {"lora_config": {"dynamic_lora_loading_path": root}} if root else {}
    return init_engine_from_config({**given, "engine_kwargs": engine_kwargs})


def adapters(root: Path, **about: Any) -> str:
    """A folder of them: each its rank, or all of its adapter_config.json."""
    for name, its in about.items():
        (root / name).mkdir(parents=True)
        (root / name / "adapter_config.json").write_text(json.dumps(its if isinstance(its, dict) else {"r": its}))
        (root / name / "adapter_model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    return str(root)


def chats(*names: Optional[str]) -> list[dict[str, Any]]:
    return [{"messages": [], **({"model": name} if name else {})} for name in names]


def chosen(found: dict[str, Any], accelerator: str = "CPU", model: Any = LLAMA_8B, **kwargs: Any) -> dict[str, Any]:
    given = config("/adapters", accelerator, **kwargs)
    with_room, _, _ = with_places(given, ModelFacts(model), found)
    return {key: value for key, value in with_room.engine_kwargs.items() if given.engine_kwargs.get(key) != value}


def test_ranks_are_those_of_their_files(tmp_path: Path) -> None:
    root = adapters(tmp_path, a=8, b={"r": 4, "rank_pattern": {"layers.3.mlp": 48}}, c={"lora_alpha": 1}, d=600)
    adapters(tmp_path / "deeper", **{"in": 2})
    found = look_at_adapters(config(root), chats(None, "a", "gone", "../x", "d"), "")
    assert {name: rank for name, rank in found.items() if isinstance(rank, int)} == {"a": 8, "b": 48, "deeper/in": 2}
    assert "no LoRA adapter 'gone'" in str(found["gone"]) and "is not the name" in str(found["../x"])
    assert "names no rank `r`" in str(found["c"]) and "rank 600" in str(found["d"])


def test_weights_that_are_none_or_another_models_are_said_before_an_engine(tmp_path: Path) -> None:
    root = adapters(tmp_path, whole=8, pointer=8, gone=8, older=8, others=8)
    (tmp_path / "pointer" / "adapter_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    for name in ("gone", "older"):
        (tmp_path / name / "adapter_model.safetensors").unlink()
    (tmp_path / "older" / "adapter_model.bin").touch()
    header = json.dumps({"a.q_proj.lora_A.weight": {"dtype": "F32", "shape": [8, 16], "data_offsets": [0, 0]}}).encode()
    (tmp_path / "others" / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    found = look_at_adapters(config(root), chats("pointer"), "", 64)
    assert found["whole"] == found["older"] == 8
    assert "adapter_model.safetensors is a Git LFS pointer" in str(found["pointer"])
    assert "'gone' cannot be used: it has no adapter_model.safetensors" in str(found["gone"])
    assert "of another base model, whose hidden size is 16; that of this one is 64" in str(found["others"])


def test_a_rank_above_the_configs_is_said_before_an_engine(tmp_path: Path) -> None:
    root = adapters(tmp_path, small=8, wide=40, others=64)
    with pytest.raises(ConfigError, match="max_lora_rank is 16, but the LoRA adapter 'wide' has rank 40. Set it to 64"):
        look_at_adapters(config(root, max_lora_rank=16), chats("small", "wide"), "")
    found = look_at_adapters(config(root, max_lora_rank=16), chats("small"), "")
    assert found["others"] == 64, "no row is known to ask for it"


def test_no_place_is_set(tmp_path: Path) -> None:
    found = look_at_adapters(config(None), chats("a", None), "")
    assert list(found) == ["a"] and "dynamic_lora_loading_path is not set" in str(found["a"])


def test_those_on_the_hub(hub: HubServer, isolated: Path) -> None:
    hub.add("models", "me/french", {"adapter_config.json": b'{"r": 32}'})
    hub.add("models", "me/many", {"legal/adapter_config.json": b'{"r": 16}', "medical/adapter_config.json": b"{}"})
    hub.add("models", "me/closed", {"adapter_config.json": b'{"r": 4}'}, private=True, readers={"alice"})
    found = look_at_adapters(config("hf://me"), chats("french", "many/legal", "many/medical", "closed", "none"), "")
    assert found["french"] == 32 and found["many/legal"] == 16 and "names no rank" in str(found["many/medical"])
    assert "no LoRA adapter 'closed'" in str(found["closed"]) and "no LoRA adapter 'none'" in str(found["none"])
    assert look_at_adapters(config("hf://me/"), chats("closed"), "hf_alice") == {"closed": 4}
    assert look_at_adapters(config("hf://me/many"), chats("legal"), "") == {"legal": 16}


@pytest.mark.parametrize(
    ("found", "kwargs", "expected"),
    [
        ({"a": 8}, {}, {"max_lora_rank": 8, "max_loras": 1}),
        ({"a": 8, "b": 33, "c": "broken", "d": None}, {}, {"max_lora_rank": 64, "max_loras": 2}),
        ({"a": 8, "b": 8, "c": 8}, {"max_loras": 1}, {"max_lora_rank": 8, "max_cpu_loras": 3}),
        ({"a": 8, "b": 8}, {"max_loras": 1, "max_lora_rank": 16, "max_cpu_loras": 1}, {}),
        ({str(n): 1 for n in range(200)}, {}, {"max_lora_rank": 1, "max_loras": 16, "max_cpu_loras": 64}),
        ({"a": "broken"}, {}, {}),
        ({}, {}, {}),
    ],
)
def test_room_is_chosen_where_none_is_set(found: Any, kwargs: Any, expected: Any) -> None:
    assert chosen(found, **kwargs) == expected


def test_places_take_little_of_a_gpu() -> None:
    found = {str(n): 64 for n in range(20)}
    assert chosen(found, "L4")["max_loras"] == 3 and chosen(found, "H100")["max_loras"] == 12
    unknown = {**LLAMA_8B, "model_type": "deepseek_v3"}
    experts = {**LLAMA_8B, "model_type": "mixtral", "num_local_experts": 8}
    assert [chosen(found, "H100", model)["max_loras"] for model in (unknown, experts)] == [1, 1]


def test_more_adapters_than_places_have_more_rows_on_their_way() -> None:
    def planned(**found: Any) -> Any:
        lengths = Lengths(2000, 100)  # so long that no more than the least are on their way
        facts, how = ModelFacts(LLAMA_8B), {"batch_size": None, "total": 100_000, "lengths": lengths, "adapters": found}
        return make_plan(config("/adapters", max_loras=2, max_num_seqs=64), facts, (1, 1), **how)

    two, six = planned(a=8, b=8), planned(**dict.fromkeys("abcdef", 8))
    assert two.turns == 1 and six.turns == 3
    assert six._fewest_in_flight == 3 * two._fewest_in_flight
    assert "max_lora_rank=8, max_cpu_loras=6, for 6 LoRA adapter(s)" in six.chosen(100_000)
