"""Summarise news articles: the CNN/DailyMail dataset, or any file with an `article` column."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

from rayllm_batch.data.dataset_file import in_blocks
from rayllm_batch.errors import DatasetError, ModelAccessError
from rayllm_batch.model.hub import check_dataset_access, is_offline
from rayllm_batch.workload import ChatWorkloadBase

if TYPE_CHECKING:
    import datasets
    import ray.data

HUB_DATASET = "abisee/cnn_dailymail"
HUB_CONFIG = "3.0.0"
log = logging.getLogger("rayllm_batch")


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
        from rayllm_batch.workload import cnn_dailymail  # noqa: PLW0406 (see ChatWorkloadBase)

        return cnn_dailymail._from_hub(self.dataset_split)

    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        return {
            "messages": [
                {
                    "role": "system",
                    "content": "You are a news editor. "
                    "You write short, factual highlights of the articles you are given.",
                },
                {
                    "role": "user",
                    "content": f"Article:\n{row['article']}\n\n"
                    "Task: Summarise the highlights of this article in clear and concise language.",
                },
            ]
        }


def _from_hub(split: str) -> ray.data.Dataset:
    # ray.data.from_huggingface would read the Hub's parquet files once more, and make one block of a local dataset.
    return in_blocks(articles(split).with_format("arrow")[:])


def articles(split: str) -> datasets.Dataset:
    """One split, from the Hub or from an earlier download.

    The Hub is asked first whether it opens the dataset, for 15 s at most: the datasets library alone asks a
    Hub that does not answer again and again, for minutes.
    """
    try:
        import datasets
    except ImportError:
        raise DatasetError(
            f"Reading {HUB_DATASET} needs the `datasets` package: pip install datasets, or set dataset_file=..."
        ) from None
    name = f"{HUB_DATASET} ({HUB_CONFIG}, split {split!r})"
    advice = "or set dataset_file= to a local copy such as assets/sample_articles.jsonl."
    refusal = ""
    if is_offline() or datasets.config.HF_HUB_OFFLINE:
        refusal = "HF_HUB_OFFLINE=1 is set, so the Hugging Face Hub is not asked."
    else:
        try:
            check_dataset_access(HUB_DATASET)
        except ModelAccessError as error:
            refusal = error.why
    if refusal:
        if (rows := _from_cache(split)) is not None:
            log.warning("%s The copy of %s in the cache is used.", refusal, HUB_DATASET)
            return rows
        raise DatasetError(
            f"{refusal} The dataset {name} is not in the cache of this machine either. "
            f"Check the network, HF_ENDPOINT and HF_TOKEN, {advice}"
        )
    try:
        return datasets.load_dataset(HUB_DATASET, HUB_CONFIG, split=split)
    except Exception as error:
        why = f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}"
        raise DatasetError(
            f"The dataset {name} could not be loaded from the Hugging Face Hub ({why}). "
            f"Check the network and HF_ENDPOINT, {advice}"
        ) from None


def _from_cache(split: str) -> Optional[datasets.Dataset]:
    """What an earlier download left. The datasets library asks nobody where its own HF_HUB_OFFLINE is set."""
    import datasets

    before, datasets.config.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE, True
    try:
        return datasets.load_dataset(HUB_DATASET, HUB_CONFIG, split=split)
    except Exception:  # not there, or another split of it
        return None
    finally:
        datasets.config.HF_HUB_OFFLINE = before
