"""Tokenizers of every shape that models come with, built in a second and saved as a model folder would hold them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SENTENCES = [
    "The council opened a new library on Monday, and three hundred people came.",
    "A storm closed the harbour for two days; no one was hurt.",
    "user system assistant: summarise the highlights of this article in clear language.",
]
BOS, EOS, PAD = "<s>", "</s>", "<pad>"
BODY = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + message['role']) }}{% endif %}"
    "[{{ message['role'] }}] {{ message['content'] }}\n"
    "{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)
WITH_BOS = "{{ bos_token }}" + BODY

# name -> (the template writes BOS, the tokenizer's post-processor adds BOS)
SHAPES = {"template": (True, False), "tokenizer": (False, True), "both": (True, True), "none": (False, False)}


def byte_level_bpe(folder: Path, *, bos_in_template: bool, bos_by_tokenizer: bool, **saved: Any) -> Path:
    """A byte-level BPE as Llama, Qwen and GPT have; `saved` goes into tokenizer_config.json over what is there."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=[BOS, EOS, PAD],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if bos_by_tokenizer:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, backend.token_to_id(BOS))]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=BOS, eos_token=EOS, pad_token=PAD)
    tokenizer.chat_template = WITH_BOS if bos_in_template else BODY
    tokenizer.save_pretrained(folder)
    if saved:
        config = folder / "tokenizer_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), **saved}))
    return folder


def padding_and_truncating(folder: Path) -> Path:
    """One whose tokenizer.json pads to 64 tokens and cuts at 16, as a training run may have left it."""
    from tokenizers import Tokenizer

    byte_level_bpe(folder, bos_in_template=True, bos_by_tokenizer=False)
    saved = folder / "tokenizer.json"
    backend = Tokenizer.from_file(str(saved))
    backend.enable_padding(length=64, pad_id=backend.token_to_id(PAD), pad_token=PAD)
    backend.enable_truncation(max_length=16)
    backend.save(str(saved))
    return folder


def python_only(folder: Path) -> Path:
    """One that is plain Python, without a backend of the tokenizers library."""
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer()
    tokenizer.chat_template = BODY
    tokenizer.save_pretrained(folder)
    return folder
