"""Tiny random-weight models of every family, and a tokenizer for them."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 257
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "num_experts_per_tok": 3,
    "bos_token_id": 256,
    "eos_token_id": 256,
    "pad_token_id": 256,
}
QWEN = {"num_experts": 8, "moe_intermediate_size": 16, "intermediate_size": 24, "decoder_sparse_step": 1, "head_dim": 8}
DEEPSEEK = {
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "moe_intermediate_size": 16,
    "intermediate_size": 24,
    "first_k_dense_replace": 1,
    "q_lora_rank": None,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
# name -> (model type, its settings, expected convention, expected MoE layers)
MODELS = {
    "olmoe": ("olmoe", {"num_experts": 8, "intermediate_size": 16, "num_key_value_heads": 4}, "softmax-all", [0, 1, 2]),
    "mixtral": ("mixtral", {"num_local_experts": 8, "intermediate_size": 16}, "softmax-selected", [0, 1, 2]),
    "qwen2_moe": (
        "qwen2_moe",
        QWEN | {"shared_expert_intermediate_size": 16, "norm_topk_prob": False, "mlp_only_layers": [1]},
        "softmax-all",
        [0, 2],
    ),
    "qwen3_moe": ("qwen3_moe", QWEN | {"norm_topk_prob": True}, "softmax-selected", [0, 1, 2]),
    "deepseek_v2": (
        "deepseek_v2",
        DEEPSEEK | {"topk_method": "greedy", "routed_scaling_factor": 1.0},
        "softmax-all",
        [1, 2],
    ),
    "deepseek_v2 grouped": (
        "deepseek_v2",
        DEEPSEEK
        | {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "routed_scaling_factor": 16.0},
        "softmax-all:4:2:scale=16",
        [1, 2],
    ),
    "gpt_oss": (
        "gpt_oss",
        {"num_local_experts": 8, "intermediate_size": 16, "head_dim": 8, "sliding_window": 8},
        "softmax-selected",
        [0, 1, 2],
    ),
}


def model(name: str):
    """Weights large enough that routers have clear favourites; the same in every run."""
    kind, settings, _, _ = MODELS[name]
    torch.manual_seed(7)
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(COMMON | settings)))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.3)
    return made.eval()


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and an end-of-text token before each text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_only = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    bytes_only.add_special_tokens(["<|endoftext|>"])
    bytes_only.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 256)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=bytes_only, bos_token="<|endoftext|>", eos_token="<|endoftext|>")


def dense():
    """A model without routers."""
    settings = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=8, **settings))
