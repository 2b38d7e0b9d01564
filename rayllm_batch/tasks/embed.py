"""A text becomes a vector."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import pyarrow as pa

from rayllm_batch.errors import WorkloadError, shown
from rayllm_batch.tasks.base import Answer
from rayllm_batch.tasks.model_head import check_dimensions, embedding_size
from rayllm_batch.tasks.pooled import Pooled

DTYPES = {"float32": pa.float32(), "float16": pa.float16()}
SHOWN = 4  # numbers of a vector that people are shown
NEAREST = 3  # pairs


class Embed(Pooled):
    """The workload's embedding_dtype: "float32", or "float16" for half the bytes and 3 to 4 digits."""

    name = "embed"
    answer_column = "embedding"
    dtype = "float32"

    def of(self, workload: Any, engine_kwargs: Mapping[str, Any]) -> Embed:
        task: Any = super().of(workload, engine_kwargs)
        task.dtype = getattr(workload, "embedding_dtype", "float32")
        if task.dtype not in DTYPES:
            where = f"{type(workload).__name__}.embedding_dtype"
            raise WorkloadError(f"{where} must be one of {', '.join(DTYPES)}, given {shown(task.dtype)}.")
        return task

    def decides(self, workload: Any) -> dict[str, Any]:
        return {**super().decides(workload), "embedding_dtype": getattr(workload, "embedding_dtype", "float32")}

    def learn(self, config: Mapping[str, Any], folder: Optional[Path], engine_kwargs: Mapping[str, Any]) -> None:
        self.size = embedding_size(config, folder)
        pooler = engine_kwargs.get("pooler_config")
        asked = self.settings.get("dimensions") or (pooler.get("dimensions") if isinstance(pooler, dict) else None)
        if asked:
            check_dimensions(asked, config, self.size)
            self.size = asked

    @property
    def answer_columns(self) -> dict[str, pa.DataType]:
        kind = DTYPES[self.dtype]
        return {"embedding": pa.list_(kind) if self.size is None else pa.list_(kind, self.size)}

    def values(self, answer: Answer) -> dict[str, Any]:
        [vector] = answer.reply.vectors  # type: ignore[union-attr]
        return {"embedding": vector.astype(self.dtype)}

    def for_people(self, row: dict[str, Any]) -> dict[str, Any]:
        if (vector := row["embedding"]) is None:
            return row
        first = ", ".join(f"{number:.4f}" for number in list(vector)[:SHOWN])
        return {**row, "embedding": f"{len(vector):,} numbers: {first}, ..."}

    def notes(self, rows: list[dict[str, Any]]) -> list[str]:
        """Which of the rows are nearest each other."""
        import numpy as np

        found = {number: row["embedding"] for number, row in enumerate(rows, start=1) if row["embedding"] is not None}
        if len(found) < 2:
            return []
        vectors = np.array([np.asarray(vector, dtype=np.float32) for vector in found.values()])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        near, numbers = vectors @ vectors.T, list(found)
        pairs = [(near[i, j], numbers[i], numbers[j]) for i in range(len(numbers)) for j in range(i)]
        told = (f"[{j}] and [{i}] {cosine:.3f}" for cosine, i, j in sorted(pairs, reverse=True)[:NEAREST])
        return [f"Nearest by cosine: {'; '.join(told)}."]
