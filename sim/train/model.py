"""The models, with the parameter names that `transformers` has for them: OLMoE, and DeepSeek-V3's attention and router.

Same function as `transformers`' implementations (`check.py` compares the logits), other order of work: the (token,
expert) pairs are sorted by expert, so that each expert multiplies one contiguous block, with a backward pass written
out.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

ROPE_THETA = 10_000.0
BALANCE, Z = 0.01, 1e-3
"""Factors of the losses that train OLMoE's router beside the cross-entropy."""
BIAS_STEP = 1e-3
"""Step of the selection bias that balances DeepSeek-V3's router."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a model of a family: "olmoe" or "deepseek_v3", the `model_type` of its config.json."""

    family: str = "olmoe"
    vocabulary: int = 2048
    hidden: int = 192
    layers: int = 4
    heads: int = 6
    experts: int = 32
    top_k: int = 4
    intermediate: int = 96
    context: int = 512
    epsilon: float = 1e-5
    shared: int = 0
    """Experts that every token runs (DeepSeek-V3)."""
    scale: float = 1.0
    """Factor on the weights of the chosen (DeepSeek-V3)."""
    latent: int = 0
    """Dimensions that keys and values of a token are made from (DeepSeek-V3)."""
    plain_dim: int = 0
    """Dimensions of a query and a key without position (DeepSeek-V3); a value has as many as OLMoE's."""
    rope_dim: int = 0
    """Dimensions of a query and a key that are rotated (DeepSeek-V3)."""

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    def config(self, end_of_text: int) -> dict:
        """config.json as `transformers` and other readers of such checkpoints expect it."""
        return {
            "architectures": [{"olmoe": "OlmoeForCausalLM", "deepseek_v3": "DeepseekV3ForCausalLM"}[self.family]],
            "model_type": self.family,
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "num_experts_per_tok": self.top_k,
            **{"olmoe": self.config_olmoe, "deepseek_v3": self.config_deepseek}[self.family](),
            "hidden_act": "silu",
            "max_position_embeddings": self.context,
            "rms_norm_eps": self.epsilon,
            "rope_theta": ROPE_THETA,
            "rope_scaling": None,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "tie_word_embeddings": False,
            "output_router_logits": False,
            "use_cache": True,
            "initializer_range": 0.02,
            "bos_token_id": None,
            "eos_token_id": end_of_text,
            "pad_token_id": end_of_text,
            "torch_dtype": "float16",
        }

    def config_olmoe(self) -> dict:
        return {
            "intermediate_size": self.intermediate,
            "num_experts": self.experts,
            "norm_topk_prob": False,
            "clip_qkv": None,
            "router_aux_loss_coef": BALANCE,
        }

    def config_deepseek(self) -> dict:
        return {
            # Of dense layers, of which there is none.
            "intermediate_size": self.intermediate * (self.top_k + self.shared),
            "first_k_dense_replace": 0,
            "moe_layer_freq": 1,
            "moe_intermediate_size": self.intermediate,
            "n_routed_experts": self.experts,
            "n_shared_experts": self.shared,
            "n_group": 1,
            "topk_group": 1,
            "topk_method": "noaux_tc",
            "scoring_func": "sigmoid",
            "norm_topk_prob": True,
            "routed_scaling_factor": self.scale,
            "q_lora_rank": None,
            "kv_lora_rank": self.latent,
            "qk_nope_head_dim": self.plain_dim,
            "qk_rope_head_dim": self.rope_dim,
            "v_head_dim": self.head_dim,
            "rope_interleave": True,
            "num_nextn_predict_layers": 0,
        }


