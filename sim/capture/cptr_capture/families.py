"""What differs between model families. A new family is one entry of `FAMILIES`."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

ALL = "softmax-all"
SELECTED = "softmax-selected"


class CaptureError(Exception):
    """Something that the caller can mend, in one sentence."""


@dataclass(frozen=True)
class Family:
    """How a family routes.

    In nearly every family of `transformers` 5 the router is a module of its own that returns (logits [N, E], weights
    [N, k], expert ids [N, k]) for N tokens; only its name and the meaning of the weights differ.
    """

    router: str
    """The router's name within a decoder layer."""
    experts: str
    """The configuration's name for the number of experts."""
    convention: Callable[[PretrainedConfig], str]
    """The router convention of docs/traces.md that the weights follow."""
    scale: Callable[[PretrainedConfig], float] = lambda config: 1.0
    """A constant factor in the model's weights, which the trace leaves out."""
    layers: Callable[[PreTrainedModel], Iterable[nn.Module]] = lambda model: model.get_decoder().layers
    """The layers that may have a router."""
    answer: Callable[[tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]] = lambda output: output
    """(logits, weights, expert ids) of what the router returns."""


def top_1(output: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Of (one-hot choice, its probability, logits), each [B, T, …].

    The choice is taken from the logits: the one-hot is all zero for a token that its expert has no room for.
    """
    _, weights, logits = output
    logits = logits.reshape(-1, logits.shape[-1])
    return logits, weights.reshape(-1, 1), logits.argmax(-1, keepdim=True)


def normalised(config: PretrainedConfig) -> str:
    """Softmax over all experts; divided by the sum of the chosen, it is the softmax over the chosen."""
    return SELECTED if config.norm_topk_prob else ALL


FAMILIES: dict[str, Family] = {
    "olmoe": Family("mlp.gate", "num_experts", normalised),
    "mixtral": Family("mlp.gate", "num_local_experts", lambda config: SELECTED),
    "qwen2_moe": Family("mlp.gate", "num_experts", normalised),
    "qwen3_moe": Family("mlp.gate", "num_experts", normalised),
    "deepseek_v2": Family(
        "mlp.gate", "n_routed_experts", lambda config: ALL, lambda config: config.routed_scaling_factor
    ),
    "gpt_oss": Family("mlp.router", "num_local_experts", lambda config: SELECTED),
    "switch_transformers": Family(
        "mlp.router",
        "num_experts",
        lambda config: ALL,
        layers=lambda model: (block.layer[-1] for block in model.get_decoder().block),
        answer=top_1,
    ),
}


@dataclass(frozen=True)
class Description:
    """The MoE layers of one model."""

    routers: list[nn.Module]
    layer_ids: list[int]
    """Number of each MoE layer among all layers, from 0."""
    experts: int
    top_k: int
    convention: str
    scale: float
    notes: list[str]
    answer: Callable[[tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]]
    """(logits, weights, expert ids) of what a router returns."""


def describe(model: PreTrainedModel) -> Description:
    """The routers of a model, in the order of the layers; dense layers are left out.

    Raises CaptureError for a family that is not known or a model without MoE layers.
    """
    config = model.config
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise CaptureError(f"model type {config.model_type!r} is not supported; known are {', '.join(FAMILIES)}")
    routers, layer_ids = [], []
    for number, layer in enumerate(family.layers(model)):
        block, name = family.router.split(".")
        router = getattr(getattr(layer, block), name, None)
        if isinstance(router, nn.Module):
            routers.append(router)
            layer_ids.append(number)
    if not routers:
        raise CaptureError(f"the {config.model_type} model has no layer with a router at {family.router!r}")
    notes = []
    scale = family.scale(config)
    if scale != 1.0:
        notes.append(f"weights without the model's constant factor {scale:g}")
    if config.is_encoder_decoder:
        notes.append("layers of the decoder, which was given the encoder's text")
    if getattr(config, "topk_method", None) == "group_limited_greedy":
        notes.append(f"experts chosen within the best {config.topk_group} of {config.n_group} groups")
    return Description(
        routers,
        layer_ids,
        getattr(config, family.experts),
        getattr(config, "num_experts_per_tok", 1),
        family.convention(config),
        scale,
        notes,
        family.answer,
    )
