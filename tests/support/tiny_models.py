"""Models of a few hundred kilobytes with seeded random weights, of the shapes that pooling models have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WORDS = (
    "the a of to and in on for was is it that with by at from council harbour bridge river town mayor vote money rain "
    "storm fish market school road train ship light stone garden what when where who why how"
).split()
LETTERS = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789.,?!'-:<>/")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def bert(folder: Path, architecture: str, seed: int = 0, **config: Any) -> str:
    """architecture: "BertModel", or "BertForSequenceClassification". Two layers of width 64, contexts of 128 tokens."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = [*SPECIAL, *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    ids = {word: i for i, word in enumerate(dict.fromkeys(vocabulary))}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    fast = transformers.BertTokenizerFast(tokenizer_object=tokenizer, model_max_length=128)
    torch.manual_seed(seed)
    shape = transformers.BertConfig(
        vocab_size=len(ids),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=128,
        initializer_range=0.4,  # so that different texts get different numbers
        **config,
    )
    model = getattr(transformers, architecture)(shape)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return str(folder)


def sentence_transformer(folder: Path, mode: str = "mean", dense: int | None = None) -> None:
    """Beside a model, what sentence-transformers writes of its pooling, and of a dense layer behind it."""
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    modules.append({"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"})
    pooling = {"word_embedding_dimension": 64, f"pooling_mode_{mode}_tokens": True}
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    if dense:
        modules.append({"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
        (folder / "2_Dense").mkdir()
        (folder / "2_Dense" / "config.json").write_text(json.dumps({"in_features": 64, "out_features": dense}))
    (folder / "modules.json").write_text(json.dumps(modules))


def reranker(folder: Path, source: str = "assets/demo-model", seed: int = 0) -> str:
    """A Qwen3ForCausalLM of the shape of Qwen3-Reranker, with the demo model's tokenizer."""
    import shutil

    import torch
    import transformers

    torch.manual_seed(seed)
    shape = transformers.Qwen3Config(
        vocab_size=8192,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=128,
        max_position_embeddings=512,
        initializer_range=0.2,
        tie_word_embeddings=True,
    )
    transformers.Qwen3ForCausalLM(shape).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(source) / name, folder / name)
    return str(folder)
