"""Pictures a second: RayLLMBatch against vLLM's own `LLM.chat`, on the same files.

    python -m bench.images --rows 64                      tries it, with a tiny model of random weights, on a CPU
    python -m bench.images --shape --accelerator GPU --rows 1000 --side 1024 --pairs 3
    python -m bench.images --model Qwen/Qwen2.5-VL-3B-Instruct --accelerator GPU --rows 1000 --side 1024 --pairs 3
    python -m bench.images --steps                        what one picture takes, without an engine

The same JPEG files, question, settings and host, in turn (bench.in_turn). `LLM.chat` gets PIL images that are opened when its
clock runs, since ours reads the files too. `--shape` is Qwen2.5-VL-3B's, with random weights: the speed is real, the text is not.

  rows/s   rows over the seconds from a ready engine to the last answer in the caller's hands, reading files included.
  engine   rows over the time in which an engine had work, which only RayLLMBatch tells.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.in_turn import BESIDE_OTHERS, compare, connect, keep_engines, timed
from bench.models import DEMO_MODEL

QUESTION = "Describe the picture in one sentence."
MAX_TOKENS = 16
SPECIAL = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% else %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}{% endfor %}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant\n{% endif %}"
)
# Qwen/Qwen2.5-VL-3B-Instruct, by its config.json.
QWEN: dict[str, Any] = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "model_type": "qwen2_5_vl",
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128000,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "use_sliding_window": False,
    "sliding_window": 32768,
    "max_window_layers": 70,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "vocab_size": 151936,
}
QWEN_EYES: dict[str, Any] = {
    "depth": 32,
    "hidden_act": "silu",
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "in_chans": 3,
    "out_hidden_size": 2048,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "spatial_patch_size": 14,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2,
    "temporal_patch_size": 2,
}


def make_shape(folder: Path, layers: int) -> Path:
    """Qwen2.5-VL's, of so many layers, with the demo model's tokenizer and the processor's own settings."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(DEMO_MODEL)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    start, end, pad, image, video = tokenizer.convert_tokens_to_ids(list(SPECIAL))
    ids = {"vision_start_token_id": start, "vision_end_token_id": end, "vision_token_id": pad}
    ids |= {"image_token_id": image, "video_token_id": video, "bos_token_id": 1, "eos_token_id": 2}
    eyes = {**QWEN_EYES, "depth": min(layers, 32), "fullatt_block_indexes": [i for i in (7, 15, 23, 31) if i < layers]}
    config = {**QWEN, "num_hidden_layers": layers, "max_window_layers": layers, **ids, "vision_config": eyes}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    processor = {
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
    }
    processor |= {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    processor |= {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return folder


def make_files(folder: Path, rows: int, side: int) -> list[str]:
    """JPEGs that differ, as smooth as photographs are: patches of colour with a little noise."""
    from PIL import Image

    names = []
    for row in range(rows):
        rng = np.random.default_rng(row)
        width, height = side, int(side * rng.uniform(0.5, 1.0))
        patches = Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).resize((width, height), 3)
        noisy = np.asarray(patches, dtype=np.int16) + rng.integers(-6, 7, (height, width, 1))
        names.append(f"{row:06d}.jpg")
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / names[-1], quality=85)
    return names


def with_llm(job: dict[str, Any]) -> Generator[Any, Any, None]:
    from PIL import Image
    from vllm import LLM, SamplingParams

    def chat(name: str) -> list[dict[str, Any]]:
        picture = {"type": "image_pil", "image_pil": Image.open(Path(job["folder"], name)).convert("RGB")}
        return [{"role": "user", "content": [picture, {"type": "text", "text": QUESTION}]}]

    llm: Any = LLM(model=job["model"], disable_log_stats=True, **job["engine_kwargs"])
    params = SamplingParams(**job["sampling_params"])
    llm.chat([chat(name) for name in job["files"][:2]], params, use_tqdm=False)
    work = yield None
    while True:
        began = time.time()
        answers = llm.chat([chat(name) for name in work["files"]], params, use_tqdm=False)
        work = yield {"seconds": time.time() - began, "texts": [one.outputs[0].text for one in answers]}


def with_ours(job: dict[str, Any]) -> Generator[Any, Any, None]:
    import pandas as pd
    import ray.data

    from rayllm_batch import ChatWorkloadBase, RayLLMBatch, init_engine_from_config

    question = QUESTION  # not a global: this module is not on the workers' path

    class Pictures(ChatWorkloadBase):
        sampling_params = job["sampling_params"]
        media_folder = job["folder"]
        files: Any = None

        def load_dataset(self) -> ray.data.Dataset:
            return ray.data.from_pandas(pd.DataFrame({"file": self.files}))

        def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
            content = [{"type": "image", "image": row["file"]}, {"type": "text", "text": question}]
            return {"messages": [{"role": "user", "content": content}]}

    given = {"model_id": job["model"], "llm_engine": "vllm", "accelerator_type": connect(job["accelerator"])}
    config = init_engine_from_config({**given, "engine_kwargs": job["engine_kwargs"]})
    keep_engines()
    RayLLMBatch(config, Pictures(files=job["files"]), deduplicate=False).preview(2)  # now the engine is ready
    work = yield None
    while True:
        batch = RayLLMBatch(config, Pictures(files=work["files"]), deduplicate=False)
        answered, found = timed(batch)
        rows = sorted(answered.take_all(), key=lambda row: row["file"])
        work = yield {**found, "texts": [row["generated_text"] for row in rows]}


