"""Which router description explains what a model's routers chose and weighed.

The description (docs/traces.md) is not looked up by family: those that the router's attributes allow are tried on what
the routers did with a probe, and the first that gives the same ids and the same weights is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import _cptr

ENOUGH = 0.99
"""Share of the sets that a description must explain."""
SCORES = ("softmax-selected", "softmax-all", "sigmoid", "sqrt-softplus", "sparse-mixer")
# Names that routers have for the same thing.
GROUPS = ("num_group", "n_group", "n_groups", "num_groups")
OPEN = ("topk_group", "top_groups", "topk_groups")
BIASES = ("e_score_correction_bias", "balancing_biases", "expert_bias", "moe_statics.e_score_correction_bias")
BIAS_ARGUMENTS = ("e_score_correction_bias", "expert_bias", "bias")


@dataclass(frozen=True)
class Seen:
    """What one router did with a probe: logits [N, S], weights [N, k], ids [N, k], and its bias [S] or nothing."""

    logits: np.ndarray
    weights: np.ndarray
    ids: np.ndarray
    bias: np.ndarray | None


@dataclass(frozen=True)
class Description:
    """A router as docs/traces.md writes it, and what it explains."""

    text: str
    explained: int
    total: int
    weighs: bool
    """Whether the weights follow from it too."""


def attribute(module: Any, names: tuple[str, ...]) -> Any:
    """The first of some attributes, with dots into parts, that there is and is not None."""
    for name in names:
        value = module
        for part in name.split("."):
            value = getattr(value, part, None)
        if value is not None:
            return value
    return None


def bias_of(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], scored: int) -> np.ndarray | None:
    """What a router adds for its choice: its own, or what it is handed."""
    own = attribute(module, BIASES)
    handed = next((kwargs[name] for name in BIAS_ARGUMENTS if kwargs.get(name) is not None), None)
    vectors = [a for a in args[1:] if isinstance(a, torch.Tensor) and a.is_floating_point()]
    for bias in (own, handed, *vectors):
        if isinstance(bias, torch.Tensor) and bias.numel() == scored:
            found: np.ndarray = bias.detach().float().cpu().reshape(-1).numpy()
            return found
    return None


def null_experts(module: nn.Module, config: Any) -> int:
    """Scores that mean no expert, behind the others."""
    classes = getattr(module, "num_router_classes", None)
    if classes is not None:
        return int(classes - attribute(module, ("num_experts",)))
    return int(getattr(config, "zero_expert_num", None) or 0) if hasattr(module, "n_routed_experts") else 0


def candidates(module: nn.Module, scored: int, biased: bool, null: int) -> list[str]:
    """Descriptions without scale, the plainest first."""
    groups, top = attribute(module, GROUPS) or 1, attribute(module, OPEN) or 1
    cuts = [""]
    if 1 < groups < scored and scored % groups == 0 and top < groups:
        cuts = [f":{groups}:{top}:rating=two", f":{groups}:{top}:rating=best", *cuts]
    places = [":bias=choice", ""] if biased else [""]
    tail = f":null={null}" if null else ""
    found = []
    for cut in cuts:
        for score in SCORES:
            head = score + (cut or (":1:1" if score == "sigmoid" else ""))
            if score == "sparse-mixer":
                head = f"sparse-mixer:jitter={getattr(module, 'router_jitter_noise', 0.01)}"
            for place in reversed(places):
                fixed = score in ("sparse-mixer", "softmax-selected")
                for divided in [""] if fixed else [":renormalise=on", ":renormalise=off"]:
                    found.append(_cptr.canonical(head + place + divided + tail))
    return list(dict.fromkeys(found))


def _weights_of(text: str, seen: Seen) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose sets agree, and the weights of the description there, in the order of the router's ids."""
    k, scored = seen.ids.shape[1], seen.logits.shape[1]
    ids, weights = _cptr.choose(text, seen.logits, k, [] if seen.bias is None else seen.bias.tolist())
    table = np.full((len(ids), scored + 1), np.nan, np.float32)
    np.put_along_axis(table, np.minimum(ids, scored).astype(np.int64), weights, 1)
    given = np.take_along_axis(table, np.where(seen.ids < 0, scored, seen.ids), 1)
    return ~np.isnan(given).any(1), given


def scale_of(text: str, seen: list[Seen], scale: np.ndarray | None, tolerance: float) -> float | None:
    """The one factor between the weights and those of a description; None if there is none."""
    parts: list[np.ndarray] = []
    for one in seen:
        agree, given = _weights_of(text, one)
        weights = one.weights if scale is None else one.weights / scale[np.maximum(one.ids, 0)]
        null = int(text.rsplit("null=")[1]) if "null=" in text else 0
        counts = (given > 1e-4) & agree[:, None] & (one.ids < one.logits.shape[1] - null)
        parts.append((weights[counts] / given[counts]).ravel())
    ratios = np.concatenate(parts)
    if not len(ratios):
        return None
    middle = float(np.median(ratios))
    if not middle > 0 or (np.abs(ratios / middle - 1) < tolerance).mean() < ENOUGH:
        return None
    return 1.0 if abs(middle - 1) < tolerance / 2 else middle


def explained(text: str, seen: list[Seen], tolerance: float) -> int:
    """Sets that a description would choose."""
    count = 0
    for one in seen:
        bias = [] if one.bias is None else one.bias.tolist()
        count += _cptr.explained(text, one.logits, one.ids, bias, tolerance)
    return count


def describe(
    name: str, module: nn.Module, config: Any, seen: list[Seen], scale: np.ndarray | None, coarse: bool
) -> Description:
    """The description of routers that are alike; refused, with a name, where none explains what they chose.

    `coarse`: logits or weights have eight bits of precision.
    """
    scored, total = seen[0].logits.shape[1], sum(len(one.ids) for one in seen)
    near, alike = (2**-7, 4e-2) if coarse else (1e-5, 2e-3)
    biased = any(one.bias is not None and one.bias.any() for one in seen)
    fitting, best = [], 0
    for text in candidates(module, scored, biased, null_experts(module, config)):
        count = explained(text, seen, near)
        best = max(best, count)
        if count < ENOUGH * total:
            continue
        fitting.append((text, count))
        factor = scale_of(text, seen, scale, alike)
        if factor is not None:
            # As far as the weights tell: the router's own number is the same with more digits.
            own = [attribute(module, (n,)) for n in ("routed_scaling_factor", "router_scaling_factor", "route_scale")]
            exact = [float(v) for v in own if isinstance(v, (int, float)) and abs(v / factor - 1) < alike]
            factor = exact[0] if exact else float(f"{factor:.4g}")
            text += "" if factor == 1 else f":scale={factor:g}"
            return Description(_cptr.canonical(text), count, total, True)
    if not fitting:
        raise _cptr.UnsupportedError(
            f"{name}: expected a choice that a known router makes of the logits, found that {type(module).__name__} "
            f"chose otherwise in {total - best} of {total} sets"
        )
    return Description(*fitting[0], total, False)
