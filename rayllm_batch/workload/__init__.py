"""Which rows, and how they are asked: what users subclass, and the workloads that come along.

The code of these is in the manifests of output folders: where it changes, a run that continues parses its rows again.
"""

from rayllm_batch.data.dataset_file import read_dataset_file
from rayllm_batch.workload.base import ChatWorkloadBase, check_workload

__all__ = ["ChatWorkloadBase", "check_workload", "read_dataset_file"]
