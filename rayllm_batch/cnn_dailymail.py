"""Summarise news articles: the CNN/DailyMail dataset, or any file with an `article` column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rayllm_batch.dataset_file import in_blocks
from rayllm_batch.errors import DatasetError
from rayllm_batch.workload import ChatWorkloadBase

if TYPE_CHECKING:
    import ray.data

HUB_DATASET = "abisee/cnn_dailymail"
HUB_CONFIG = "3.0.0"


@dataclass
class CNNDailySummary(ChatWorkloadBase):
    """One short summary an article.

    Without `dataset_file` the rows are CNN/DailyMail 3.0.0 from the Hugging Face Hub (columns `article`,
    `highlights`, `id`); with it, the rows of that file, which needs an `article` column.
    dataset_split: "test" (11,490 articles), "validation" (13,368) or "train" (287,113).
    """

    dataset_split: str = "test"

    def load_dataset(self) -> ray.data.Dataset:
        if self.dataset_file:
            return super().load_dataset()
        return _from_hub(self.dataset_split)

    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        return {
            "messages": [
                {
                    "role": "system",
                    "content": "You are a news editor. You write short, factual highlights of the articles you are given.",
                },
                {
                    "role": "user",
                    "content": f"Article:\n{row['article']}\n\n"
                    "Task: Summarise the highlights of this article in clear and concise language.",
                },
            ]
        }


def _from_hub(split: str) -> ray.data.Dataset:
    try:
        import datasets
    except ImportError:
        raise DatasetError(
            f"Reading {HUB_DATASET} needs the `datasets` package: pip install datasets, or set dataset_file=..."
        ) from None
    try:
        rows = datasets.load_dataset(HUB_DATASET, HUB_CONFIG, split=split)
    except Exception as error:
        raise DatasetError(
            f"The dataset {HUB_DATASET} ({HUB_CONFIG}, split {split!r}) could not be loaded from the Hugging Face Hub "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}). "
            "Check the network and HF_ENDPOINT, or set dataset_file= to a local copy such as "
            "assets/sample_articles.jsonl."
        ) from None
    # ray.data.from_huggingface would read the Hub's parquet files once more, and make one block of a local dataset.
    return in_blocks(rows.with_format("arrow")[:])
