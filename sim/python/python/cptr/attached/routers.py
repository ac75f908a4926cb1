"""The routers of a model: found by what they are, read by a probe, described by what they did."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import _cptr
from .._cptr import UnsupportedError, UsageError
from .describe import Description, Seen, attribute, bias_of, describe, null_experts
from .forced import chooser
from .forms import BEHIND, Form, form, hooked

PROBE_TOKENS = 24
NAMES = re.compile(r"(Router|TopKGating)$")
# Many other things are gates.
GATES = re.compile(r"Gate$")
TABLE = "tid2eid"
"""What routers that look experts up by token id call their table."""
COUNTS = ("num_experts", "n_routed_experts", "num_local_experts", "n_total_experts")


@dataclass(frozen=True)
class Router:
    """One router of the model."""

    name: str
    module: nn.Module
    layer: int
    """The model's own number of its layer."""
    form: Form
    bias: np.ndarray | None
    """[S]."""
    topk: int | None
    """Which of its calls of topk chooses; None: none does."""
    experts: nn.Module | None
    """What is given its choice, where it does not return it (`forms.hooked`)."""


@dataclass(frozen=True)
class Routers:
    """All routers that are alike, in the order in which a forward pass asks them."""

    all: list[Router]
    description: Description
    experts: int
    null: int
    k: int
    scale: list[np.ndarray] | None
    """Factor on each expert's weight, [L][S]."""
    notes: list[str]

    @property
    def layer_ids(self) -> list[int]:
        return [router.layer for router in self.all]

    def bias(self) -> list[float]:
        """[L * S], or nothing where no router has one."""
        if all(router.bias is None for router in self.all):
            return []
        zeros = np.zeros(self.experts + self.null, np.float32)
        every: list[float] = np.concatenate([zeros if r.bias is None else r.bias for r in self.all]).tolist()
        return every


def is_router(module: nn.Module) -> bool:
    """Whether a module is called as routers are, and knows how many experts there are."""
    name = type(module).__name__
    if NAMES.search(name):
        return True
    return GATES.search(name) is not None and (attribute(module, COUNTS) is not None or hasattr(module, "top_k"))


def candidates(model: nn.Module, names: Sequence[str] | None) -> dict[str, nn.Module]:
    """The modules asked for, or all that are called as routers are; of an encoder and decoder the decoder's, and none
    that choose parts of attention (JetMoE), which are other experts."""
    modules = dict(model.named_modules())
    if names is not None:
        missing = [name for name in names if name not in modules]
        if missing or not names:
            raise UsageError(f"routers: expected names of the model's modules, found {missing or 'none'}")
        return {name: modules[name] for name in names}
    found = {name: module for name, module in modules.items() if is_router(module)}
    if getattr(model.config, "is_encoder_decoder", False):
        found = {name: module for name, module in found.items() if ".encoder." not in f".{name}"}
    attention = [name for name, module in modules.items() if type(module).__name__.endswith("Attention")]
    inside = tuple(f"{name}." for name in attention if name)
    found = {name: module for name, module in found.items() if not name.startswith(inside)}
    if not found:
        kind = getattr(model.config, "model_type", type(model).__name__)
        raise UnsupportedError(f"{kind}: expected a model with routers, found none among its {len(modules)} modules")
    return found


