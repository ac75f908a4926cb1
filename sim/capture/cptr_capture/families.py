"""What differs between model families. A new family is one entry of `FAMILIES`."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

ALL = "softmax-all"
SELECTED = "softmax-selected"


class CaptureError(Exception):
    """Something that the caller can mend, in one sentence."""


@dataclass(frozen=True)
class Family:
    """How a family routes.

    In every family of `transformers` 5 the router is a module of its own that returns (logits [N, E], weights [N, k],
    expert ids [N, k]) for N tokens; only its name and the meaning of the weights differ.
    """

    router: str
    """The router's name within a decoder layer."""
    experts: str
    """The configuration's name for the number of experts."""
    convention: Callable[[PretrainedConfig], str]
    """The router convention of docs/traces.md that the weights follow."""
    scale: Callable[[PretrainedConfig], float] = lambda config: 1.0
    """A constant factor in the model's weights, which the trace leaves out."""


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


def describe(model: PreTrainedModel) -> Description:
    """The routers of a model, in the order of the layers; dense layers are left out.

    Raises CaptureError for a family that is not known or a model without MoE layers.
    """
    config = model.config
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise CaptureError(f"model type {config.model_type!r} is not supported; known are {', '.join(FAMILIES)}")
    routers, layer_ids = [], []
    for number, layer in enumerate(model.get_decoder().layers):
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
    if getattr(config, "topk_method", None) == "group_limited_greedy":
        notes.append(f"experts chosen within the best {config.topk_group} of {config.n_group} groups")
    return Description(
        routers,
        layer_ids,
        getattr(config, family.experts),
        config.num_experts_per_tok,
        family.convention(config),
        scale,
        notes,
    )
