"""The demo model's folder: the shape of the model, and how its files are written."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from tokenizer import BOS, CHAT_TEMPLATE, EOS, PAD, SPECIAL_TOKENS, VOCAB_SIZE
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

CONTEXT = 4096  # tokens


def new_model(seed: int) -> LlamaForCausalLM:
    """A float32 model with seeded random weights; 7.4 million parameters."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=5,
        num_attention_heads=8,
        num_key_value_heads=8,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        initializer_range=0.02,
        pad_token_id=SPECIAL_TOKENS.index(PAD),
        bos_token_id=SPECIAL_TOKENS.index(BOS),
        eos_token_id=SPECIAL_TOKENS.index(EOS),
        architectures=["LlamaForCausalLM"],
        dtype="float32",
    )
    return LlamaForCausalLM._from_config(config, attn_implementation="sdpa")


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def write_model(model: LlamaForCausalLM, folder: Path) -> None:
    """Writes config.json, generation_config.json and the weights in bfloat16 (14.9 MB)."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor.detach().to("cpu", torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"  # tied to the embedding
    }
    (folder / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
    config = {**model.config.to_diff_dict(), "dtype": "bfloat16"}
    special = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    generation = {**special, "do_sample": False, "max_new_tokens": 150}
    for name, value in (("config.json", config), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_weights(model: LlamaForCausalLM, folder: Path) -> None:
    """Puts a folder's weights into `model`, which keeps its own type."""
    weights = load_file(folder / "model.safetensors")
    missing = set(model.load_state_dict(weights, strict=False).missing_keys)
    if missing != {"lm_head.weight"}:
        raise ValueError(f"expected all weights but lm_head.weight, which is tied, in {folder}; missing: {missing}")
