"""What a router returns: where in it logits, weights and ids are, and how others are put in their place.

Most routers of `transformers` return (logits [N, S], weights [N, k], ids [N, k]) for N tokens, in some order and with
more behind; those that do not are in `BY_CLASS`. Some return logits alone, and the choice is made between them and the
experts (DBRX): there it is taken from what the experts are given (`hooked`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from .._cptr import UnsupportedError
from .describe import attribute

Output = Any
Taken = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Form:
    """Reads the answer of one kind of router."""

    name: str
    """For people: what is where."""
    take: Callable[[Output], Taken]
    """(logits [N, S], weights [N, k], ids [N, k]); ids from E on are null experts."""
    put: Callable[[Output, torch.Tensor, torch.Tensor], Output] | None
    """The answer with other (weights, ids); None: only the router itself can say it (`forced.py`)."""
    recomputed: bool = False
    """Whether the ids are made of the logits here, as the answer has none."""


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


def _is_probabilities(logits: torch.Tensor) -> bool:
    sums = logits.float().sum(-1)
    return bool((logits >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-2))


def _standard(output: Output) -> Form | None:
    """A tuple in which one tensor has whole numbers; weights are as many floats, logits more of them."""
    if not isinstance(output, tuple) or not all(isinstance(part, torch.Tensor) or part is None for part in output):
        return None
    whole = [at for at, part in enumerate(output) if part is not None and part.dtype in (torch.int64, torch.int32)]
    if len(whole) != 1 or output[whole[0]].ndim < 2:
        return None
    ids = output[whole[0]]
    rows, k = ids.numel() // ids.shape[-1], ids.shape[-1]
    floats = [at for at, part in enumerate(output) if part is not None and part.is_floating_point() and part.ndim >= 2]
    same = [at for at in floats if output[at].shape == ids.shape]
    more = [at for at in floats if output[at].shape[-1] > k and output[at].numel() == rows * output[at].shape[-1]]
    if not same or not more:
        return None
    # Of several, weights stand next to the ids, logits first.
    z, w, i = more[0], min(same, key=lambda at: abs(at - whole[0])), whole[0]
    shares = _is_probabilities(output[z])

    def take(output: Output) -> Taken:
        logits = _rows(output[z])
        return (logits.float().log() if shares else logits), _rows(output[w]), _rows(output[i])

    def put(output: Output, weights: torch.Tensor, ids: torch.Tensor) -> Output:
        parts = list(output)
        parts[w], parts[i] = weights.view_as(parts[w]).to(parts[w].dtype), ids.view_as(parts[i]).to(parts[i].dtype)
        return tuple(parts)

    named = {z: "probabilities" if shares else "logits", w: "weights", i: "ids"}
    return Form(", ".join(named.get(at, "…") for at in range(len(output))), take, put)


def _top_1(module: nn.Module, output: Output) -> Form:
    """Switch: one-hot choice [B, T, E], its probability, logits.

    The choice is taken from the logits: the one-hot is all zero for a token that its expert has no room for.
    """

    def take(output: Output) -> Taken:
        logits = _rows(output[2])
        return logits, output[1].reshape(-1, 1), logits.argmax(-1, keepdim=True)

    def put(output: Output, weights: torch.Tensor, ids: torch.Tensor) -> Output:
        hot, shares, logits = output
        full = hot.sum(-1, keepdim=True) == 0
        new = nn.functional.one_hot(ids.view(hot.shape[:-1]), hot.shape[-1]).to(hot.dtype).masked_fill(full, 0)
        return new, weights.view_as(shares).to(shares.dtype), logits

    return Form("one-hot choice, probability, logits", take, put, recomputed=True)


def _llama4(module: nn.Module, output: Output) -> Form:
    """Llama 4: weights of all experts [N, E], those of the others 0, and logits."""
    k = module.top_k

    def take(output: Output) -> Taken:
        scores, logits = output
        ids = logits.topk(k, dim=-1).indices
        return logits, scores.gather(-1, ids), ids

    def put(output: Output, weights: torch.Tensor, ids: torch.Tensor) -> Output:
        scores, logits = output
        return torch.zeros_like(scores).scatter(-1, ids, weights.to(scores.dtype)), logits

    return Form("weights of all experts, logits", take, put, recomputed=True)


def _zaya(module: nn.Module, output: Output) -> Form:
    """Zaya: the last score means no expert, for which the router says expert 0 with weight 0."""
    experts = int(attribute(module, ("num_experts",)))

    def take(output: Output) -> Taken:
        logits, weights, ids = (_rows(part) for part in output[:3])
        return logits, weights, ids.masked_fill(weights == 0, experts)

    return Form("logits, weights, ids (0 with weight 0: none), …", take, None)


def _by_expert(module: nn.Module, output: Output) -> Form:
    """JetMoE: places of all choices (token times k) sorted by expert, their tokens and weights, how many each expert
    has, and logits."""

    k = int(attribute(module, ("top_k",)))

    def take(output: Output) -> Taken:
        places, _, weights, sizes, logits = output
        experts = torch.arange(len(sizes), device=places.device)
        ids = torch.empty_like(places)
        ids[places] = experts.repeat_interleave(torch.tensor(sizes, device=places.device))
        placed = torch.empty_like(weights)
        placed[places] = weights
        return _rows(logits), placed.view(-1, k), ids.view(-1, k)

    return Form("choices sorted by expert, logits", take, None)


BY_CLASS: dict[str, Callable[[nn.Module, Output], Form]] = {
    "JetMoeTopKGating": _by_expert,
    "SwitchTransformersTop1Router": _top_1,
    "Llama4Router": _llama4,
    "ZayaRouter": _zaya,
}


# Routers that return logits alone, and the module next to them that is given what is chosen.
BEHIND = {"DbrxRouter": "experts"}

Hook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Output], Any]
"""(router, its arguments, by name, its answer): another answer, or None."""


def hooked(module: nn.Module, experts: nn.Module | None, hook: Hook) -> list[RemovableHandle]:
    """Calls a hook with each answer of a router.

    Where a router returns logits [N, S] alone, the answer is (logits, weights, ids), with what `experts`, called with
    (inputs, ids, weights), are given; another answer is given to them in its place.
    """
    if experts is None:
        return [module.register_forward_hook(hook, with_kwargs=True)]
    asked: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any], Output]] = []

    def remember(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Output) -> None:
        asked[:] = [(module, args, kwargs, output)]

    def choose(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        router, given, named, logits = asked.pop()
        changed = hook(router, given, named, (logits, args[2], args[1]))
        return None if changed is None else (args[0], changed[2], changed[1], *args[3:])

    return [
        module.register_forward_hook(remember, with_kwargs=True),
        experts.register_forward_pre_hook(choose),
    ]


def form(name: str, module: nn.Module, output: Output) -> Form:
    """The form of a router's answer; refused with its name where it is none of a router."""
    of_class = BY_CLASS.get(type(module).__name__)
    found = of_class(module, output) if of_class else _standard(output)
    if found is None:
        kind = type(module).__name__
        raise UnsupportedError(
            f"{name}: expected a router that returns logits, weights and ids, found {kind} that returns {_said(output)}"
        )
    return found


def _said(output: Output) -> str:
    if isinstance(output, torch.Tensor):
        return f"{str(output.dtype).removeprefix('torch.')} {list(output.shape)}"
    if isinstance(output, tuple):
        return f"({', '.join(_said(part) for part in output)})"
    return type(output).__name__