def layer_number(name: str, before: int) -> int:
    """The number in a module's name that is its layer's; else how many routers come before."""
    numbers = [int(part) for part in name.split(".") if part.isdigit()]
    return numbers[0] if numbers else before


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without gradients, dropout and noise; every module's mode is restored."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def text_config(model: nn.Module) -> Any:
    """The configuration of a model, or of the part of it that reads text."""
    config: Any = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def probe_inputs(model: nn.Module, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """A few tokens that are the same in every run, in the form that the model takes."""
    if given is not None:
        return dict(given)
    config = text_config(model)
    size = getattr(config, "vocab_size", None)
    if size is None:
        raise UnsupportedError("the model's vocabulary is not known: give probe=dict(input_ids=…)")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, size, (1, PROBE_TOKENS), generator=generator)
    ids = ids.to(next(model.parameters()).device)
    inputs: dict[str, Any] = {"input_ids": ids}
    if getattr(model.config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = ids
    if "use_cache" in inspect.signature(model.forward).parameters or hasattr(config, "use_cache"):
        inputs["use_cache"] = False
    return inputs


def behind(model: nn.Module, name: str, module: nn.Module) -> nn.Module | None:
    """The experts that are given a router's choice, where it does not return it."""
    child = BEHIND.get(type(module).__name__)
    return None if child is None else model.get_submodule(f"{name.rpartition('.')[0]}.{child}")


Call = tuple[tuple[Any, ...], dict[str, Any], Any]


def probed(model: nn.Module, modules: Mapping[str, nn.Module], inputs: Mapping[str, Any]) -> dict[str, Call]:
    """What each of some modules was given and returned, in the order in which they ran."""
    calls: dict[str, Call] = {}

    def remember(name: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            calls[name] = (args, kwargs, output)

        return hook

    hooks = [
        handle
        for name, module in modules.items()
        for handle in hooked(module, behind(model, name, module), remember(name))
    ]
    try:
        with evaluating(model):
            model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def find(model: nn.Module, names: Sequence[str] | None, probe: Mapping[str, Any] | None) -> Routers:
    """The routers of a model and their description; refused, with a name, where one does not choose as described."""
    modules = candidates(model, names)
    calls = probed(model, modules, probe_inputs(model, probe))
    if not calls:
        raise UnsupportedError(
            f"{next(iter(modules))}: expected routers to run, found that a forward pass asks none of {len(modules)}"
        )
    config = text_config(model)
    routers: list[Router] = []
    seen: list[Seen] = []
    shapes: list[tuple[int, int]] = []
    coarse = False
    for name, (args, kwargs, output) in calls.items():
        module = modules[name]
        of, experts = form(name, module, output), behind(model, name, module)
        if experts is not None:
            of = replace(of, name="logits; weights, ids of what experts are given")
        with torch.no_grad():
            logits, weights, ids = of.take(output)
            with evaluating(module):
                topk = chooser(lambda: module.forward(*args, **kwargs), ids)
        coarse |= weights.dtype == torch.bfloat16 or logits.dtype == torch.bfloat16
        bias = bias_of(module, args, kwargs, logits.shape[-1])
        as_float = logits.detach().float().cpu().numpy()
        seen.append(Seen(as_float, weights.detach().float().cpu().numpy(), ids.detach().long().cpu().numpy(), bias))
        routers.append(Router(name, module, layer_number(name, len(routers)), of, bias, topk, experts))
        shapes.append((as_float.shape[1], ids.shape[-1]))
    # Where parts of a model have routers of their own, those that are most.
    notes = []
    shape = max(dict.fromkeys(shapes), key=shapes.count)
    kept = [at for at, found in enumerate(shapes) if found == shape]
    if len(kept) < len(routers):
        others = [routers[at].name for at in range(len(routers)) if at not in kept]
        notes.append(f"left out, as they have other sizes than the rest: {', '.join(others)}")
    routers, seen = [routers[at] for at in kept], [seen[at] for at in kept]
    first = routers[0]
    scale = None
    factors = [getattr(router.module, "per_expert_scale", None) for router in routers]
    if isinstance(factors[0], torch.Tensor):
        scale = [factor.detach().float().cpu().numpy() for factor in factors if factor is not None]
    null = null_experts(first.module, config)
    # Layers that look their experts up have logits that decide weights alone.
    tables = [router.layer for router in routers if hasattr(router.module, TABLE)]
    chosen = [at for at, router in enumerate(routers) if not hasattr(router.module, TABLE)]
    if not chosen or tables and max(tables) > min(routers[at].layer for at in chosen):
        raise UnsupportedError(f"{first.name}: expected layers with a table of experts before all others")
    scales = [None if scale is None else scale[at] for at in chosen]
    description = common([routers[at] for at in chosen], config, [seen[at] for at in chosen], scales, coarse)
    if tables:
        text = _cptr.canonical(f"{description.text}:table={max(tables) + 1}")
        description = replace(description, text=text)
    return Routers(routers, description, shape[0] - null, null, shape[1], scale, notes)


def common(
    routers: list[Router], config: Any, seen: list[Seen], scales: list[np.ndarray | None], coarse: bool
) -> Description:
    """One description for all layers: the same for each, or one that explains all of them together."""
    described = [
        describe(router.name, router.module, config, [one], scale, coarse)
        for router, one, scale in zip(routers, seen, scales)
    ]
    if len({one.text for one in described}) == 1:
        return Description(
            described[0].text,
            sum(one.explained for one in described),
            sum(one.total for one in described),
            all(one.weighs for one in described),
        )
    return describe(routers[0].name, routers[0].module, config, seen, scales[0], coarse)
