"""A GGUF file as what vLLM's CPU build can load: python scripts/gguf_model.py FILE.gguf FOLDER

Writes the weights, as float32, the tokenizer and a config.yaml into FOLDER. It needs `pip install gguf accelerate` too. For pictures of
a model that does not ship with this repository, where no hub can be reached. A base model has no chat template, and gets
one here in which question and answer are lines.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

LINES = (
    "{{ bos_token }}{% for message in messages %}{{ message.content }}"
    "{{ '\n\n' if message.role == 'assistant' else '\n' }}{% endfor %}"
)


def main(file: str, folder: str) -> None:
    source = Path(file).resolve()
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    model.hf_quantizer, model.is_quantized = None, False  # they are plain weights now, and transformers saves only such
    del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.chat_template = tokenizer.chat_template or LINES
    tokenizer.save_pretrained(folder)
    config = {
        "model_id": str(Path(folder).resolve()),
        "llm_engine": "vllm",
        "accelerator_type": "CPU",
        "engine_kwargs": {"dtype": "float32", "max_model_len": 2048, "max_num_seqs": 16, "enforce_eager": True},
        "runtime_env": {"env_vars": {"VLLM_CPU_KVCACHE_SPACE": "1"}},
    }
    (Path(folder) / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