def steps(model: str) -> None:
    """Milliseconds a picture, on one core: what our threads and tasks do, and what vLLM's one thread does."""
    from PIL import Image
    from transformers import AutoProcessor

    from rayllm_batch.media import decode
    from rayllm_batch.media.medium import Medium
    from rayllm_batch.media.reader import MediaReader
    from rayllm_batch.media.rules import MediaRules

    processor, reader = AutoProcessor.from_pretrained(model), MediaReader(MediaRules())
    print("| pixels | JPEG KB | RGB KB | read and checked | decoded | pixels hashed | prepared by the processor |")
    print("|---|---|---|---|---|---|---|")
    for side in (512, 1024, 2048):
        with tempfile.TemporaryDirectory() as folder:
            files = make_files(Path(folder), 8, side)
            given = [Path(folder, name).read_bytes() for name in files]
        images = [Image.open(io.BytesIO(one)).convert("RGB") for one in given]
        media = [Medium("image", one, str(i)) for i, one in enumerate(given)]
        taken = [
            _milliseconds(partial(reader.read, "image"), given),
            _milliseconds(decode.image_of, media),
            _milliseconds(_hashed, images),
            _milliseconds(lambda one: processor.image_processor(one, return_tensors="np"), images),
        ]
        sizes = sum(map(len, given)) / len(given) / 1024, images[0].width * images[0].height * 3 / 1024
        print(f"| {side} | {sizes[0]:.0f} | {sizes[1]:.0f} | {' | '.join(f'{one:.1f}' for one in taken)} |")


def _hashed(image: Any) -> str:
    from blake3 import blake3

    return blake3(np.asarray(image).tobytes()).hexdigest()


def _milliseconds(step: Callable[[Any], Any], given: list[Any]) -> float:
    step(given[0])
    taken = []
    for one in given:
        began = time.perf_counter()
        step(one)
        taken.append(time.perf_counter() - began)
    return 1000 * statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a Hub id or a folder; without one, the tiny model of scripts/demo_vlm.py")
    parser.add_argument("--shape", nargs="?", type=int, const=36, metavar="LAYERS", help="Qwen2.5-VL-3B's instead")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--side", type=int, default=256, help="of the pictures, in pixels")
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--accelerator", choices=["CPU", "GPU"], default="CPU")
    parser.add_argument("--engine-kwargs", type=json.loads, default={}, metavar="JSON", help="for both")
    parser.add_argument("--steps", action="store_true", help="what it takes to prepare one picture, and no engine")
    args = parser.parse_args()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        model = args.model
        if args.shape:
            model = str(make_shape(Path(folder), args.shape))
        elif model is None:
            from scripts import demo_vlm

            model = str(demo_vlm.make(Path(folder, "model")))
        if args.steps:
            return steps(model)
        pictures = Path(folder, "pictures")
        pictures.mkdir()
        kwargs: dict[str, Any] = {"limit_mm_per_prompt": {"image": 1}, "mm_processor_cache_gb": 0}
        kwargs |= {"load_format": "dummy"} if args.shape else {}
        if args.shape:  # it knows films too
            kwargs["limit_mm_per_prompt"]["video"] = 0
        if args.accelerator == "CPU":
            kwargs |= {"enforce_eager": True, "max_num_seqs": 16}
        else:
            kwargs |= {"max_model_len": 4096, "max_num_batched_tokens": 8192, **BESIDE_OTHERS}
            kwargs |= {"kv_cache_memory_bytes": 24 << 30}  # of some 600 pictures
        kwargs |= {"enable_prefix_caching": False, **args.engine_kwargs}
        files = make_files(pictures, args.rows, args.side)
        params = {"temperature": 0.0, "max_tokens": MAX_TOKENS, "ignore_eos": True}
        job = {"model": model, "folder": str(pictures), "files": files, "engine_kwargs": kwargs}
        job |= {"sampling_params": params, "accelerator": args.accelerator}
        print(f"{args.rows} pictures of {args.side} pixels: engine settings {json.dumps(kwargs)}", flush=True)
        works = {f"{args.side} pixels": {"files": files, "rows": args.rows}}
        contenders = {"LLM.chat": with_llm, "RayLLMBatch": with_ours}
        together = args.accelerator == "GPU"
        for theirs, ours in compare(contenders, job, works, args.pairs, together=together).values():
            same = sum(one == other for one, other in zip(theirs["texts"], ours["texts"], strict=True))
            print(f"the same texts in the last pair: {same} of {args.rows}")


if __name__ == "__main__":
    main()
