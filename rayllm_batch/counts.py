"""What is counted of rows that are done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass
class Counts:
    """Rows, those of them with an error, and the tokens of their prompts and of their answers."""

    rows: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, more: Counts, sign: int = 1) -> None:
        self.rows += sign * more.rows
        self.failed += sign * more.failed
        self.input_tokens += sign * more.input_tokens
        self.output_tokens += sign * more.output_tokens

    @classmethod
    def total(cls, several: Iterable[Counts]) -> Counts:
        total = Counts()
        for one in several:
            total.add(one)
        return total
