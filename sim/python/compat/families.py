"""Tiny models with random weights of every MoE family that the installed transformers has.

A family is a folder of `transformers.models` whose code has a router. Its configuration is made small by the names of
its fields, the same for all; what a family needs beside that is in `BESIDE`.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)

ROUTER = re.compile(r"^class \w*(?<!Density)(?:Router|TopKGating|MoEV1Gate)\(", re.MULTILINE)
EXPERTS, ACTIVE, LAYERS = 8, 3, 4

SMALL: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "intermediate_size": 32,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "max_position_embeddings": 256,
    "sliding_window": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    # Experts.
    "num_experts": EXPERTS,
    "num_local_experts": EXPERTS,
    "n_routed_experts": EXPERTS,
    "moe_num_experts": EXPERTS,
    "num_experts_per_tok": ACTIVE,
    "num_experts_per_token": ACTIVE,
    "moe_topk": ACTIVE,
    "moe_top_k": ACTIVE,
    "moe_k": ACTIVE,
    "top_k_experts": ACTIVE,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "n_group": 4,
    "topk_group": 2,
    "zero_expert_num": 4,
    "expert_ffn_hidden_size": 16,
    "ffn_hidden_size": 32,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    "expert_capacity": 64,
    # Attention of low rank.
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "o_lora_rank": 8,
    "index_n_heads": 2,
    "index_head_dim": 16,
    "index_topk": 8,
    # State spaces and linear attention.
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "mamba_d_state": 8,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_dt_rank": 4,
    # Encoders and decoders.
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_decoder_layers": 4,
    "num_heads": 4,
    "num_sparse_encoder_layers": 1,
    "num_sparse_decoder_layers": 2,
    "decoder_start_token_id": 1,
    "encoder_layers": 2,
    "decoder_layers": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
}

BESIDE: dict[str, dict[str, Any]] = {
    "dbrx": {
        "attn_config": {"rope_theta": 1e4, "kv_n_heads": 4, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 32, "moe_num_experts": EXPERTS, "moe_top_k": ACTIVE},
    },
    "deepseek_ocr2": {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]},
    "qwen4_exp": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
        "hc_lowrank": 8,
    },
    "diffusion_gemma": {"vocab_size_per_layer_input": 160},
    "ernie4_5_vl_moe": {
        "moe_intermediate_size": [16, 16],
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
    },
    "gemma4": {"enable_moe_block": True, "vocab_size_per_layer_input": 160, "hidden_size_per_layer_input": 8},
    "glm5_next": {"index_topk": 16, "qk_rope_head_dim": 0},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "mimo_v2_flash": {"num_key_value_heads": 2},
    "glm4v_moe": {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [1, 1, 0],
            "partial_rotary_factor": 0.5,
        }
    },
    "hy_v4_vl": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}},
    "mistral4": {"head_dim": 16},
    "zaya": {"num_experts_per_tok": 1},
}


def families() -> list[str]:
    """The families, by the name of their folder."""
    root = Path(transformers.__file__).parent / "models"
    files = sorted(root.glob("*/modeling_*.py"))
    return [file.parent.name for file in files if ROUTER.search(file.read_text("utf-8"))]


def _is_whole(name: str) -> bool:
    return name.endswith("Model") and not name.endswith("PreTrainedModel")


def _text_class(family: str) -> tuple[type[PretrainedConfig], str]:
    """The configuration of a family's language model, and the model's class."""
    module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    of_family = {
        name: kind for name, kind in transformers.CONFIG_MAPPING.items() if kind.__module__.split(".")[-2] == family
    }
    is_text = {name: "text" in name or "Text" in kind.__name__ for name, kind in of_family.items()}
    names = sorted(of_family, key=lambda name: (not is_text[name], "talker" in name, name.replace("-", "_") != family))
    tables = (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        MODEL_MAPPING_NAMES,
    )
    for name in names:
        config = of_family[name]
        for table in tables:
            if isinstance(table.get(name), str) and hasattr(module, table[name]):
                return config, table[name]
        for kind in vars(module).values():
            is_model = (
                isinstance(kind, type) and issubclass(kind, PreTrainedModel) and kind.__module__ == module.__name__
            )
            if is_model and getattr(kind, "config_class", None) is config and _is_whole(kind.__name__):
                return config, kind.__name__
        # Some text models are written down as of the whole model's configuration.
        hints = [
            kind for key, kind in vars(module).items() if _is_whole(key) and "Text" in key and isinstance(kind, type)
        ]
        if is_text[name] and len(hints) == 1:
            return config, hints[0].__name__
    raise LookupError(f"{family}: no class of a language model")


def config_of(family: str, sizes: dict[str, Any] | None = None) -> tuple[PretrainedConfig, type[PreTrainedModel]]:
    """A small configuration, and the class of its model."""
    kind, name = _text_class(family)
    module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    known = set(kind().to_dict()) | set(getattr(kind, "attribute_map", {}))
    beside = BESIDE.get(family, {})
    given = {key: value for key, value in (SMALL | (sizes or {})).items() if key in known} | beside
    # Two names of one field would contradict each other.
    for old, new in getattr(kind, "attribute_map", {}).items():
        if old in given and new in given:
            del given[old]
    given = {key: value for key, value in given.items() if value is not ...}
    return kind(**given), getattr(module, name)


def build(family: str, sizes: dict[str, Any] | None = None, seed: int = 7) -> PreTrainedModel:
    """A model with random weights, large enough that routers have favourites; the same in every run."""
    config, kind = config_of(family, sizes)
    torch.manual_seed(seed)
    model = kind(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3 if sizes is None else 0.02)
            if name.endswith("per_expert_scale"):
                parameter.uniform_(0.5, 1.5)
        for name, buffer in model.named_buffers():
            if "correction_bias" in name or "expert_bias" in name:
                buffer.normal_(std=0.05)
            if "tid2eid" in name:
                choice = torch.rand(buffer.shape[0], config.num_local_experts).argsort(-1)
                buffer.copy_(choice[:, : buffer.shape[1]])
    return model.eval()
