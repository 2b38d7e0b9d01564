"""A model that hears in small: Qwen2-Audio's architecture, a processor as on the Hub, random weights."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

TOKENIZER = Path(__file__).parents[2] / "assets" / "demo-model"
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
    "{% if p.type == 'audio' %}{{ '<|audio_bos|><|AUDIO|><|audio_eos|>' }}{% elif p.type == 'text' %}{{ p.text }}"
    "{% endif %}{% endfor %}{% endif %};{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def make(folder: Path) -> Path:
    import torch
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2AudioConfig,
        Qwen2AudioForConditionalGeneration,
        Qwen2AudioProcessor,
        WhisperFeatureExtractor,
    )

    tokenizer = PreTrainedTokenizerFast.from_pretrained(TOKENIZER)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]})
    tokenizer.chat_template = TEMPLATE
    ears = WhisperFeatureExtractor(feature_size=16)
    processor = Qwen2AudioProcessor(ears, tokenizer, chat_template=TEMPLATE)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_hidden_layers": 2}
    text = {"vocab_size": len(tokenizer), "num_key_value_heads": 2, "max_position_embeddings": 2048}
    hears = {
        "d_model": 64,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 128,
        "num_mel_bins": 16,
    }
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = Qwen2AudioConfig(
        audio_config=hears,
        text_config={**shape, **text, **ids, "model_type": "qwen2"},
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    torch.manual_seed(0)
    model = Qwen2AudioForConditionalGeneration(config)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.2)
    model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def sound(seconds: float, hertz: int, rate: int = 8000) -> bytes:
    """A tone, as a WAV file of 32-bit floats: of whole numbers, vLLM without soundfile takes them as they are, up to 32,767
    in place of 1.
    """
    data = (0.4 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype("<f4").tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 1, rate, 4 * rate, 4, 32)
    chunks = b"WAVE" + form + struct.pack("<4sI", b"data", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


if __name__ == "__main__":
    import sys

    make(Path(sys.argv[1]))
