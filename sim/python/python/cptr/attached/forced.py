"""Has a router weigh other experts than it chose, by its own code: the choice is put in where it calls `topk`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_TOPK = (torch.topk, torch.Tensor.topk)


class _Watch(TorchFunctionMode):
    """Remembers the indices of each topk."""

    def __init__(self) -> None:
        super().__init__()
        self.indices: list[torch.Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _TOPK:
            self.indices.append(result.indices)
        return result


class _Force(TorchFunctionMode):
    """Answers one topk with other indices, and the values that are there."""

    def __init__(self, at: int, ids: torch.Tensor) -> None:
        super().__init__()
        self.left, self.ids = at, ids

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _TOPK:
            self.left -= 1
            if self.left == -1:
                scores = args[0] if args else kwargs["input"]
                ids = self.ids.view_as(result.indices)
                return torch.return_types.topk((scores.gather(-1, ids), ids))
        return result


def chooser(call: Callable[[], Any], ids: torch.Tensor) -> int | None:
    """Which topk of a call gives `ids`, from 0; None if none does."""
    with _Watch() as watch:
        call()
    for at in reversed(range(len(watch.indices))):
        found = watch.indices[at]
        if found.numel() == ids.numel() and torch.equal(found.reshape(ids.shape).to(ids.dtype), ids):
            return at
    return None


def forced(call: Callable[[], Any], at: int, ids: torch.Tensor) -> Any:
    """What a call returns if its topk number `at` gives `ids`."""
    with _Force(at, ids):
        return call()
