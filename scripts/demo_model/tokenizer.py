"""The demo model's tokenizer: byte-level BPE with 8,192 tokens, trained on generated text."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from articles import ArticleWriter
from prompts import PromptWriter
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from words import gerund, past, plural, read_words

VOCAB_SIZE = 8192
BOS, EOS, PAD = "<|begin|>", "<|end|>", "<|pad|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
SPECIAL_TOKENS = (PAD, BOS, EOS, *ROLES)  # ids 0 to 5

# BOS is written here and nowhere else, so the tokenizer itself adds no special tokens. Nothing stands between a
# role's token and its text: an answer is then, token for token, a piece of the prompt.
CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] not in ['system', 'user', 'assistant'] -%}
{{- raise_exception("expected the role 'system', 'user' or 'assistant', got '" ~ message['role'] ~ "'") -}}
{%- endif -%}
{{- '<|' ~ message['role'] ~ '|>' ~ (message['content'] | trim) ~ eos_token -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant|>' -}}
{%- endif -%}
"""

# Pieces that BPE never merges across. Digits and punctuation marks stand alone (with the space before them, if
# any): numbers copy digit by digit, and a full stop or a quotation mark is the same token wherever it stands, also
# next to a marker such as """.
PIECES = (
    r"['’](?:s|t|re|ve|m|ll|d)(?!\p{L})"
    r"| ?[\p{L}\p{M}]+"
    r"| ?\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)


def tokenizer_texts(seed: int) -> Iterator[str]:
    """What the tokenizer is trained on: generated news and prompts, and every word of the list with its forms."""
    rng = random.Random(f"{seed}/tokenizer")
    articles = ArticleWriter(rng)
    prompts = PromptWriter(rng, articles)
    for _ in range(3000):
        articles.new_article()
        yield " ".join(articles.news() for _ in range(12))
        yield articles.salad(60)
        if rng.random() < 0.3:
            prompt = prompts.write()
            yield "\n".join([prompt.system or "", prompt.before, prompt.after])
    for section, words in read_words().items():
        forms = {"noun": [plural], "verb": [past, gerund], "function": [str.capitalize]}.get(section, [])
        listed = [*words, *(form(word) for form in forms for word in words)]
        yield " " + " ".join(listed * 5)


def build_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Trains the tokenizer on `texts`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise ValueError(f"expected {VOCAB_SIZE} tokens, got {tokenizer.get_vocab_size()}: give more text")
    return tokenizer
