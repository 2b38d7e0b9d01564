"""Makes the demo classifier from nothing: a tokenizer and a BERT-shaped model that tells six topics of news apart.

    python scripts/demo_classifier/make.py        three minutes on two cores

It is trained on nonsense: sentences of the demo model's writer, with words of one topic strewn in, and fewer of others.
What it says of articles that people wrote is counted at the end, of those whose topic is plain (PLAIN in topics.py).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from topics import PLAIN, TOPICS
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "demo_model"))

from articles import ArticleWriter  # noqa: E402

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CONTEXT = 512  # tokens
LABELS = sorted(TOPICS)
WORDS = {label: TOPICS[label].split() for label in LABELS}


class Writer:
    """Texts with their labels: of some articles, each time others of their words are those of a topic."""

    def __init__(self, seed: int, articles: int = 1000) -> None:
        self._rng = random.Random(seed)
        writer = ArticleWriter(self._rng)
        self._articles = [writer.write(1000, bare=True).split() for _ in range(articles)]

    def text(self) -> tuple[str, int]:
        rng, label = self._rng, self._rng.randrange(len(LABELS))
        article, length = rng.choice(self._articles), rng.choice([20, 30, 40, 50])
        first = rng.randrange(max(1, len(article) - length))
        words = article[first : first + length]
        share, stray = rng.uniform(0.05, 0.4), rng.uniform(0, 0.03)
        for i in range(len(words)):
            chance = rng.random()
            if chance < share:
                words[i] = rng.choice(WORDS[LABELS[label]])
            elif chance < share + stray:
                words[i] = rng.choice(WORDS[rng.choice(LABELS)])
        return " ".join(words), label


def new_tokenizer(texts: list[str]) -> BertTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=5000, special_tokens=SPECIAL, show_progress=False)
    # Each topic's words often enough to be tokens of their own.
    tokenizer.train_from_iterator([*texts, *(" ".join(words) for words in WORDS.values() for _ in range(200))], trainer)
    ids = {name: tokenizer.token_to_id(name) for name in SPECIAL}
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    return BertTokenizerFast(tokenizer_object=tokenizer, model_max_length=CONTEXT)


def new_model(tokenizer: BertTokenizerFast) -> BertForSequenceClassification:
    shape = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=CONTEXT,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
        problem_type="single_label_classification",
    )
    model = BertForSequenceClassification(shape)
    positions = model.bert.embeddings.position_embeddings.weight
    with (
        torch.no_grad()
    ):  # where a word stands does not matter, so that what was learnt of short texts holds for long ones
        positions.zero_()
    positions.requires_grad_(False)
    return model


def train(model: BertForSequenceClassification, tokenizer: BertTokenizerFast, writer: Writer, steps: int) -> None:
    optimizer, began = torch.optim.AdamW(model.train().parameters(), lr=2e-3, weight_decay=0.01), time.perf_counter()
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for step in range(steps):
        texts, labels = zip(*(writer.text() for _ in range(32)), strict=True)
        batch = tokenizer(list(texts), padding=True, truncation=True, max_length=80, return_tensors="pt")
        out = model(**batch, labels=torch.tensor(labels))
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 99:
            right = (out.logits.argmax(-1) == torch.tensor(labels)).float().mean()
            print(
                f"step {step + 1}  loss {out.loss:.3f}  right {right:.2f}  {time.perf_counter() - began:.0f} s",
                flush=True,
            )


def evaluate(model: BertForSequenceClassification, tokenizer: BertTokenizerFast) -> tuple[int, int]:
    """How many of the articles of PLAIN get their label, and how many there are."""
    right, wrong = 0, []
    for file, topics in PLAIN.items():
        rows = [json.loads(line) for line in (ROOT / file).read_text(encoding="utf-8").splitlines()]
        for label, numbers in topics.items():
            for number in numbers:
                text = tokenizer(rows[number]["article"], truncation=True, max_length=CONTEXT, return_tensors="pt")
                with torch.no_grad():
                    shares = model.eval()(**text).logits.softmax(-1)[0]
                said = LABELS[int(shares.argmax())]
                right += said == label
                if said != label:
                    wrong.append(f"{rows[number]['id']}: {label}, said {said} ({shares.max():.2f})")
    print("\n".join(wrong))
    return right, right + len(wrong)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "assets" / "demo-classifier")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # such a small model gains nothing of more, and waits for them where others compute too
    writer = Writer(args.seed)
    tokenizer = new_tokenizer([writer.text()[0] for _ in range(2000)])
    model = new_model(tokenizer)
    print(f"{model.num_parameters():,} parameters", flush=True)
    train(model, tokenizer, writer, args.steps)
    model.save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    right, of = evaluate(model, tokenizer)
    print(f"wrote {args.output}: {right} of {of} articles get the label that a person gave them")


if __name__ == "__main__":
    main()
