"""What routers did, kept until it is made a trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .._cptr import UnsupportedError, UsageError
from ..traces import Trace
from .routers import Routers

PREFILL, DECODE = 0, 1
FLOATS = {"f16": np.float16, "f32": np.float32}


@dataclass
class Pass:
    """One forward pass: whose tokens they are, and what each layer did."""

    tokens: np.ndarray | None
    sequence: np.ndarray
    position: np.ndarray
    phase: np.ndarray
    keep: np.ndarray | None
    """Which rows are text rather than padding; None: all."""
    starts: list[bool]
    logits: list[torch.Tensor] = field(default_factory=list)
    weights: list[torch.Tensor] = field(default_factory=list)
    ids: list[torch.Tensor] = field(default_factory=list)
    hidden: list[torch.Tensor] = field(default_factory=list)


def length_before(kwargs: dict[str, Any]) -> int:
    """Tokens that a cache holds of each sequence; the argument's name is not the same in all versions."""
    for cache in kwargs.values():
        if hasattr(cache, "get_seq_length"):
            try:
                return int(cache.get_seq_length())
            except ValueError:
                # Of layers without attention it is not known before the first token.
                break
    for name in ("cache_position", "position_ids"):
        at = kwargs.get(name)
        if isinstance(at, torch.Tensor):
            return int(at.min())
    return 0


class Recorder:
    """Passes of a model, in order. Where the cache is empty new sequences begin, else the last ones go on."""

    def __init__(self, routers: Routers, source: str, model: str, sketch: torch.Tensor | None):
        self.routers, self.source, self.model, self.sketch = routers, source, model, sketch
        self.passes: list[Pass] = []
        self.sequences: list[int] = []
        self.next_sequence = 0

    def begin(self, ids: torch.Tensor | None, shape: tuple[int, int], kwargs: dict[str, Any]) -> Pass:
        """A pass of a batch [B, T] of tokens."""
        rows, length = shape
        before = length_before(kwargs)
        if before == 0 or len(self.sequences) != rows:
            self.sequences = list(range(self.next_sequence, self.next_sequence + rows))
            self.next_sequence += rows
        mask = kwargs.get("attention_mask")
        keep, offset = None, np.zeros(rows, int)
        if isinstance(mask, torch.Tensor) and mask.ndim == 2 and not bool(mask.bool().all()):
            mask = mask.detach().bool().cpu().numpy()
            keep = mask[:, -length:].reshape(-1)
            # Positions count text, not what pads it on the left.
            offset = (~mask[:, : mask.shape[1] - length]).sum(1) if mask.shape[1] > length else offset
            inside = np.maximum(np.cumsum(mask[:, -length:], 1) - 1, 0)
        else:
            inside = np.tile(np.arange(length), (rows, 1))
        position = (before - offset)[:, None] + inside
        first = inside == 0
        starts = (first & (before == 0)).reshape(-1)
        if keep is not None:
            starts &= keep
        return Pass(
            None if ids is None else ids.detach().cpu().numpy().reshape(-1),
            np.repeat(self.sequences, length),
            position.reshape(-1),
            np.full(rows * length, DECODE if length == 1 and before > 0 else PREFILL, np.uint8),
            keep,
            starts.tolist(),
        )

    def layer(self, of: Pass, logits: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor, given: Any) -> None:
        """What the next layer's router did in a pass."""
        of.logits.append(logits.detach().float().cpu())
        of.weights.append(weights.detach().float().cpu())
        of.ids.append(ids.detach().cpu())
        if self.sketch is not None:
            hidden = given.reshape(-1, given.shape[-1]).detach().float().cpu()
            of.hidden.append((hidden @ self.sketch).half())

    def end(self, of: Pass) -> None:
        """A pass is through; refused if not every layer was seen."""
        layers = len(self.routers.all)
        if len(of.ids) != layers:
            raise UnsupportedError(
                f"expected {layers} routers to run, found {len(of.ids)}: a fused kernel or a compiled model goes past "
                "the hooks"
            )
        self.passes.append(of)

    def trace(self, *, domain_of: Sequence[int] | None = None, floats: str = "f32", **names: Any) -> Trace:
        """All passes as a trace, the tokens of a sequence side by side.

        `domain_of` has a number for each sequence; `floats`: "f16" or "f32"; `names` as `Trace` has them.
        """
        if not self.passes:
            raise UnsupportedError("expected tokens, found that the model has not run since it was attached")
        if floats not in FLOATS:
            raise UsageError(f"floats: expected f16 or f32, found {floats}")
        arrays: dict[str, Any] = {**self.arrays()}
        for name in ("logits", "weights"):
            arrays[name] = arrays[name].astype(FLOATS[floats])
        described, layers, scored = self.routers, len(self.routers.all), self.routers.experts + self.routers.null
        bias = described.bias()
        if domain_of is not None:
            arrays["domain"] = np.asarray(domain_of)[arrays["sequence"]]
        given = {"router": described.description.text, "model": self.model, "source": self.source} | names
        given["notes"] = [*described.notes, *given.get("notes", ())]
        return Trace(
            **arrays,
            bias=np.asarray(bias, np.float32).reshape(layers, scored) if bias else None,
            expert_scale=None if described.scale is None else np.stack(described.scale),
            num_experts=described.experts,
            layer_ids=described.layer_ids,
            **given,
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of a trace, experts by falling weight."""
        columns: dict[str, list[np.ndarray]] = {}
        for of in self.passes:
            keep = slice(None) if of.keep is None else of.keep
            ids, weights = torch.stack(of.ids, 1), torch.stack(of.weights, 1)
            # Null experts and places that are empty come last, as the format has them.
            behind = (ids >= self.routers.experts).int() + (ids < 0).int() * 2
            order = (weights - 1e9 * behind).sort(dim=-1, descending=True, stable=True).indices
            rows: dict[str, np.ndarray] = {
                "experts": ids.gather(-1, order).numpy(),
                "logits": torch.stack(of.logits, 1).numpy(),
                "weights": weights.gather(-1, order).clamp(min=0).numpy(),
                "sequence": of.sequence,
                "position": of.position,
                "phase": of.phase,
            }
            if of.tokens is not None:
                rows["token"] = of.tokens
            if of.hidden:
                rows["hidden"] = torch.stack(of.hidden, 1).numpy()
            for name, values in rows.items():
                columns.setdefault(name, []).append(values[keep])
        whole = {name: np.concatenate(parts) for name, parts in columns.items()}
        if "token" in whole and len(whole["token"]) != len(whole["sequence"]):
            del whole["token"]
        side_by_side = np.argsort(whole["sequence"], kind="stable")
        return {name: values[side_by_side] for name, values in whole.items()}
