"""What is asked of a model for a row, and what comes out: one file a task. README.md says how to add one."""

from rayllm_batch.registry import Registry
from rayllm_batch.tasks.base import Task

TASKS: Registry[Task] = Registry(
    "task",
    {
        "generate": "rayllm_batch.tasks.generate:Generate",
        "embed": "rayllm_batch.tasks.embed:Embed",
        "classify": "rayllm_batch.tasks.classify:Classify",
        "score": "rayllm_batch.tasks.score:Score",
    },
)
