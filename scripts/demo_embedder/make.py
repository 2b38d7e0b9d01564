"""Makes the demo embedder without training: a BERT-shaped model whose vectors are weighted bags of words.

    python scripts/demo_embedder/make.py        seconds

A token's embedding is a direction, drawn at random, times how rare the token is (its IDF in the passages of SEEN), in all
but two dimensions; these two take it to the length that leaves it as it is in a LayerNorm. The one layer adds nothing, and
the last LayerNorm drops the two. What is left is pooled by its mean and normalised, by modules.json. Words of one of the
demo classifier's topics have a part of their direction in common, so that texts about one thing are near each other
where they share no word.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from passages import ROOT, SEEN, UNSEEN, articles, passages, sentences
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, BertTokenizerFast

sys.path.insert(0, str(ROOT / "scripts" / "demo_classifier"))

from topics import TOPICS  # noqa: E402

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIZE, CONTEXT, VOCABULARY, ENDINGS = 256, 512, 5000, 800
LENGTHS = 2  # the last dimensions
TOPIC = 0.3  # of a direction's square
POOLING = {"word_embedding_dimension": SIZE, "pooling_mode_mean_tokens": True}
MODULES = ["Transformer", "Pooling", "Normalize"]
TOPIC_OF = {word.lower(): topic for topic, words in TOPICS.items() for word in words.split()}


def new_tokenizer(texts: list[str]) -> BertTokenizerFast:
    """Of letters, the endings that most words have, and the most frequent words.

    The library's own trainer gives another vocabulary each time.
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    count = Counter(dict.fromkeys(TOPIC_OF, 1000))  # enough for each to be a token
    for text in texts:
        split = tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))
        count.update(word for word, _ in split)
    letters = sorted(set("".join(count)))
    endings = Counter(word[-size:] for word in count if word.isalpha() for size in range(2, min(7, len(word))))
    tokens = [*SPECIAL, *letters, *(f"##{one}" for one in (*letters, *most_frequent(endings)[:ENDINGS]))]
    tokens = list(dict.fromkeys([*tokens, *most_frequent(count)]))[:VOCABULARY]
    ids = {token: number for number, token in enumerate(tokens)}
    tokenizer.model = models.WordPiece(ids, unk_token="[UNK]")
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    return BertTokenizerFast(tokenizer_object=tokenizer, model_max_length=CONTEXT)


def most_frequent(count: Counter[str]) -> list[str]:
    return sorted(count, key=lambda one: (-count[one], one))


def rareness(tokenizer: BertTokenizerFast, texts: list[str]) -> np.ndarray:
    """IDF of each token, shape (tokens,): at most 1, of those that no text has, and near 0 of those that all have."""
    having = np.zeros(len(tokenizer))
    for ids in tokenizer(texts)["input_ids"]:
        having[list(set(ids))] += 1
    found = np.log((len(texts) + 1) / (having + 0.5))
    return found / found.max()


def directions(tokens: list[str], rng: np.random.Generator) -> np.ndarray:
    """Of length 1, their mean 0; shape (tokens, dimensions)."""
    topics = {topic: rng.standard_normal(SIZE - LENGTHS) for topic in sorted(TOPICS)}
    drawn = rng.standard_normal((len(tokens), SIZE - LENGTHS))
    for number, token in enumerate(tokens):
        if token in TOPIC_OF:
            drawn[number] = (1 - TOPIC) ** 0.5 * drawn[number] + TOPIC**0.5 * topics[TOPIC_OF[token]]
    drawn -= drawn.mean(axis=1, keepdims=True)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def new_model(embeddings: np.ndarray, pad: int) -> BertModel:
    """embeddings: shape (tokens, dimensions); each of length at most 1."""
    shape = BertConfig(
        vocab_size=len(embeddings),
        hidden_size=SIZE,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=CONTEXT,
        pad_token_id=pad,
    )
    model = BertModel(shape, add_pooling_layer=False)
    for name, weight in model.named_parameters():
        weight.data.fill_(1.0 if name.endswith("LayerNorm.weight") else 0.0)
    # A LayerNorm leaves alone what has a mean of 0 and a variance of 1: a length of the root of its size.
    rest = np.sqrt((SIZE - SIZE * (embeddings**2).sum(axis=1)) / LENGTHS)
    whole = np.column_stack([embeddings * SIZE**0.5, rest, -rest])
    model.embeddings.word_embeddings.weight.data = torch.tensor(whole, dtype=torch.float32)
    model.encoder.layer[-1].output.LayerNorm.weight.data[-LENGTHS:] = 0.0
    return model.to(torch.bfloat16)


def write_modules(folder: Path) -> None:
    """What sentence-transformers and vLLM read of the steps behind the model."""
    paths = ["", *(f"{number}_{name}" for number, name in enumerate(MODULES[1:], start=1))]
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{name}"}
        for number, (path, name) in enumerate(zip(paths, MODULES, strict=True))
    ]
    (folder / "1_Pooling").mkdir(exist_ok=True)
    for file, content in (("modules.json", modules), ("1_Pooling/config.json", POOLING)):
        (folder / file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def embed(model: BertModel, tokenizer: BertTokenizerFast, texts: list[str]) -> np.ndarray:
    found = []
    for text in texts:
        one = tokenizer(text, truncation=True, max_length=CONTEXT, return_tensors="pt")
        with torch.no_grad():
            found.append(model(**one).last_hidden_state[0].mean(dim=0))
    return torch.nn.functional.normalize(torch.stack(found), dim=1).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "assets" / "demo-embedder")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    seen = passages(articles(SEEN))
    words = (ROOT / "scripts" / "demo_model" / "words.txt").read_text(encoding="utf-8")
    tokenizer = new_tokenizer([*articles(SEEN), words])
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    weights = rareness(tokenizer, seen) * 0.999
    drawn = directions(tokens, np.random.default_rng(args.seed))
    model = new_model(drawn * weights[:, None], tokenizer.pad_token_id)
    model.save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    write_modules(args.output)
    texts = passages(articles(UNSEEN))
    asked, places = sentences(texts)
    model = BertModel.from_pretrained(args.output, add_pooling_layer=False, dtype=torch.float32)
    found = (embed(model, tokenizer, asked) @ embed(model, tokenizer, texts).T).argmax(axis=1)
    right = int((found == places).sum())
    print(
        f"wrote {args.output}: of {right} of {len(asked)} sentences, the nearest of {len(texts)} passages is their own"
    )


if __name__ == "__main__":
    main()
