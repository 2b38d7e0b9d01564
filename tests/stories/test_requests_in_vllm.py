"""What rows ask of a real vLLM engine on CPU: adapters, settings, and what it must not die of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rayllm_batch import ChatWorkloadBase, RayLLMBatch, init_engine_from_config

pytestmark = [pytest.mark.ray, pytest.mark.vllm]
MODEL = Path("assets/demo-model")
TOKENS, RANK = 6, 8
PARTS = ("q_proj", "v_proj")
ADAPTERS = ("red", "green", "blue")


def adapter(
    root: Path, name: str, seed: int, *, rank: int = RANK, hidden: int = 256, parts: tuple[str, ...] = PARTS
) -> dict[str, torch.Tensor]:
    """A PEFT folder with weights large enough to change every answer; returns what it adds to the model's weights."""
    torch.manual_seed(seed)
    weights, added = {}, {}
    for layer in range(5):
        for part in parts:
            down, up = torch.randn(rank, hidden) * 0.5, torch.randn(512, rank) * 0.5
            key = f"model.layers.{layer}.self_attn.{part}"
            weights |= {f"base_model.model.{key}.lora_A.weight": down, f"base_model.model.{key}.lora_B.weight": up}
            added[f"{key}.weight"] = up @ down
    (root / name).mkdir(parents=True)
    save_file(weights, root / name / "adapter_model.safetensors")
    about = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": list(parts),
    }
    (root / name / "adapter_config.json").write_text(
        json.dumps({**about, "bias": "none", "base_model_name_or_path": str(MODEL)})
    )
    return added


def prompt(n: int) -> list[dict[str, Any]]:
    return [{"role": "user", "content": f"Row {n} asks for a summary of what the council said about the harbour."}]


def expected(added: dict[str, torch.Tensor], numbers: list[int]) -> dict[int, str]:
    """What transformers answers with these added to the weights."""
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    with torch.no_grad():
        for name, more in added.items():
            model.get_parameter(name).add_(more)
    texts = {}
    for n in numbers:
        ids = tokenizer.apply_chat_template(
            prompt(n), add_generation_prompt=True, return_dict=False, return_tensors="pt"
        )
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False)
        text = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        texts[n] = text.rstrip("\ufffd")  # a letter cut in two by max_tokens, which vLLM leaves out
    return texts


class Asking(ChatWorkloadBase):
    """Row n's adapter and settings, by n."""

    count: int = 0
    adapters: dict = {}  # noqa: RUF012 (as users write it)
    own: dict = {}  # noqa: RUF012
    sampling_params: dict = {"temperature": 0.0}  # noqa: RUF012

    def load_dataset(self) -> Any:
        import ray.data

        return ray.data.from_items([{"n": n} for n in range(self.count)])

    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        chat = {"prompt_token_ids": [8192]} if row["n"] == 48 else {"messages": prompt(row["n"])}
        if row["n"] in self.adapters:
            chat["model"] = self.adapters[row["n"]]
        if row["n"] in self.own:
            chat["sampling_params"] = self.own[row["n"]]
        return chat


def test_adapters_and_settings_of_rows(ray_cluster: Any, tmp_path: Path) -> None:
    added = {name: adapter(tmp_path, name, seed) for seed, name in enumerate(ADAPTERS)}
    adapter(tmp_path, "too-wide", 7, rank=2 * RANK)
    adapter(tmp_path, "of-another", 8, hidden=128)
    adapter(tmp_path, "elsewhere", 9, parts=("w_proj",))
    adapter(tmp_path, "a-pointer", 10)
    (tmp_path / "a-pointer" / "adapter_model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n"
    )
    assert load_file(tmp_path / "red" / "adapter_model.safetensors")
    numbers = list(range(8, 32))  # more than max_num_seqs, so that what stands beside what changes
    adapters = {n: ADAPTERS[n % 4] for n in numbers if n % 4 < 3}  # every fourth row asks the model itself
    own = {
        32: {"logit_bias": {"350": 100.0}},
        33: {"logit_bias": {350: 100.0}},
        34: {"max_tokens": None},
        35: {"max_tokens": 2},
        36: {"max_tokens": 5.0},
        37: {"temperature": "cold"},
        38: {"stop_token_ids": [2**30]},
        39: {"allowed_token_ids": [9_000]},
        40: {"structured_outputs": {"grammar": "root ::= ("}},
        41: {"structured_outputs": {"choice": ["yes", "no"]}, "max_tokens": 20},
    }
    kwargs = {
        "max_model_len": 256,
        "max_num_seqs": 8,
        "speculative_config": None,
        "max_loras": 2,
        "max_lora_rank": RANK,
        "override_generation_config": {"max_new_tokens": TOKENS},
    }
    config = init_engine_from_config(
        "configs/demo-cpu.yaml",
        override={"engine_kwargs": kwargs, "lora_config": {"dynamic_lora_loading_path": str(tmp_path)}},
    )
    refused = {
        42: ("no-such-adapter", "no LoRA adapter"),
        43: ("too-wide", "max_lora_rank"),
        44: ("too-wide", "max_lora_rank"),
        45: ("of-another", "another base model"),
        46: ("elsewhere", "target modules"),
        47: ("a-pointer", "Git LFS pointer"),
    }
    adapters |= {n: name for n, (name, _) in refused.items()}
    batch = RayLLMBatch(config, Asking(count=49, adapters=adapters, own=own), stall_timeout_s=120)
    rows = {row["n"]: row for row in batch.run().take_all()}
    assert sorted(rows) == list(range(49)) and {len(actors) for actors in [batch.metrics.replicas]} == {1}
    assert batch.metrics.replicas[0].restarts == 0, "nothing killed the engine"

    for name in (*ADAPTERS, None):
        of = [n for n in numbers if adapters.get(n) == name]
        texts = expected(added.get(name, {}), of)
        assert {n: rows[n]["generated_text"] for n in of} == texts, f"the answers of adapter {name}"
        assert all(rows[n]["error"] is None and rows[n]["num_generated_tokens"] <= TOKENS for n in of)
    for n, (name, words) in refused.items():
        assert name in rows[n]["error"] and words in rows[n]["error"], rows[n]["error"]
    assert "vocabulary of 8,192" in rows[48]["error"]

    biased = rows[32]["generated_text"]
    assert biased == rows[33]["generated_text"] and len(set(biased.split())) == 1, "one token, six times over"
    assert rows[34]["num_generated_tokens"] <= TOKENS, "a null lifts no limit"
    assert rows[35]["num_generated_tokens"] == 2 and rows[35]["finish_reason"] == "length"
    for n, name in ((36, "max_tokens"), (37, "temperature"), (38, "stop_token_ids"), (39, "allowed_token_ids")):
        assert name in rows[n]["error"] and rows[n]["finish_reason"] == "error", f"row {n}"
    assert rows[40]["error"] and "EngineGenerateError" not in rows[40]["error"], "the reason is said"
    assert rows[41]["generated_text"] in ("yes", "no") and rows[41]["error"] is None
