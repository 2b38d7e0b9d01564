"""Articles as a search has them: their paragraphs, and what is asked for."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "demo_model"))

from sentences import split_sentences  # noqa: E402

SEEN, UNSEEN = ROOT / "assets" / "sample_articles.jsonl", ROOT / "tests" / "data" / "heldout_articles.jsonl"
SHORTEST_PASSAGE, SHORTEST_SENTENCE = 100, 40  # characters


def articles(file: Path) -> list[str]:
    return [json.loads(line)["article"] for line in file.read_text(encoding="utf-8").splitlines()]


def passages(texts: list[str]) -> list[str]:
    return [part.strip() for text in texts for part in text.split("\n\n") if len(part) >= SHORTEST_PASSAGE]


def sentences(texts: list[str]) -> tuple[list[str], list[int]]:
    """Of passages with more than one sentence, each of them that is not short, and the number of its passage."""
    parts = [(part, number) for number, text in enumerate(texts) for part in split_sentences(text)]
    several = [(part, number) for part, number in parts if len(part) < len(texts[number]) - SHORTEST_SENTENCE]
    found = [(part, number) for part, number in several if len(part) >= SHORTEST_SENTENCE]
    return [part for part, _ in found], [number for _, number in found]
