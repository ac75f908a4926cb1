"""How much longer a model of some size takes while `cptr.attach` records it.

    python compat/overhead.py

OLMoE with 8 layers of width 512 and 32 experts of width 512, 8 a token: 110 million parameters, random weights. Passes
of the model alone and recorded in turn, processor time of one thread, the fastest of each.
"""

from __future__ import annotations

import time

import torch
from transformers import AutoConfig, AutoModelForCausalLM

import cptr

PASSES = 7
SIZES = {
    "vocab_size": 1000,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "hidden_size": 512,
    "intermediate_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "num_experts": 32,
    "num_experts_per_tok": 8,
    "max_position_embeddings": 1024,
}


def seconds(model: torch.nn.Module, tokens: int) -> float:
    ids = torch.randint(0, 1000, (1, tokens))
    start = time.process_time()
    with torch.no_grad():
        model(ids, use_cache=False)
    return time.process_time() - start


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("olmoe", **SIZES)).eval()
    for tokens in (1, 16, 256):
        alone, recorded = [], []
        seconds(model, tokens)
        for _ in range(PASSES):
            alone.append(seconds(model, tokens))
            with cptr.attach(model):
                recorded.append(seconds(model, tokens))
        change = 100 * (min(recorded) / min(alone) - 1)
        times = f"{1e3 * min(alone):7.1f} ms alone, {1e3 * min(recorded):7.1f} recorded"
        print(f"{tokens:4} tokens: {times}, {change:+.1f} %")


if __name__ == "__main__":
    main()
