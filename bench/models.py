"""Llama-shaped model folders without weights, for vLLM's `load_format: dummy`: the speed is real, the text is not.

    python -m bench.models FOLDER [1b] [8b] [moe]

The tokenizer is the demo model's, its vocabulary filled up to Llama 3's size with tokens that no text contains, so
that the embedding and the sampler are as large as the real ones and every prompt has the same tokens on both.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

DEMO_MODEL = Path(__file__).resolve().parent.parent / "assets" / "demo-model"
VOCAB_SIZE = 128256

SHAPES = {
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "head_dim": 64},  # Llama 3.2 1B
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "head_dim": 128},  # Llama 3.1 8B
    "moe": {  # a small mixture of experts
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "hidden_size": 1024,
        "intermediate_size": 2048,
        "num_hidden_layers": 4,
        "head_dim": 64,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 512,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    },
}


def make(shape: str, folder: Path) -> Path:
    """Write `folder`/`shape` unless it is there, and return it; "demo" is the model that ships with the repository."""
    if shape == "demo":
        return DEMO_MODEL
    model = folder / shape
    if (model / "config.json").is_file():
        return model
    model.mkdir(parents=True, exist_ok=True)
    shutil.copy(DEMO_MODEL / "chat_template.jinja", model)

    tokenizer = json.loads((DEMO_MODEL / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary.update({f"<|unused {i}|>": i for i in range(len(vocabulary), VOCAB_SIZE)})
    (model / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")

    settings = json.loads((DEMO_MODEL / "tokenizer_config.json").read_text(encoding="utf-8"))
    (model / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 131072}), encoding="utf-8")

    special = json.loads((DEMO_MODEL / "config.json").read_text(encoding="utf-8"))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "max_position_embeddings": 8192,
        "initializer_range": 0.02,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": shape == "1b",
        "vocab_size": VOCAB_SIZE,
        **SHAPES[shape],
        **{name: special[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
    }
    # Last: its presence says that the folder is complete.
    (model / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return model


def main() -> None:
    if len(sys.argv) < 2 or not set(sys.argv[2:]) <= set(SHAPES):
        raise SystemExit(__doc__)
    for shape in sys.argv[2:] or SHAPES:
        print(make(shape, Path(sys.argv[1])))


if __name__ == "__main__":
    main()
