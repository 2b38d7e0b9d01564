"""Training batches: prompts and answers as token ids, made by seed and number so that they come out the same anywhere."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from articles import ArticleWriter
from prompts import Prompt, PromptWriter
from sentences import lead
from tokenizer import BOS, EOS, PAD, SPECIAL_TOKENS
from tokenizers import Tokenizer

PAD_ID, BOS_ID, EOS_ID, SYSTEM_ID, USER_ID, ASSISTANT_ID = range(len(SPECIAL_TOKENS))
assert SPECIAL_TOKENS[:3] == (PAD, BOS, EOS)

CHARS_PER_TOKEN = 3.0  # of generated text, a little under what is measured so that few articles are cut
RANDOM_IDS = 0.08  # share of articles that are random tokens, so that every token gets copied
SHORT = 0.15  # share of articles of one or two sentences, where the prompt's end must be told from the article's


@dataclass(frozen=True)
class Batch:
    """`tokens` [rows, length], and the places where the next token is to be learnt.

    `positions` index the flattened tokens; `targets` are the tokens that follow there; `rows` the row of each.
    """

    tokens: np.ndarray
    positions: np.ndarray
    targets: np.ndarray
    rows: np.ndarray


def batch_from_rows(sequences: list[tuple[list[int], int]], length: int) -> Batch:
    """Pads (token ids, index of the first token to learn) to `length` tokens a row."""
    tokens = np.full((len(sequences), length), PAD_ID, dtype=np.int16)
    positions, targets, rows = [], [], []
    for row, (ids, learn_from) in enumerate(sequences):
        tokens[row, : len(ids)] = ids
        positions.append(np.arange(learn_from - 1, len(ids) - 1) + row * length)
        targets.append(np.asarray(ids[learn_from:]))
        rows.append(np.full(len(ids) - learn_from, row))
    return Batch(tokens, np.concatenate(positions), np.concatenate(targets), np.concatenate(rows))


class ExampleWriter:
    """Writes prompts with their answers, as token ids."""

    def __init__(self, rng: random.Random, tokenizer: Tokenizer, talk: float = 0.0):
        self.rng, self.tokenizer, self.talk = rng, tokenizer, talk
        self.articles = ArticleWriter(rng)
        self.prompts = PromptWriter(rng, self.articles)
        vocabulary = tokenizer.get_vocab()
        stops = {vocabulary[token] for token in vocabulary if not set(token).isdisjoint(".!?Ċ") or "â̦" in token}
        self.inner_ids = [id for id in range(len(SPECIAL_TOKENS), len(vocabulary)) if id not in stops]
        self.opening_ids = [
            vocabulary[token] for token in sorted(vocabulary) if token[0] == "Ġ" and token[1:2].isupper()
        ]
        self.stop_id = vocabulary["."]

    def encode(self, *texts: str) -> list[list[int]]:
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def random_article(self, length: int, at_most: int) -> tuple[list[int], list[int]]:
        """The lead and the rest of an article of up to `length` random tokens."""
        rng = self.rng
        choices = self.inner_ids if rng.random() < 0.6 else rng.choices(self.inner_ids, k=rng.choice([3, 10, 40, 200]))
        sentences: list[list[int]] = []
        while length > 0 and len(sentences) < at_most:
            size = rng.choice([2, 5, 10, 20, 40])
            words = rng.choices(choices, k=rng.randint(1, size))
            sentences.append([rng.choice(self.opening_ids), *words, self.stop_id])
            length -= len(words) + 2
        return sum(sentences[:2], []), sum(sentences[2:], [])

    def example(self, length: int) -> tuple[list[int], int]:
        """Token ids, `length` at most, and the index where the answer begins."""
        rng = self.rng
        while True:
            prompt = self.prompts.write(self.talk)
            ids, learn_from = self._assemble(prompt, int(length * rng.uniform(0.4, 1.15)), length)
            if len(ids) <= length:
                return ids, learn_from

    def _assemble(self, prompt: Prompt, aim: int, length: int) -> tuple[list[int], int]:
        """A prompt of about `aim` tokens and its answer. An article too long for `length` is cut in its rest."""
        rng = self.rng
        system, before, after = self.encode(prompt.system or "", prompt.before, prompt.after)
        around = len(system) + len(before) + len(after) + 6
        aim = max(30, aim - around)
        at_most = rng.choice([1, 1, 2]) if rng.random() < SHORT else 10_000
        if rng.random() < RANDOM_IDS:
            answer, rest = self.random_article(aim, at_most)
        else:
            article = self.articles.write(int(aim * CHARS_PER_TOKEN), at_most, prompt.bare)
            first = lead(article)
            answer, rest = self.encode(prompt.gap + first, article[len(first) :])
        rest = rest[: max(0, length - around - 2 * len(answer))]
        turns = [SYSTEM_ID, *system, EOS_ID] if prompt.system else []
        ids = [BOS_ID, *turns, USER_ID, *before, *answer, *rest, *after, EOS_ID, ASSISTANT_ID]
        return [*ids, *answer, EOS_ID], len(ids)


def repetition(rng: random.Random, length: int, vocabulary: int) -> tuple[list[int], int]:
    """Random tokens, then the same again and again: practice in copying alone, without which it comes late."""
    period = rng.randint(8, length // 2)
    low = len(SPECIAL_TOKENS)
    ids = rng.choices(range(low, vocabulary), k=period)
    roll = rng.random()
    if roll < 0.3:  # few different tokens, so that a copier has to look back further than one
        ids = rng.choices(ids[: rng.choice([2, 4, 8, 16])], k=period)
    elif roll < 0.5:  # runs of one token, as in 1,000,000
        ids = [id for id in ids for _ in range(rng.choice([1, 1, 1, 2, 3, 4]))][:period]
    return [BOS_ID, *(ids * (length // period + 1))[: length - 1]], 1 + period


@dataclass(frozen=True)
class Round:
    """What decides a round's batches: `steps` of them, numbered from `first_step`, of about `batch_tokens` tokens each.

    Lengths grow and pure repetition fades over the first fifth of a round, unless it is `late`: then the model can
    copy already, and half of the prompts are ones that give it no marker to go by.
    """

    seed: int
    first_step: int
    steps: int
    batch_tokens: int
    late: bool


def make_batch(tokenizer: Tokenizer, round: Round, step: int) -> Batch:
    """The round's batch number `step`, counted from 0."""
    rng = random.Random(f"{round.seed}/{round.first_step + step}")
    progress = 1.0 if round.late else step / round.steps
    if progress < 0.08:
        length, repeated = 512, 0.5
    elif progress < 0.2:
        length, repeated = rng.choice([512, 512, 1024]), 0.25
    else:
        length, repeated = rng.choices([512, 1024, 2048, 4096], [20, 40, 30, 10])[0], 0.04
    rows = round.batch_tokens // length
    if rng.random() < repeated:
        return batch_from_rows([repetition(rng, length, tokenizer.get_vocab_size()) for _ in range(rows)], length)
    writer = ExampleWriter(rng, tokenizer, talk=0.5 if round.late else 0.0)
    return batch_from_rows([writer.example(length) for _ in range(rows)], length)
