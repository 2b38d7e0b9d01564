# %% [markdown]
# # rayllm_batch
#
# An answer of an LLM for every row of your table, by tomorrow: Ray Data moves the rows, vLLM generates, and each row comes back once, with an answer or an error.
#
# ![Support tickets, and the forms filled in](assets/tickets.png)
#
# (Gemma 3 270M on two CPU cores: small, it errs in places. [How](docs/structured-output.md).)
#
# `./run.sh` makes the environment, once. Then, with its Python (`.venv.gpu/bin/python`, or `.venv.cpu/bin/python` without a GPU), your table:
#
# ```python
# import pandas as pd
#
# from rayllm_batch import ChatWorkloadBase, RayLLMBatch
#
# # Yours: parquet, csv, jsonl, pandas, polars, Hugging Face, a Ray Dataset, ...
# tickets = pd.read_json("assets/support_tickets.jsonl", lines=True)
#
#
# class Summaries(ChatWorkloadBase):
#     sampling_params = {"max_tokens": 60, "temperature": 0.0}
#
#     def load_dataset(self):
#         return tickets  # of files: dataset_file = "tickets.parquet", a folder, s3://..., instead
#
#     def parse_row(self, row):
#         return {"messages": [{"role": "user", "content": f"Summarise: {row['text']}"}]}
#
#
# batch = RayLLMBatch("configs/demo-cpu.yaml", Summaries())
# answers = batch.run("answers/", id_column="id").to_pandas()
# table = tickets.merge(answers[["id", "generated_text", "error"]], on="id", how="left")
# ```
#
# Or from a shell, here into the same folder, where all rows are answered. Its parquet files have your columns and the answer's:
#
# ```bash
# python -m rayllm_batch run --config configs/demo-cpu.yaml --output answers/ --id-column id \
#     --input assets/support_tickets.jsonl --prompt "Summarise: {text}" -s max_tokens=60
# ```
#
# Labels of yours, in the column `parsed`:
#
# ```bash
# python -m rayllm_batch run --config configs/demo-cpu.yaml --output labels/ --id-column id \
#     --input assets/support_tickets.jsonl --prompt "Is this refund, damage or question? {text}" \
#     -w "output_schema=[refund, damage, question]"
# ```
#
# For your GPU, another of `configs/`: `llama-3.1-8b-a10g.yaml`, `llama-3.1-8b-l4.yaml`, `llama-3.1-8b-h100-fp8.yaml`, ... What one GPU does in an hour, and a million rows cost:
#
# | GPU | Llama 3.1 8B, tokens in and out | rows/hour | a million rows, USD |
# |---|---|---|---|
# | H100 | bf16, 817 and 129 | 118,000 | 23 at 2.69 an hour, 58 at 6.88 |
# | H100 | fp8, 795 and 130 | 157,000 | 17, 44 |
# | H100 | bf16, 512 and 128, held to a JSON schema | 154,000 | 17, 45 |
# | A10G | bf16, 817 and 129 | at most 21,000, estimate | at least 48 at 1.006 |
# | L4 | the same | at most 10,500, estimate | at least 95 hours' price |
#
# H100 80GB: measured with vLLM 0.29 and Ray 2.60, random weights of the model's shape, without starting up ([how, and of when the prices are](docs/cost.md#a-million-rows)).
# A10G and L4: not measured, the first row scaled by the memory's bandwidth. `estimate` says it for your rows. [Providers](docs/cost.md#beside-a-provider): 21 to 208 for the first row.
#
# <!-- not run: tests/stories/test_walkthrough.py runs main.py, and the other one is what runs all tests -->
#
# ```bash
# ./run.sh     # this page's cells: articles summarised, by Llama 3.1 8B on a GPU, else a toy model
# ./test.sh    # makes the environment with the test tools, then runs every test
# ```
#
# <!-- end of the first screen -->
#
# ## When, and when not
#
# Offline, all requests are at hand and nobody waits for a single one: the engine computes hundreds at once, and the GPUs go back with the last row. Where a
# person waits for the answer, serve. Of tools for batches take
#
# | | when |
# |---|---|
# | this | a table, from a laptop's CSV to a bucket, and every row accounted for: resumed by what was asked, typed answers, embeddings, pictures, rollouts, on your GPUs or at an endpoint |
# | [`vllm run-batch`](https://docs.vllm.ai) | there is a file of OpenAI requests, one machine, and nothing but vLLM; it transcribes audio too. It writes at the end, and a line that is no request ends it (0.29); [here](docs/openai-batch.md) it does not |
# | [`ray.data.llm`](https://docs.ray.io/en/latest/data/working-with-llms.html) | inference is one step of your Ray Data pipeline, or the engine is SGLang or Ray Serve; errors in rows are an option, and it continues by an id column |
# | [Daft](https://github.com/Eventual-Inc/Daft) | you work in its data frames, and a column asks OpenAI, Google or your server; vLLM inside it is experimental |
# | [datatrove](https://github.com/huggingface/datatrove) | a corpus is filtered and deduplicated for training too, on Slurm |
# | [curator](https://github.com/bespokelabsai/curator) | data are synthesised with many providers, their batch APIs too, and watched in a viewer |
# | a provider's batch API | no GPU, or a closed model: OpenAI's costs half, and answers within 24 hours |
#
# ## Pages
#
# `python -m rayllm_batch init my-job --task label` makes a folder to begin with.
#
# | | |
# |---|---|
# | [Your own data](docs/your-data.md) | what is read, what `parse_row` returns, which columns come out |
# | [Structured output](docs/structured-output.md) | typed answers by pydantic, JSON schema or choices |
# | [Embeddings](docs/embeddings.md), [images](docs/images.md), [rollouts](docs/rollouts.md) | vectors, labels, rerankers; sound and film; several turns, tools, thoughts |
# | [Endpoints](docs/endpoints.md), [OpenAI batch files](docs/openai-batch.md), [adapters](docs/adapters.md) | a server as engine; files of requests; LoRA |
# | [Resume and retry](docs/resume.md), [scale-out](docs/scale-out.md) | folders, buckets, the Hub, exit codes; clusters, KubeRay, Slurm |
# | [Tuning](docs/tuning.md), [cost](docs/cost.md), [security](docs/security.md) | speed, memory, dashboards; prices, `compare`; tokens, strangers' rows |
# | [Install](docs/install.md), [reference](docs/reference.md) | requirements, other versions; classes, errors, commands (`make docs`) |
#
# ## The walk through
#
# From here on this page is a notebook: `.venv.cpu/bin/jupyter lab README.ipynb`. `main.py` is the same code.

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
# articles; `from rayllm_batch import CNNDailySummary` has it ready-made.

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
# A gated model needs a Hugging Face token. The next cell asks for one only where it must, checks that it opens this very model, and
# [keeps it to itself](docs/security.md).
#
# ![A panel under the cell: why the model asks for a token, where to get one, a masked field, a button](assets/token-prompt.png)
#
# (Here a stand-in for huggingface.co.)

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
# `preview` runs a few rows for real and shows all that the model sees, special tokens included, and what it answers. `estimate` tries some rows from all
# over the dataset, and says what the whole job will take, what it costs, and what bounds it. Both start the engine, and leave it ready for the run that
# follows (for ten minutes; `batch.release()` ends it sooner).
#
# ![A table with the rendered prompt, the answer and the tokens of two rows](assets/preview.png)
#
# Which model is worth it? `RayLLMBatch.compare` [answers the same rows with each config](docs/cost.md):
#
# ![Two configs compared: figures of each, and their answers](assets/comparison.png)

