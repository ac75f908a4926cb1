"""A model of `transformers` attached: its routing recorded, a strategy in its loop, its experts in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import _cptr
from .._cptr import UnsupportedError, UsageError
from ..traces import Trace
from .forced import forced
from .forms import hooked
from .offload import Offload
from .recorder import Pass, Recorder
from .routers import TABLE, Router, Routers, evaluating, find, probe_inputs, text_config
from .store import Pool

__all__ = ["Attached", "attach"]

Asked = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
"""A router, and what it was called with."""

CHECKED_ROWS = 8
"""Tokens of each pass whose choice is held against the description in each layer."""


def attach(
    model: nn.Module,
    memory: int | None = None,
    eps: float | None = None,
    *,
    strategy: str | None = None,
    offload: bool | str | PathLike[str] = False,
    record: bool = True,
    sketch: int = 0,
    routers: Sequence[str] | None = None,
    probe: Mapping[str, Any] | None = None,
    tokens: int = 1 << 18,
) -> Attached:
    """Attaches to the routers of a model, until `detach`; use it as a context, or call that.

    Alone it records: `Attached.trace`. With `memory`, experts of each layer in fast memory, a strategy goes along:
    `tracked` where the router's choice stays as it is, or with `eps` > 0 `bounded`: resident experts run for missing
    ones at a loss of at most `eps` of each token's routing mass in a layer. `strategy` names another
    (`cptr.strategies()`; it must not see the future or run experts elsewhere). With `offload` the experts really are in
    a file (in this folder, or a temporary one), and at most `memory` of each layer in memory.

    `record`: keep what routers do. `sketch`: also keep their inputs, projected to so many numbers. `routers`: names of
    the modules that are, where they are not found. `probe`: what the model is called with once before anything is
    attached, as its forward takes it. `tokens`: most that are counted for a strategy.

    Raises, with nothing attached: `UnsupportedError` for a router whose choice no description explains, and
    `UsageError`.
    """
    return Attached(
        model,
        memory,
        eps,
        strategy=strategy,
        offload=offload,
        record=record,
        sketch=sketch,
        routers=routers,
        probe=probe,
        tokens=tokens,
    )


def _strategy(memory: int | None, eps: float | None, strategy: str | None) -> str | None:
    """The text of the strategy that is asked for; None: none is."""
    if memory is None:
        if eps or strategy:
            raise UsageError("expected memory (experts of each layer) beside eps and strategy, found none")
        return None
    if strategy is not None:
        if eps is not None:
            raise UsageError("expected eps or strategy, found both")
        return strategy
    if eps is not None and not 0 <= eps <= 1:
        raise UsageError(f"eps: expected a share from 0 to 1, found {eps}")
    return f"bounded:eps={eps}" if eps else "tracked"


class Attached:
    """What `attach` gives."""

    def __init__(
        self,
        model: nn.Module,
        memory: int | None,
        eps: float | None,
        *,
        strategy: str | None,
        offload: bool | str | PathLike[str],
        record: bool,
        sketch: int,
        routers: Sequence[str] | None,
        probe: Mapping[str, Any] | None,
        tokens: int,
    ):
        if not isinstance(model, nn.Module) or not hasattr(model, "config"):
            raise UsageError(f"expected a model of transformers, found {type(model).__name__}")
        if getattr(model, "_cptr_attached", None) is not None:
            raise UsageError("expected a model that nothing is attached to, found one that is: detach first")
        text = _strategy(memory, eps, strategy)
        if offload and memory is None:
            raise UsageError("offload: expected memory (experts of each layer) beside it, found none")
        self.model = model
        self.routers: Routers = find(model, routers, probe)
        self.stepper = None if text is None else self._stepper(text, memory, tokens)
        if self.stepper is not None and self.stepper.replaces:
            self._check_replaceable(text)
        self._bias = [[] if r.bias is None else r.bias.tolist() for r in self.routers.all]
        name = getattr(model.config, "name_or_path", "") or getattr(model.config, "model_type", "")
        signs = torch.randint(0, 2, (self._width(), sketch), generator=torch.Generator().manual_seed(0)) * 2 - 1
        projection = signs / sketch**0.5 if sketch else None
        self.recorder = Recorder(self.routers, "cptr attach, transformers", Path(name).name, projection)
        self._records = record
        self._pass: Pass | None = None
        self._asked = 0
        self._undo: list[Callable[[], None]] = []
        self.offload: Offload | None = None
        try:
            if offload and memory is not None:
                self.offload = Offload(model, self.routers, memory, None if offload is True else Path(offload))
                self._undo.append(self.offload.close)
                self._try_offload(self.offload.pool, probe)
            self._hook()
        except BaseException:
            self.detach()
            raise
        model.__dict__["_cptr_attached"] = self
        self._undo.append(lambda: model.__dict__.pop("_cptr_attached", None))

    def _width(self) -> int:
        return int(text_config(self.model).hidden_size)

    def _stepper(self, text: str, memory: int | None, tokens: int) -> _cptr.Stepper:
        routers = self.routers
        return _cptr.Stepper(
            text,
            layers=len(routers.all),
            experts=routers.experts,
            k=routers.k,
            router=routers.description.text,
            resident=str(memory),
            layer_ids=routers.layer_ids,
            bias=routers.bias(),
            tokens=tokens,
        )

    def _check_replaceable(self, text: str | None) -> None:
        """Refuses to replace experts where what others weigh cannot be said."""
        for router in self.routers.all:
            if router.topk is None and router.form.put is None:
                kind = type(router.module).__name__
                raise UnsupportedError(f"{router.name}: {text} replaces experts, and {kind} does not choose by topk")
            if router.topk is None and not self.routers.description.weighs:
                raise UnsupportedError(f"{router.name}: {text} replaces experts, and their weights are not explained")

    def _try_offload(self, pool: Pool, probe: Mapping[str, Any] | None) -> None:
        """One forward pass, so that experts which are not taken one by one are refused now."""
        with evaluating(self.model):
            self.model(**probe_inputs(self.model, probe))
        if pool.reads == 0:
            raise UnsupportedError("expected experts to be read when they run, found a forward pass that reads none")
        pool.clear()

    def _hook(self) -> None:
        def keep(handle: torch.utils.hooks.RemovableHandle) -> None:
            self._undo.append(handle.remove)

        keep(self.model.register_forward_pre_hook(self._begin, with_kwargs=True))
        keep(self.model.register_forward_hook(self._end))
        for number, router in enumerate(self.routers.all):
            for handle in hooked(router.module, router.experts, self._on_router(number, router)):
                keep(handle)

    def _begin(self, _model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        twice = getattr(self.model.config, "is_encoder_decoder", False)
        given = [kwargs.get("decoder_input_ids") if twice else kwargs.get("input_ids"), kwargs.get("inputs_embeds")]
        if not twice and args and isinstance(args[0], torch.Tensor):
            given.insert(0, args[0])
        tensor = next((t for t in given if t is not None), None)
        if tensor is None:
            raise UsageError("expected the model to be called with input_ids or inputs_embeds, found neither")
        ids = tensor if tensor.ndim == 2 and not tensor.is_floating_point() else None
        named = kwargs | {"attention_mask": kwargs.get("decoder_attention_mask" if twice else "attention_mask")}
        self._pass, self._asked = self.recorder.begin(ids, tuple(tensor.shape[:2]), named), 0
        if self.stepper is not None:
            self.stepper.begin(self._pass.starts)

    def _end(self, _model: nn.Module, _inputs: Any, _output: Any) -> None:
        done, self._pass = self._pass, None
        if done is None:
            return
        if self.stepper is not None:
            self.stepper.end()
        if self._records:
            self.recorder.end(done)

    def _on_router(self, number: int, router: Router) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            of = self._pass
            if of is None:
                raise UsageError("expected the model that was attached to be called, found a part of it")
            if number != self._asked:
                raise UnsupportedError(f"{router.name}: expected router {self._asked} to run, found {number}")
            self._asked += 1
            logits, weights, ids = router.form.take(output)
            if len(ids) != len(of.starts):
                raise UnsupportedError(f"{router.name}: expected {len(of.starts)} tokens, found {len(ids)}")
            self._check(number, router, logits, ids)
            if self._records:
                self.recorder.layer(of, logits, weights, ids, args[0] if args else kwargs.get("hidden_states"))
            if self.stepper is None:
                return None
            return self._steer(self.stepper, number, router, output, (module, args, kwargs))

        return hook

    def _check(self, number: int, router: Router, logits: torch.Tensor, ids: torch.Tensor) -> None:
        """Holds some tokens of a pass against the description."""
        if hasattr(router.module, TABLE):
            return
        rows = slice(-CHECKED_ROWS, None)
        z, chosen = _host(logits[rows]), ids[rows].detach().long().cpu().numpy()
        coarse = logits.dtype in (torch.bfloat16, torch.float16)
        text, near = self.routers.description.text, 2**-7 if coarse else 1e-5
        found = _cptr.explained(text, z, chosen, self._bias[number], near)
        # Of equal scores either may be chosen; one row may lie on the edge.
        if found < len(chosen) - 1:
            raise UnsupportedError(
                f"{router.name}: expected the choice that {text} makes of the logits, found another for "
                f"{len(chosen) - found} of {len(chosen)} tokens"
            )

    def _steer(self, stepper: _cptr.Stepper, number: int, router: Router, output: Any, call: Asked) -> Any:
        logits, weights, ids = router.form.take(output)
        wanted = ids.detach().long().cpu().numpy()
        chosen, resident = stepper.layer(number, _host(logits), wanted)
        if self.offload is not None:
            experts = self.routers.experts
            needed = {int(expert) for expert in np.unique(chosen) if 0 <= expert < experts}
            self.offload.pool.decided(number, needed, set(resident))
        if not stepper.replaces or np.array_equal(chosen, wanted):
            return None
        new = torch.from_numpy(chosen).to(ids.device, ids.dtype)
        module, args, kwargs = call
        if router.topk is not None:
            changed = forced(lambda: module.forward(*args, **kwargs), router.topk, new)
            if not router.form.recomputed and not torch.equal(router.form.take(changed)[2], new):
                raise UnsupportedError(f"{router.name}: expected other experts to be taken, found that they are not")
            return changed
        scale = [] if self.routers.scale is None else self.routers.scale[number].tolist()
        given = self._weights(number, logits, chosen, scale)
        assert router.form.put is not None, "checked before anything was attached"
        return router.form.put(output, torch.from_numpy(given).to(weights), new)

    def _weights(self, number: int, logits: torch.Tensor, chosen: np.ndarray, scale: list[float]) -> np.ndarray:
        return _cptr.weights(self.routers.description.text, _host(logits), chosen, self._bias[number], scale)

    def trace(self, **names: Any) -> Trace:
        """What was recorded since `attach` or `clear`, in the native form; `names` as `cptr.Trace` has them."""
        return self.recorder.trace(**names)

    def clear(self) -> None:
        """Forgets what was recorded; memory and statistics stay."""
        self.recorder.passes.clear()

    def statistics(self) -> dict[str, Any]:
        """What the strategy did, and with `offload` what was read.

        `hit_rate`, `loads` (per choice) and `mass_loss` are the engine's, token by token; `reads`, `read_hits` and
        `bytes_read` are measured: experts of a pass are read once for all of its tokens.
        """
        if self.stepper is None:
            return {"tokens": sum(len(of.starts) for of in self.recorder.passes)}
        rows = self.stepper.counts()
        tokens, choices, misses, loads, agreed = (sum(row[at] for row in rows) for at in range(5))
        found: dict[str, Any] = {
            "tokens": self.stepper.tokens,
            "choices": choices,
            "misses": misses,
            "hit_rate": 1 - misses / choices if choices else None,
            "loads": loads,
            "agree": agreed / choices if choices else None,
            "mass_loss": sum(row[5] for row in rows) / tokens if tokens else None,
            "worst_mass_loss": max((row[6] for row in rows), default=0.0),
            "resident": [self.stepper.resident(layer) for layer in range(len(rows))],
        }
        if self.offload is not None:
            pool = self.offload.pool
            found |= {
                "reads": pool.reads,
                "read_hits": pool.hits,
                "fetches": pool.fetches,
                "bytes_read": pool.bytes_read,
                "bytes_held": pool.held(),
            }
        return found

    def detach(self) -> None:
        """Takes everything back; the model is what it was, bit for bit. A second call does nothing."""
        while self._undo:
            self._undo.pop()()
        self._pass = None

    def __enter__(self) -> Attached:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def __repr__(self) -> str:
        routers = self.routers
        return (
            f"<cptr.Attached to {len(routers.all)} routers: {routers.experts} experts, top-{routers.k}, "
            f"{routers.description.text}>"
        )


def _host(logits: torch.Tensor) -> np.ndarray:
    found: np.ndarray = logits.detach().float().cpu().contiguous().numpy()
    return found
