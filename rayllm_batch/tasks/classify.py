"""A text gets one of the labels that the model knows, and the probability of each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import pyarrow as pa

from rayllm_batch.errors import ConfigError
from rayllm_batch.tasks.base import Answer
from rayllm_batch.tasks.model_head import has_classes, labels
from rayllm_batch.tasks.pooled import Pooled

LIKELY = 0.5  # of a model whose labels do not exclude each other: from here on a text has one
MOST_SHOWN, MOST_LISTED = 5, 50  # labels: of a row in a preview, of the model in a line


class Classify(Pooled):
    """probabilities: in the order of the model's id2label. Where several labels may be right
    (multi_label_classification), `labels` has those of at least 0.5. With use_activation=False they are logits.
    """

    name = "classify"
    convert = "classify"
    answer_column = "label"
    labels: tuple[str, ...] = ()
    has_several = False

    def learn(self, config: Mapping[str, Any], folder: Optional[Path], engine_kwargs: Mapping[str, Any]) -> None:
        if not config.get("architectures") and not config.get("id2label"):
            raise ConfigError(
                "Which labels the model has cannot be read of its config.json here, and they decide the output's "
                "columns. Set them: engine_kwargs: {hf_overrides: {id2label: {0: ..., 1: ...}}}."
            )
        if not has_classes(config, engine_kwargs.get("convert")):
            raise ConfigError(
                f"The model is no classifier: its config.json has architectures {', '.join(config['architectures'])}. "
                "Use one that ends with ForSequenceClassification; or ask a model that generates, with task: generate "
                "and output_schema=[...] as the labels."
            )
        self.labels = tuple(labels(config))
        self.size = len(self.labels)
        more = ", ..." if self.size > MOST_LISTED else ""
        self.legend = f"The column `probabilities` has, in this order: {', '.join(self.labels[:MOST_LISTED])}{more}."
        self.has_several = config.get("problem_type") == "multi_label_classification"

    @property
    def answer_columns(self) -> dict[str, pa.DataType]:
        probabilities = pa.list_(pa.float32()) if self.size is None else pa.list_(pa.float32(), self.size)
        several = {"labels": pa.list_(pa.string())} if self.has_several else {}
        return {"label": pa.string(), **several, "probabilities": probabilities}

    def values(self, answer: Answer) -> dict[str, Any]:
        [vector] = answer.reply.vectors  # type: ignore[union-attr]
        least = LIKELY if self.settings.get("use_activation", True) else 0.0  # a logit of 0 is a probability of 0.5
        several = [name for name, share in zip(self.labels, vector, strict=True) if share >= least]
        return {"label": self.labels[int(vector.argmax())], "labels": several, "probabilities": vector}

    def for_people(self, row: dict[str, Any]) -> dict[str, Any]:
        if row["probabilities"] is None:
            return row
        shares = sorted(zip(row["probabilities"], self.labels, strict=True), reverse=True)[:MOST_SHOWN]
        return {**row, "probabilities": ", ".join(f"{name} {share:.3f}" for share, name in shares)}
