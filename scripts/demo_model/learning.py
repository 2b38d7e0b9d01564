"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

import torch
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from examples import Batch

WARM_UP = 200  # steps
LOG_EVERY = 100  # steps


def learning_rate(peak: float, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to nothing."""
    return peak * min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))


def new_optimizer(model: LlamaForCausalLM) -> torch.optim.AdamW:
    groups = [
        {"params": [weight for weight in model.parameters() if weight.ndim > 1], "weight_decay": 0.05},
        {"params": [weight for weight in model.parameters() if weight.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=model.device.type == "cuda")


def train(model: LlamaForCausalLM, batches: Iterable[Batch], steps: int, peak: float) -> None:
    """Trains `model` in place; on a GPU in bfloat16 over float32 weights. The loss is on the answers alone.

    `peak` is the highest learning rate.
    """
    device = model.device
    on_gpu = device.type == "cuda"
    optimizer = new_optimizer(model.train())
    if on_gpu:
        for layer in model.model.layers:
            layer.compile()
    losses, exact, began = [], [], time.perf_counter()
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(peak, step, steps)
        tokens, positions, targets, rows = (
            torch.from_numpy(array).to(device, torch.long)
            for array in (batch.tokens, batch.positions, batch.targets, batch.rows)
        )
        with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
            hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state
            logits = model.lm_head(hidden.flatten(0, 1)[positions])
        loss = F.cross_entropy(logits.float(), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        faults = torch.zeros(len(tokens), device=device).index_add_(0, rows, (logits.argmax(-1) != targets).float())
        losses.append(loss.detach())
        exact.append((faults == 0).float().mean())
        if step == 0 or (step + 1) % LOG_EVERY == 0 or step + 1 == steps:
            print(
                f"step {step + 1:6d}  loss {torch.stack(losses).mean():.4f}  "
                f"answers without a fault {torch.stack(exact).mean():.3f}  {time.perf_counter() - began:.0f} s",
                flush=True,
            )
            losses, exact = [], []
