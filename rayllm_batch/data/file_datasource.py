"""Data files as a source of Ray Data."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Optional

from rayllm_batch.data.file_part import FilePart, Reader

if TYPE_CHECKING:
    import ray.data


def dataset_of(reader: Reader, tasks: list[list[FilePart]], size: int) -> ray.data.Dataset:
    """tasks: what each task reads. size: in bytes, of all."""
    import ray.data
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    class FileDatasource(Datasource):
        def get_name(self) -> str:
            return reader.format.upper()

        def estimate_inmemory_data_size(self) -> Optional[int]:
            return size

        def get_read_tasks(
            self, parallelism: int, per_task_row_limit: Optional[int] = None, data_context: Any = None
        ) -> list[ReadTask]:
            return [
                ReadTask(
                    functools.partial(reader, parts),
                    BlockMetadata(
                        num_rows=None,
                        size_bytes=size // len(tasks),
                        exec_stats=None,
                        input_files=tuple(part.path for part in parts),
                    ),
                    per_task_row_limit=per_task_row_limit,
                )
                for parts in tasks
            ]

    # As many blocks as tasks: of fewer tasks Ray Data would cut up the blocks.
    return ray.data.read_datasource(FileDatasource(), override_num_blocks=len(tasks))