# %%
batch = RayLLMBatch(engine_config=engine, workload=workload, batch_size=None, num_replicas=NUM_REPLICAS)
batch.preview(n=2)

# %%
print(batch.estimate(sample_rows=SAMPLE_ROWS, gpu_hour_usd=None))  # a price in USD adds the cost

# %% [markdown]
# ## Step 4: the run
#
# `run()` answers every row once, and returns a Ray Dataset that can be read many times. A bar shows how far it is, how fast, how full the engine is, and
# when it will be done; **Stop** does what Ctrl-C does. In JupyterLab a saved page can be closed: opened again, it shows the run that goes on. Before a GPU starts, it lists everything that can be known to be wrong; `batch.check()` does only that.
#
# With `OUTPUT` set, answers are written to that folder as they come, and running this cell again [continues it](docs/resume.md).

# %%
import time

from util.run_panel import watched

began = time.time()
with watched():
    ds = batch.run(OUTPUT or None)
elapsed_s = time.time() - began

# %% [markdown]
# The output has the input's columns and [five more](docs/your-data.md#what-comes-out): the answer, its tokens, why it ended, and `error`. The table is
# searched, sorted and filtered in place; a click opens a row, and rows that failed come first.
#
# ![Articles and answers, one row opened](assets/results.png)
#
# (The toy model copies first sentences.)

