#!/usr/bin/env python3
"""Makes the golden files of this folder: what the router modules of `transformers` choose, and with which weights.

    pip install torch transformers
    python tests/golden/routers/make.py

Each file is what one module does with random weights and biases: a text header (`key value` lines up to an empty one; `file` is its
name) and then, in little-endian, logits `i16 [tokens, experts]` in steps of 2^-12, bias `i16 [bias]` in the same steps, expert ids
`u16 [tokens, k]` as the module gives them, and their weights `f32 [tokens, k]`. Inputs and weights are multiples of 2^-6, so that logits are
exact in 32-bit floating point whatever the order of summation; tokens with two equal logits are left out. `core/tests/routers.rs` compares.
"""
import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import transformers

TOKENS, HIDDEN = 208, 64
HERE = Path(__file__).parent


def grid(shape, std, step=2.0**-6):
    return (torch.randn(shape) * std / step).round() * step


def module(family, name, **config):
    found = getattr(importlib.import_module(f"transformers.models.{family}.modeling_{family}"), name)
    return found(SimpleNamespace(hidden_size=HIDDEN, **config)).eval()


def deepseek_v2(method, experts=64, k=6, groups=8, open=3, scale=1.5):
    gate = module("deepseek_v2", "DeepseekV2TopkRouter", num_experts_per_tok=k, num_experts=experts, n_group=groups,
                  routed_scaling_factor=scale, topk_method=method, topk_group=open)
    return gate, dict(experts=experts, k=k, groups=groups, open=open, scale=scale)


def biased(family, name, experts=32, k=4, groups=1, open=1, scale=1.0, renormalise=1, bias=0.1, **more):
    gate = module(family, name, num_experts_per_tok=k, num_local_experts=experts, num_experts=experts, n_group=groups,
                  topk_group=open, routed_scaling_factor=scale, norm_topk_prob=bool(renormalise), **more)
    if hasattr(gate, "e_score_correction_bias"):
        gate.e_score_correction_bias.data = grid((experts,), bias, 2.0**-12)
    return gate, dict(experts=experts, k=k, groups=groups, open=open, scale=scale, renormalise=renormalise)


def low():
    """All logits near -30, and no bias: scores of 1e-13."""
    gate, config = biased("deepseek_v3", "DeepseekV3TopkRouter", 32, 8, 4, 2, bias=0.0)
    return gate, dict(config, shift=-30)


def ernie():
    gate = module("ernie4_5_moe", "Ernie4_5_MoeTopKRouter", num_experts=32, num_experts_per_tok=6, moe_norm_min=1e-12)
    gate.moe_statics.e_score_correction_bias.data = grid((1, 32), 0.02, 2.0**-12)
    return gate, dict(experts=32, k=6)


def longcat():
    gate = module("longcat_flash", "LongcatFlashTopkRouter", num_experts_per_tok=6, num_local_experts=32,
                  n_routed_experts=32, zero_expert_num=16, routed_scaling_factor=6.0)
    gate.e_score_correction_bias = grid((48,), 0.02, 2.0**-12)
    return gate, dict(experts=48, k=6, null=16, scale=6.0)


def plain(family, name, experts, k, **config):
    gate = module(family, name, num_experts=experts, num_local_experts=experts, num_experts_per_tok=k, **config)
    return gate, dict(experts=experts, k=k)


CASES = {
    "deepseek_v2_greedy": lambda: deepseek_v2("greedy"),
    "deepseek_v2_group_limited_greedy": lambda: deepseek_v2("group_limited_greedy"),
    "deepseek_v3": lambda: biased("deepseek_v3", "DeepseekV3TopkRouter", 64, 8, 8, 4, 2.5),
    "deepseek_v3_low": low,
    "glm4_moe": lambda: biased("glm4_moe", "Glm4MoeTopkRouter", 64, 8),
    "dots1": lambda: biased("dots1", "Dots1TopkRouter", 32, 6, scale=2.5),
    "nemotron_h": lambda: biased("nemotron_h", "NemotronHTopkRouter", 64, 22, 4, 2, 5.0),
    "kimi_linear": lambda: biased("kimi_linear", "KimiLinearTopkRouter", 32, 8, scale=2.446),
    "exaone_moe": lambda: biased("exaone_moe", "ExaoneMoeTopkRouter", 32, 8, 4, 2, 2.5),
    "mimo_v2_flash": lambda: biased("mimo_v2_flash", "MiMoV2FlashTopkRouter", 32, 8, renormalise=0),
    "laguna": lambda: biased("laguna", "LagunaTopKRouter", 32, 8, moe_router_logit_softcapping=0.0),
    "ernie4_5_moe": ernie,
    "longcat_flash": longcat,
    "kolibri1": lambda: biased("kolibri1", "Kolibri1TopKRouter", 32, 4, bias=0.5),
    "llama4": lambda: plain("llama4", "Llama4Router", 16, 1),
    "llama4_top4": lambda: plain("llama4", "Llama4Router", 16, 4),
    "mixtral": lambda: plain("mixtral", "MixtralTopKRouter", 8, 2),
    "qwen3_moe": lambda: plain("qwen3_moe", "Qwen3MoeTopKRouter", 64, 8, norm_topk_prob=True),
    "olmoe": lambda: plain("olmoe", "OlmoeTopKRouter", 64, 8, norm_topk_prob=False),
    "gpt_oss": lambda: plain("gpt_oss", "GptOssTopKRouter", 32, 4),
    "phimoe": lambda: plain("phimoe", "PhimoeTopKRouter", 16, 2, router_jitter_noise=0.01, input_jitter_noise=0.0),
    "switch": lambda: plain("switch_transformers", "SwitchTransformersTop1Router", 16, 1, expert_capacity=1 << 20,
                            router_bias=False, router_jitter_noise=0.0, router_dtype="float32",
                            router_ignore_padding_tokens=False),
    "deepseek_v4": lambda: biased("deepseek_v4", "DeepseekV4TopKRouter", 32, 6, scale=1.5, scoring_func="sqrtsoftplus"),
    "deepseek_v4_hash": lambda: biased("deepseek_v4", "DeepseekV4HashRouter", 32, 6, scale=1.5, scoring_func="sqrtsoftplus",
                                       vocab_size=TOKENS),
    "mistral_large4": lambda: grouped_softmax(),
}


