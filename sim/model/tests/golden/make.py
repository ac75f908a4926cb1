#!/usr/bin/env python3
"""Makes the golden files beside it: tiny random-weight checkpoints and what transformers computes from them.

Needs transformers 5.23.0 or newer, torch 2.15.0 (CPU), tokenizers and safetensors; the versions used are written into
every golden.safetensors. Run it with the names of folders, or without for all. The weights depend on torch's random
numbers, so another version of torch makes other models, which are as good: checkpoints and results are written
together.

One folder per model: config.json, weights, tokenizer.json, and golden.safetensors with
  tokens [T] u32, logits [T, V] f32, router [T, L, E] f32 (raw scores), ids [T, L, k] u16 (the model's choice, best
  first)
as one forward pass in f32 gives them. The same pass cut in two with a cache is checked here against the whole.
"""

import pathlib
import shutil
import sys

import safetensors
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

HERE = pathlib.Path(__file__).parent
VOCAB = 64
TOKENS = 24
COMMON = dict(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, max_position_embeddings=128, initializer_range=0.4,
              bos_token_id=None, eos_token_id=2, pad_token_id=None)
GQA = dict(num_attention_heads=2, num_key_value_heads=1)
MLA = dict(num_attention_heads=2, num_key_value_heads=2, kv_lora_rank=12, qk_nope_head_dim=6, qk_rope_head_dim=4,
           v_head_dim=5, n_routed_experts=8, n_shared_experts=2, num_experts_per_tok=3, moe_intermediate_size=6,
           intermediate_size=20, first_k_dense_replace=1, num_hidden_layers=3)

# Name of the folder: class of the configuration, its values, type of the stored weights, largest shard.
MODELS = {
    "olmoe": ("OlmoeConfig", dict(num_attention_heads=2, num_key_value_heads=2, intermediate_size=8, num_experts=8,
                                  num_experts_per_tok=3, clip_qkv=1.5), torch.float32, None),
    "olmoe_tied": ("OlmoeConfig", dict(**GQA, intermediate_size=8, num_experts=8, num_experts_per_tok=2,
                                       norm_topk_prob=True, tie_word_embeddings=True), torch.float16, None),
    "mixtral": ("MixtralConfig", dict(**GQA, intermediate_size=12, num_local_experts=4, num_experts_per_tok=2,
                                      sliding_window=7), torch.bfloat16, None),
    "qwen2_moe": ("Qwen2MoeConfig", dict(**GQA, intermediate_size=20, moe_intermediate_size=8,
                                         shared_expert_intermediate_size=12, num_experts=6, num_experts_per_tok=3,
                                         num_hidden_layers=3, mlp_only_layers=[1]), torch.bfloat16, "16KB"),
    "qwen3_moe": ("Qwen3MoeConfig", dict(num_attention_heads=4, num_key_value_heads=2, head_dim=6, intermediate_size=20,
                                         moe_intermediate_size=8, num_experts=8, num_experts_per_tok=3,
                                         norm_topk_prob=True), torch.bfloat16, None),
    "qwen3_moe_yarn": ("Qwen3MoeConfig", dict(**GQA, head_dim=8, intermediate_size=20, moe_intermediate_size=8,
                                              num_experts=4, num_experts_per_tok=2, decoder_sparse_step=2,
                                              rope_parameters=dict(rope_type="yarn", rope_theta=1000.0, factor=4.0,
                                                                   original_max_position_embeddings=32)),
                       torch.float32, None),
    "deepseek_v2": ("DeepseekV2Config", dict(**MLA, q_lora_rank=None, routed_scaling_factor=1.5,
                                             rope_parameters=dict(rope_type="yarn", rope_theta=1000.0, factor=4.0,
                                                                  mscale=0.7, mscale_all_dim=0.9, beta_fast=32,
                                                                  beta_slow=1, original_max_position_embeddings=32)),
                    torch.bfloat16, None),
    "deepseek_v2_groups": ("DeepseekV2Config", dict(**MLA, q_lora_rank=10, topk_method="group_limited_greedy",
                                                    n_group=4, topk_group=2, routed_scaling_factor=2.0),
                           torch.bfloat16, None),
    "deepseek_v3": ("DeepseekV3Config", dict(**MLA, q_lora_rank=10, n_group=4, topk_group=2, routed_scaling_factor=2.5,
                                             rope_parameters=dict(rope_type="yarn", rope_theta=1000.0, factor=4.0,
                                                                  mscale=1.0, mscale_all_dim=1.0, beta_fast=32,
                                                                  beta_slow=1, original_max_position_embeddings=32)),
                    torch.bfloat16, None),
    "gpt_oss": ("GptOssConfig", dict(num_attention_heads=4, num_key_value_heads=2, head_dim=4, intermediate_size=8,
                                     num_local_experts=6, num_experts_per_tok=3, sliding_window=5,
                                     rope_parameters=dict(rope_type="yarn", rope_theta=1000.0, factor=8.0,
                                                          beta_fast=32.0, beta_slow=1.0, truncate=False,
                                                          original_max_position_embeddings=16)),
                torch.bfloat16, None),
}


