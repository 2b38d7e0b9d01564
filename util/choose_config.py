"""Which of the shipped configs suits the GPUs that Ray sees."""

from __future__ import annotations

from rayllm_batch import cluster
from rayllm_batch.cluster.resources import accelerators
from rayllm_batch.errors import ConfigError

DEMO = "configs/demo-cpu.yaml"
# In order of preference where a cluster has several kinds.
CONFIGS = {
    "H200": "configs/llama-3.1-8b-h200-fp8.yaml",
    "H100": "configs/llama-3.1-8b-h100-fp8.yaml",
    "A100": "configs/llama-3.1-8b-a100.yaml",
    "L40S": "configs/llama-3.1-8b-l40s-fp8.yaml",
    "A10G": "configs/llama-3.1-8b-a10g.yaml",
    "L4": "configs/llama-3.1-8b-l4.yaml",
}


def choose_config(given: str = "") -> str:
    """`given`, or else the path of a config for the accelerators of this Ray cluster. One is started if none is there.

    Without a GPU it is the CPU demo. What was chosen, and why, is printed.
    """
    import ray

    cluster.connect()  # in any case: what reads rows first would start Ray with settings of its own
    if given:
        return given
    resources = ray.cluster_resources()
    found = accelerators(resources)
    for accelerator, config in CONFIGS.items():
        if accelerator in found and resources.get("GPU", 0):
            print(f"Found {accelerator}: using {config}.")
            return config
    if resources.get("GPU", 0):
        raise ConfigError(
            f"No config is shipped for this GPU ({', '.join(sorted(found)) or 'of a kind that Ray does not know'}). Copy one "
            "from configs/ that was made for as much memory, set its accelerator_type to that name (or to GPU, for any "
            "kind), and name it: CONFIG=configs/mine.yaml."
        )
    print(f"Found no GPU: using the CPU demo, {DEMO}, with a tiny model. It shows how things work, not how well.")
    return DEMO