# %%
from util.results import show_results

show_results(ds, input_column="article")

# %%
from util.results import add_up

total = add_up(ds)
print(f"{total.rows} rows, {total.failed} failed; finish reasons: {dict(total.finish_reasons)}")
assert total.rows == ds.count() > 0
assert total.failed < total.rows, "every row failed; the table above shows why"

done = batch.metrics  # of this run alone: rows that OUTPUT held already were not computed again
tokens = done.num_input_tokens + done.num_generated_tokens
print(f"{tokens:,} tokens, in and out, in {batch.get_avg_engine_time_per_replica():.1f} s engine time a replica:")
print(f"{done.rows_per_s:,.1f} rows/s, {done.output_tokens_per_s:,.0f} output tokens/s")
if tokens:
    per_million_s = batch.project_1m_token_time(tokens, elapsed_s, done.engine_s)
    print(f"One million tokens would take {per_million_s:,.0f} s, with the engine ready.")

# %% [markdown]
# The report is one HTML file: whether the engine was full, how fast, what failed, the slowest rows,
# settings, versions. `batch.metrics` has the same numbers as an object, and
# `python -m rayllm_batch report FOLDER` makes the report later, from an output folder alone.
#
# ![The report: its verdict, figures and plots](assets/report.png)

# %%
batch.report("report.html")

# %% [markdown]
# `ds` can be larger than memory: `ds.limit(1000).to_pandas()` for a look, `ds.write_parquet("results/")` to keep it, `ds.map_batches(...)` to go on.
# `batch.push_to_hub("me/answers")` makes a private dataset of it on the Hugging Face Hub.

# %%
ds.limit(3).to_pandas()[["generated_text", "num_input_tokens", "num_generated_tokens", "finish_reason"]]

# %% [markdown]
# ## When something is wrong
#
# Each error says what was expected, what was given, and what to do next. The ones seen most:
#
# | it says | what it is |
# |---|---|
# | `parse_row: KeyError: 'article' (the row has: id, text)` | `parse_row` reads a column that the row has not. In `error` of some rows; of all, it ends the run before the engine starts |
# | `... is gated: it opens only with a Hugging Face token, and none was found.` | request access on the model's page, and set `HF_TOKEN`; or take `configs/qwen2.5-7b-a10g.yaml` |
# | `The weights of ... take ... GiB a GPU, but ...`, `A request of max_model_len=... needs ... GiB of KV cache a GPU` | the model, or its longest request, does not fit: [when memory runs out](docs/tuning.md#when-memory-runs-out) |
# | `...: the engine is started again with ...=... instead of ...` | it ran out of memory, and goes on with less; no row is lost |
# | `No node has the accelerator ...; the cluster has ...` | set `accelerator_type` in the config to one that is there |
# | `Beside ... engine(s), reading and tokenising need one whole CPU on some node` | Ray has too few CPUs: start it with two and more |
# | `The output folder ... holds another job: ...` | model, sampling or template are not those that the folder began with: put them back, or name another folder |
# | `... not what it was when the rows in ... were answered` | the workload's code asks something else now: [`changed="keep"` or `"redo"`](docs/resume.md#what-may-change) |
# | `Another run is writing to the output folder` | stop that one, or wait; a driver that died lets go by itself |
# | `The engine died ... times without answering a row in between.` | its last words come next; `verbose=True` shows all of its log |
# | `... did not answer a question about ... within ... s.` | the Hub is out of reach: proxy, `HF_ENDPOINT`, or `HF_HUB_OFFLINE=1` for a model that is here |
# | `Ray ... with vLLM ... is not a tested pair` | a warning: [other versions](docs/install.md#other-versions) |

# %% [markdown]
# ## What is where
#
# | | |
# |---|---|
# | `README.ipynb` | this page; `main.py` and `README.md` are exported from it (`make export`) |
# | `docs/`, `examples/`, `configs/` | pages (`make docs`: a site that needs no network); notebooks; models and accelerators |
# | `rayllm_batch/`, `util/` | the library, whose way of a row `CONTRIBUTING.md` has; what only this page needs |
# | `tests/`, `bench/`, `jobs/` | what `./test.sh` runs; what was measured; runs as cluster jobs |