def tokenizer():
    """A token for each of 62 characters, and two special ones: small, and enough to go from text to ids."""
    letters = "".join(map(chr, range(ord("a"), ord("z") + 1)))
    characters = letters + letters.upper() + " \n.,:;'-()"
    vocabulary = {"<unk>": 0, "<s>": 1, **{c: i for i, c in enumerate(characters, 2)}}
    assert len(vocabulary) == VOCAB
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    return made


def randomize(model):
    """Norms, biases and sinks start as ones and zeros, which would hide a mistake."""
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.uniform_(0.5, 1.5)
        elif name.endswith(("bias", "sinks")):
            parameter.data.normal_(0, 0.5)
        elif "experts" in name:
            parameter.data.normal_(0, 0.7)
    for name, buffer in model.named_buffers():
        if name.endswith("correction_bias"):
            buffer.data.normal_(0, 0.2)


def make(name, config_class, values, dtype, shard):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(sum(name.encode()))
    config = getattr(transformers, config_class)(**{**COMMON, **values})
    model = transformers.AutoModelForCausalLM.from_config(config)
    randomize(model)
    model.to(dtype).save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    (folder / "generation_config.json").unlink(missing_ok=True)
    tokenizer().save(str(folder / "tokenizer.json"))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                                              experts_implementation="eager").eval()
    tokens = torch.randint(VOCAB, (1, TOKENS))
    # Recorded by the routers themselves, so that the choice of grouped routing is the model's own.
    routed = []
    hooks = [m.register_forward_hook(lambda _, __, out: routed.append((out[0].detach(), out[1].detach(), out[2])))
             for m in model.modules() if type(m).__name__.lower().endswith("topkrouter")]
    with torch.no_grad():
        logits = model(tokens).logits[0]
        for hook in hooks:
            hook.remove()
        first = model(tokens[:, :11], use_cache=True)
        second = model(tokens[:, 11:], past_key_values=first.past_key_values)
    halves = torch.cat([first.logits, second.logits], 1)[0]
    assert torch.allclose(halves, logits, rtol=1e-4, atol=1e-4), name
    ids = []
    for _, weights, chosen in routed:
        order = torch.argsort(weights, dim=-1, descending=True, stable=True)
        ids.append(chosen.gather(-1, order))
    tensors = {
        "tokens": tokens[0].to(torch.uint32),
        "logits": logits.contiguous(),
        "router": torch.stack([scores for scores, _, _ in routed], 1).contiguous(),
        "ids": torch.stack(ids, 1).to(torch.uint16).contiguous(),
    }
    versions = {module.__name__: module.__version__ for module in (transformers, torch, safetensors)}
    save_file(tensors, folder / "golden.safetensors", metadata=versions)
    files = sorted(folder.iterdir())
    print(name, sum(f.stat().st_size for f in files), "bytes;", float(logits.std()), [f.name for f in files])


for name in sys.argv[1:] or MODELS:
    make(name, *MODELS[name])
