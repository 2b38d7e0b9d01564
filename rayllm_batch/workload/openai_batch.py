"""A file of requests as OpenAI's Batch API takes it, one a line, and its results in a file as that API gives it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Union

from rayllm_batch.errors import WorkloadError
from rayllm_batch.workload.base import ChatWorkloadBase
from rayllm_batch.workload.openai_request import COMPLETION_TOKENS, LONGEST, read_request

if TYPE_CHECKING:
    import ray.data

    from rayllm_batch.workload.openai_results import Written


@dataclass
class OpenAIBatchFile(ChatWorkloadBase):
    """The requests of `dataset_file`, each line `{"custom_id": ..., "method": "POST", "url": ..., "body": {...}}`.

    URLs are /v1/chat/completions and /v1/completions; with task: embed /v1/embeddings, and with task: score those of
    score and rerank. What a body says goes over `sampling_params` (`pooling_params`), and is read as vLLM's server
    reads it. A request that cannot be answered, whatever its line is, gets an error; no line ends a run.
    The output has the columns `custom_id`, `request` (the line) and `response`, the response's body as JSON;
    `write_results` makes the files of it.

    served_model_name: what requests call the model, or several such names; another name is an error of that request
                       (404). None: any name is the model's.
    adapters:          other names are those of LoRA adapters, in the config's dynamic_lora_loading_path.
    """

    sampling_params: dict[str, Any] = field(default_factory=dict)
    served_model_name: Union[str, list[str], None] = None
    adapters: bool = False

    answers_as_a_server = True  # what makes `generate` write responses, see tasks/completions.py

    @property
    def names(self) -> list[str]:
        """Of the model, as requests may have it; none of them where any may be."""
        given = self.served_model_name or []
        return [given] if isinstance(given, str) else list(given)

    def load_dataset(self) -> ray.data.Dataset:
        from rayllm_batch.data.dataset_file import find_files, read_files

        if not self.dataset_file:
            raise WorkloadError(f'{type(self).__name__} has no requests: set dataset_file="requests.jsonl".')
        files = find_files(self.dataset_file)
        return read_files(files, line_reader(files))

    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        parsed = read_request(row["request"], self.names, self.adapters)
        if "prompt" in parsed or "prompt_token_ids" in parsed:
            least = {"max_tokens": COMPLETION_TOKENS} if "max_tokens" not in (self.sampling_params or {}) else {}
            parsed["sampling_params"] = {**least, **parsed.get("sampling_params", {})}
        return parsed

    def write_results(
        self, answers: ray.data.Dataset, output: Union[str, os.PathLike], errors: Union[str, os.PathLike, None] = None
    ) -> Written:
        """A line a request, in no promised order: `{"id", "custom_id", "response", "error"}`, of which the response is
        `{"status_code", "request_id", "body"}`.

        answers: what `RayLLMBatch.run` returned for this workload. output, errors: paths or URIs of files; both are
        there when all of their lines are, and replace what was there. Without `errors` the error lines are in `output`
        too, as those of `vllm run-batch`; theirs have a null `body`, and the API's error object in `error`.

        One line for each line of dataset_file, as it is now: answers to lines that are not in it any more are left out.
        Of lines with one custom_id the first is answered, and the others are errors. Raises OutputError.
        """
        from rayllm_batch.workload import openai_results

        return openai_results.write(self, answers, output, errors)


def line_reader(files: Any) -> Any:
    from rayllm_batch.data.read_options import ReadOptions
    from rayllm_batch.data.request_lines import LineReader

    return LineReader(files.fs, files.format, ReadOptions(), longest=LONGEST)
