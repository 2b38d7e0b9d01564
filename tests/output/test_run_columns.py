"""Columns of answers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from rayllm_batch.output import run_columns


@pytest.mark.parametrize("kind", [pa.float32(), pa.float16()])
@pytest.mark.parametrize("answered", [[], [False], [True, False, True, True], [False, True]])
def test_vectors_of_one_size_are_what_arrow_makes_of_them_one_by_one(kind: pa.DataType, answered: list[bool]) -> None:
    dtype = kind.to_pandas_dtype()
    vectors = [np.arange(n, n + 3).astype(dtype) if there else None for n, there in enumerate(answered)]
    column = run_columns._column(vectors, pa.list_(kind, 3))
    assert column.type == pa.list_(kind, 3) and column.equals(pa.array(vectors, type=pa.list_(kind, 3)))
    assert column.null_count == answered.count(False)
