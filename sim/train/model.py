"""The OLMoE architecture for training, with the parameter names of `transformers`' OlmoeForCausalLM.

Same function as `transformers`' implementation (`check.py` compares the logits), other order of work: the (token,
expert) pairs are sorted by expert, so that each expert multiplies one contiguous block, with a backward pass written
out.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

ROPE_THETA = 10_000.0


@dataclass(frozen=True)
class Shape:
    vocabulary: int = 2048
    hidden: int = 192
    layers: int = 4
    heads: int = 6
    experts: int = 32
    top_k: int = 4
    intermediate: int = 96
    context: int = 512
    epsilon: float = 1e-5

    def config(self, end_of_text: int) -> dict:
        """config.json as `transformers` and other readers of OLMoE checkpoints expect it."""
        return {
            "architectures": ["OlmoeForCausalLM"],
            "model_type": "olmoe",
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "num_experts": self.experts,
            "num_experts_per_tok": self.top_k,
            "norm_topk_prob": False,
            "hidden_act": "silu",
            "max_position_embeddings": self.context,
            "rms_norm_eps": self.epsilon,
            "rope_theta": ROPE_THETA,
            "rope_scaling": None,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "clip_qkv": None,
            "tie_word_embeddings": False,
            "router_aux_loss_coef": 0.01,
            "output_router_logits": False,
            "use_cache": True,
            "initializer_range": 0.02,
            "bos_token_id": None,
            "eos_token_id": end_of_text,
            "pad_token_id": end_of_text,
            "torch_dtype": "float16",
        }


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight, epsilon)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


class Attention(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, nn.Linear(shape.hidden, shape.hidden, bias=False))
        self.q_norm = Norm(shape)
        self.k_norm = Norm(shape)

    def forward(self, x, cos, sin):
        batch, length, _ = x.shape

        def split(y):
            return y.view(batch, length, self.shape.heads, -1).transpose(1, 2)

        q = rotate(split(self.q_norm(self.q_proj(x))), cos, sin)
        k = rotate(split(self.k_norm(self.k_proj(x))), cos, sin)
        mixed = F.scaled_dot_product_attention(q, k, split(self.v_proj(x)), is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))


class Norm(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape.hidden))
        self.epsilon = shape.epsilon

    def forward(self, x):
        return rms_norm(x, self.weight, self.epsilon)


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
    def __init__(self, shape: Shape):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape.experts, shape.hidden))


class MoeBlock(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.gate = Router(shape)
        self.experts = Experts(shape)


class Layer(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.input_layernorm = Norm(shape)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = Norm(shape)
        self.mlp = MoeBlock(shape)


def attend_and_route(layer: Layer, x, cos, sin, top_k: int):
    """All but experts: x [B, S, H] -> x, the experts' input [N, H], router logits [N, E], weights, choice [N, k]."""
    x = x + layer.self_attn(layer.input_layernorm(x), cos, sin)
    normed = layer.post_attention_layernorm(x).view(-1, x.shape[-1])
    logits = F.linear(normed, layer.mlp.gate.weight)
    weights, chosen = logits.softmax(-1).topk(top_k, -1)
    return x, normed, logits, weights, chosen


class Body(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = Norm(shape)


class Olmoe(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.model = Body(shape)
        self.lm_head = nn.Linear(shape.hidden, shape.vocabulary, bias=False)
        size = shape.hidden // shape.heads
        frequencies = ROPE_THETA ** (-torch.arange(0, size, 2, dtype=torch.float32) / size)
        angles = torch.arange(shape.context, dtype=torch.float32)[:, None] * frequencies
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                std = 0.02 if "embed" in name or "gate.weight" in name else parameter.shape[-1] ** -0.5
                # The two projections that write to the residual stream start smaller, by the number of writes.
                if name.endswith(("o_proj.weight", "down_proj")):
                    std *= (2 * shape.layers) ** -0.5
                nn.init.trunc_normal_(parameter, std=std, a=-3 * std, b=3 * std)

    def forward(self, tokens, attend=attend_and_route):
        """tokens [B, S] -> hidden [B, S, H] before the last norm, router logits [L][N, E], chosen experts [L][N, k]."""
        x = self.model.embed_tokens(tokens)
        cos, sin = self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]]
        router_logits, choices = [], []
        for layer in self.model.layers:
            x, normed, logits, weights, chosen = attend(layer, x, cos, sin, self.shape.top_k)
            x = x + layer.mlp.experts(normed, chosen, weights).view_as(x)
            router_logits.append(logits)
            choices.append(chosen)
        return x, router_logits, choices

    def logits(self, hidden):
        return self.lm_head(self.model.norm(hidden))


def training_loss(model: Olmoe, hidden, targets, router_logits, choices, balance: float, z: float):
    """Loss to minimize, and the cross-entropy in nats per token within it."""
    cross_entropy = F.cross_entropy(model.logits(hidden).flatten(0, 1), targets.flatten())
    loss = (
        cross_entropy + balance * balance_loss(router_logits, choices, model.shape.experts) + z * z_loss(router_logits)
    )
    return loss, cross_entropy


def balance_loss(router_logits, choices, experts: int) -> torch.Tensor:
    """Switch Transformer's load-balancing loss (equations 4-6), mean over layers; top_k at perfect balance."""
    total = 0.0
    for logits, chosen in zip(router_logits, choices):
        share = torch.bincount(chosen.reshape(-1), minlength=experts) / logits.shape[0]
        total = total + experts * (share * logits.softmax(-1).mean(0)).sum()
    return total / len(router_logits)


def z_loss(router_logits) -> torch.Tensor:
    """Mean squared log-sum-exp of the router logits (ST-MoE, equation 5), mean over layers."""
    return sum(logits.logsumexp(-1).square().mean() for logits in router_logits) / len(router_logits)