SHAPES = {
    "olmoe-8m": Shape(),
    # Every width halved.
    "olmoe-2m": Shape(hidden=96, heads=3, intermediate=48),
    # As many parameters as olmoe-8m, and as many that run: six and two experts of half the size for four.
    "deepseek-8m": Shape(
        family="deepseek_v3",
        experts=64,
        top_k=6,
        shared=2,
        intermediate=48,
        scale=2.5,
        latent=64,
        plain_dim=16,
        rope_dim=16,
        epsilon=1e-6,
    ),
}
"""The models by name."""


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def apart(x: torch.Tensor) -> torch.Tensor:
    """Pairs (x0, x1), (x2, x3), … to the halves that `rotate` takes: DeepSeek-V3's order of dimensions."""
    return torch.cat((x[..., 0::2], x[..., 1::2]), -1)


class Norm(nn.Module):
    def __init__(self, width: int, epsilon: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.epsilon)


def heads(x: torch.Tensor, count: int) -> torch.Tensor:
    """[B, S, count d] -> [B, count, S, d]."""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


class Attention(nn.Module):
    """OLMoE's: all heads have keys and values of their own, queries and keys are normalised over all heads."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, nn.Linear(shape.hidden, shape.hidden, bias=False))
        self.q_norm = Norm(shape.hidden, shape.epsilon)
        self.k_norm = Norm(shape.hidden, shape.epsilon)

    def forward(self, x, cos, sin):
        q = rotate(heads(self.q_norm(self.q_proj(x)), self.shape.heads), cos, sin)
        k = rotate(heads(self.k_norm(self.k_proj(x)), self.shape.heads), cos, sin)
        v = heads(self.v_proj(x), self.shape.heads)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class LatentAttention(nn.Module):
    """DeepSeek-V3's: keys and values from a latent of few dimensions, positions in dimensions that all heads share."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        value = shape.head_dim
        self.q_proj = nn.Linear(shape.hidden, shape.heads * (shape.plain_dim + shape.rope_dim), bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(shape.hidden, shape.latent + shape.rope_dim, bias=False)
        self.kv_a_layernorm = Norm(shape.latent, 1e-6)
        self.kv_b_proj = nn.Linear(shape.latent, shape.heads * (shape.plain_dim + value), bias=False)
        self.o_proj = nn.Linear(shape.heads * value, shape.hidden, bias=False)

    def forward(self, x, cos, sin):
        shape = self.shape
        q, q_rope = heads(self.q_proj(x), shape.heads).split((shape.plain_dim, shape.rope_dim), -1)
        latent, k_rope = self.kv_a_proj_with_mqa(x).split((shape.latent, shape.rope_dim), -1)
        expanded = heads(self.kv_b_proj(self.kv_a_layernorm(latent)), shape.heads)
        k, v = expanded.split((shape.plain_dim, shape.head_dim), -1)
        k_rope = rotate(apart(k_rope).unsqueeze(1), cos, sin).expand(-1, shape.heads, -1, -1)
        q, k = torch.cat((q, rotate(apart(q_rope), cos, sin)), -1), torch.cat((k, k_rope), -1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class GroupedSwiGlu(torch.autograd.Function):
    """Rows of x [P, H], sorted by expert, through their experts; ends[e] is the end of expert e's rows.

    out = down[e] (silu(gate[e] x) * (up[e] x)). Written by hand because one autograd graph of many small products costs
    more than the products.
    """

    @staticmethod
    def forward(ctx, x, gate_up, down, ends):
        blocks = [slice(start, end) for start, end in zip([0, *ends], ends)]
        both = x.new_empty(x.shape[0], gate_up.shape[1])
        out = x.new_empty(x.shape[0], down.shape[1])
        for expert, rows in enumerate(blocks):
            torch.mm(x[rows], gate_up[expert].t(), out=both[rows])
        gate, up = both.chunk(2, -1)
        inner = F.silu(gate) * up
        for expert, rows in enumerate(blocks):
            torch.mm(inner[rows], down[expert].t(), out=out[rows])
        ctx.save_for_backward(x, gate_up, down, both, inner)
        ctx.blocks = blocks
        return out

    @staticmethod
    def backward(ctx, d_out):
        x, gate_up, down, both, inner = ctx.saved_tensors
        d_out = d_out.contiguous()
        d_inner, d_down = torch.empty_like(inner), torch.empty_like(down)
        for expert, rows in enumerate(ctx.blocks):
            torch.mm(d_out[rows], down[expert], out=d_inner[rows])
            torch.mm(d_out[rows].t(), inner[rows], out=d_down[expert])
        gate, up = both.chunk(2, -1)
        d_both = torch.empty_like(both)
        d_gate, d_up = d_both.chunk(2, -1)
        torch.mul(d_inner, F.silu(gate), out=d_up)
        d_gate.copy_(torch.ops.aten.silu_backward(d_inner * up, gate))
        d_x, d_gate_up = torch.empty_like(x), torch.empty_like(gate_up)
        for expert, rows in enumerate(ctx.blocks):
            torch.mm(d_both[rows], gate_up[expert], out=d_x[rows])
            torch.mm(d_both[rows].t(), x[rows], out=d_gate_up[expert])
        return d_x, d_gate_up, d_down, None


class Experts(nn.Module):
    """gate_up_proj [E, 2 I, H] and down_proj [E, H, I], as in `transformers`."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.gate_up_proj = nn.Parameter(torch.empty(shape.experts, 2 * shape.intermediate, shape.hidden))
        self.gate_up_proj.stacked = 2  # for the optimizer: two matrices, not one
        self.down_proj = nn.Parameter(torch.empty(shape.experts, shape.hidden, shape.intermediate))

    def forward(self, x, chosen, weights):
        """x [N, H], chosen and weights [N, k] -> [N, H]. No token is dropped."""
        tokens, top_k = chosen.shape
        order = torch.argsort(chosen.flatten())
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        ends = torch.bincount(chosen.flatten(), minlength=self.shape.experts).cumsum(0).tolist()
        out = GroupedSwiGlu.apply(x.index_select(0, order // top_k), self.gate_up_proj, self.down_proj, ends)
        picked = out.index_select(0, place).view(tokens, top_k, -1)
        return torch.bmm(weights.unsqueeze(1), picked).squeeze(1)


class Router(nn.Module):
    """OLMoE's: the best of a softmax over all, their shares as they are; losses keep the experts evenly used."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.weight = nn.Parameter(torch.empty(shape.experts, shape.hidden))

    def forward(self, x):
        """x [N, H] -> logits [N, E], weights and chosen experts [N, k]."""
        logits = F.linear(x, self.weight)
        weights, chosen = self.shares(logits).topk(self.shape.top_k, -1)
        return logits, weights, chosen

    def shares(self, logits):
        """What each expert has of a token, in all 1."""
        return logits.softmax(-1)

    def ranking(self, logits):
        """What the chosen are the largest of."""
        return self.shares(logits)

    def loss(self, logits, chosen):
        """Switch Transformer's load-balancing loss (equations 4-6; k at perfect balance) and the mean squared
        log-sum-exp of the logits (ST-MoE, equation 5), each with its factor."""
        used = torch.bincount(chosen.reshape(-1), minlength=self.shape.experts) / logits.shape[0]
        balance = self.shape.experts * (used * self.shares(logits).mean(0)).sum()
        return BALANCE * balance + Z * logits.logsumexp(-1).square().mean()

    def rebalance(self, load: torch.Tensor, factor: float):
        """After a step, in which expert e was chosen load[e] times."""


class SigmoidRouter(Router):
    """DeepSeek-V3's: each expert's sigmoid on its own, weights that sum to `scale`, and a bias that takes part in the
    choice alone and is moved after each step towards even use (arXiv 2408.15664)."""

    def __init__(self, shape: Shape):
        super().__init__(shape)
        self.register_buffer("e_score_correction_bias", torch.zeros(shape.experts))

    def forward(self, x):
        logits = F.linear(x, self.weight)
        scores = logits.sigmoid()
        chosen = (scores + self.e_score_correction_bias).topk(self.shape.top_k, -1).indices
        weights = scores.gather(-1, chosen)
        return logits, weights * (self.shape.scale / (weights.sum(-1, keepdim=True) + 1e-20)), chosen

    def shares(self, logits):
        scores = logits.sigmoid()
        return scores / scores.sum(-1, keepdim=True)

    def ranking(self, logits):
        return logits.sigmoid() + self.e_score_correction_bias

    def loss(self, logits, chosen):
        return 0.0

    def rebalance(self, load, factor):
        self.e_score_correction_bias += BIAS_STEP * factor * (load.mean() - load).sign()


class SharedExperts(nn.Module):
    """The experts that every token runs, side by side in one."""

    def __init__(self, shape: Shape):
        super().__init__()
        inner = shape.shared * shape.intermediate
        self.gate_proj = nn.Linear(shape.hidden, inner, bias=False)
        self.up_proj = nn.Linear(shape.hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, shape.hidden, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class MoeBlock(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.gate = {"olmoe": Router, "deepseek_v3": SigmoidRouter}[shape.family](shape)
        self.experts = Experts(shape)
        self.shared_experts = SharedExperts(shape) if shape.shared else None


class Layer(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.input_layernorm = Norm(shape.hidden, shape.epsilon)
        self.self_attn = {"olmoe": Attention, "deepseek_v3": LatentAttention}[shape.family](shape)
        self.post_attention_layernorm = Norm(shape.hidden, shape.epsilon)
        self.mlp = MoeBlock(shape)


def attend_and_route(layer: Layer, x, cos, sin):
    """All but the chosen experts: x [B, S, H] -> x, the experts' input [N, H], router logits [N, E], weights, choice
    [N, k]."""
    x = x + layer.self_attn(layer.input_layernorm(x), cos, sin)
    normed = layer.post_attention_layernorm(x).view(-1, x.shape[-1])
    logits, weights, chosen = layer.mlp.gate(normed)
    if layer.mlp.shared_experts is not None:
        x = x + layer.mlp.shared_experts(normed).view_as(x)
    return x, normed, logits, weights, chosen


class Body(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.hidden, shape.epsilon)


class Model(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.model = Body(shape)
        self.lm_head = nn.Linear(shape.hidden, shape.vocabulary, bias=False)
        size = shape.rope_dim or shape.head_dim
        frequencies = ROPE_THETA ** (-torch.arange(0, size, 2, dtype=torch.float32) / size)
        angles = torch.arange(shape.context, dtype=torch.float32)[:, None] * frequencies
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                std = 0.02 if "embed" in name or "gate.weight" in name else parameter.shape[-1] ** -0.5
                # The two projections that write to the residual stream start smaller, by the number of writes.
                if name.endswith(("o_proj.weight", "down_proj", "down_proj.weight")):
                    std *= (2 * shape.layers) ** -0.5
                nn.init.trunc_normal_(parameter, std=std, a=-3 * std, b=3 * std)

    def forward(self, tokens, attend=attend_and_route):
        """tokens [B, S] -> hidden [B, S, H] before the last norm, router logits [L][N, E], chosen experts [L][N, k]."""
        x = self.model.embed_tokens(tokens)
        cos, sin = self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]]
        router_logits, choices = [], []
        for layer in self.model.layers:
            x, normed, logits, weights, chosen = attend(layer, x, cos, sin)
            x = x + layer.mlp.experts(normed, chosen, weights).view_as(x)
            router_logits.append(logits)
            choices.append(chosen)
        return x, router_logits, choices

    def logits(self, hidden):
        return self.lm_head(self.model.norm(hidden))

    def routers(self) -> list[Router]:
        return [layer.mlp.gate for layer in self.model.layers]


def training_loss(model: Model, hidden, targets, router_logits, choices):
    """Loss to minimize, and the cross-entropy in nats per token within it."""
    cross_entropy = F.cross_entropy(model.logits(hidden).flatten(0, 1), targets.flatten())
    of_routers = sum(map(lambda router, *of: router.loss(*of), model.routers(), router_logits, choices))
    return cross_entropy + of_routers / len(choices), cross_entropy