def grouped_softmax():
    gate = module("mistral_large4", "MistralLarge4TextTopkRouter", num_experts_per_tok=4, num_local_experts=32,
                  n_group=4, topk_group=2, routed_scaling_factor=1.0)
    return gate, dict(experts=32, k=4, groups=4, open=2)


@torch.no_grad()
def run(name, make):
    torch.manual_seed(sum(map(ord, name)))
    gate, config = make()
    linear = next(part for part in gate.modules() if isinstance(getattr(part, "weight", None), torch.Tensor))
    linear.weight.data = grid((config["experts"], HIDDEN), 0.15)
    hidden = grid((2 * TOKENS, HIDDEN), 1.0)
    if shift := config.pop("shift", 0):
        hidden[:, 0], linear.weight.data[:, 0] = 8.0, shift / 8
    # Of equal logits the module may take either.
    distinct = [row for row in hidden if len((linear.weight @ row).unique()) == config["experts"]]
    hidden = torch.stack(distinct[:TOKENS])
    assert len(hidden) == TOKENS
    bias = getattr(gate, "e_score_correction_bias", None)
    if name == "ernie4_5_moe":
        bias = gate.moe_statics.e_score_correction_bias[0]
    if name == "gpt_oss":
        # Part of its logits: the file has those without it.
        bias = gate.bias.data = grid((config["experts"],), 0.5, 2.0**-12)
    logits = hidden @ linear.weight.T
    if name.startswith("llama4"):
        weights, found = gate(hidden)
        ids = found.topk(config["k"], dim=-1).indices
        assert ((weights > 0).sum(-1) == config["k"]).all() and (weights.gather(-1, ids) > 0).all()
        weights = weights.gather(-1, ids)
    elif name == "switch":
        one_hot, weights, found = gate(hidden[None])
        ids, weights, found = one_hot[0].argmax(-1, keepdim=True), weights[0], found[0]
    elif name == "deepseek_v4_hash":
        config["table"] = 1
        gate.tid2eid.data = torch.stack([torch.randperm(config["experts"])[: config["k"]] for _ in range(TOKENS)])
        found, weights, ids = gate(hidden, torch.arange(TOKENS))
    else:
        found, weights, ids = gate(hidden)
    expected = logits + bias if name == "gpt_oss" else logits
    assert torch.equal(found.float(), expected), f"{name}: the logits are not exact"
    bias = torch.zeros(0) if bias is None or not bias.any() else bias
    steps = lambda tensor: (tensor * 4096).round().to(torch.int64)
    for tensor in (logits, bias):
        assert torch.equal(steps(tensor) / 4096, tensor)
    whole = steps(logits)
    wide = int(whole.abs().max() > 32767)
    if wide:
        # Only their distances from the shift fit.
        whole = whole - shift * 4096
        config["shift"] = shift
    assert whole.abs().max() <= 32767
    header = dict(file=name, module=type(gate).__name__, transformers=transformers.__version__, tokens=TOKENS,
                  bias=len(bias), **config)
    text = "".join(f"{key} {value}\n" for key, value in header.items()) + "\n"
    arrays = (whole.numpy().astype("<i2"), steps(bias).numpy().astype("<i2"), ids.numpy().astype("<u2"),
              weights.float().numpy().astype("<f4"))
    (HERE / f"{name}.bin").write_bytes(text.encode() + b"".join(array.tobytes() for array in arrays))
    print(f"{name}: {TOKENS} tokens, {config}")


if __name__ == "__main__":
    for name, make in CASES.items():
        if not sys.argv[1:] or name in sys.argv[1:]:
            run(name, make)
