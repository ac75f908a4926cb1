"""Expert weights in a file, and as many of them in memory as there is room for."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .._cptr import FileError


@dataclass(frozen=True)
class Part:
    """A tensor of an expert, as all experts of a layer have it."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor on the host."""
    return tensor.view(-1).view(torch.uint8).numpy().data


class File:
    """Records of experts, one behind the other, layer by layer; deleted when it is closed."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise FileError(f"{path}: {error.strerror}") from error
        self.end = 0

    def append(self, tensors: Sequence[torch.Tensor]) -> int:
        """Writes the tensors of an expert; where they begin."""
        start = self.end
        for tensor in tensors:
            self.end += self._all(os.pwrite, bytes_of(tensor.detach().cpu().contiguous()), self.end)
        return start

    def read(self, start: int, into: Sequence[torch.Tensor]) -> int:
        """Reads the tensors of an expert into memory that there is; bytes read."""
        at = start
        for tensor in into:
            if tensor.device.type == "cpu":
                at += self._all(lambda file, room, place: os.preadv(file, [room], place), bytes_of(tensor), at)
            else:
                host = torch.empty(tensor.shape, dtype=tensor.dtype)
                at += self._all(lambda file, room, place: os.preadv(file, [room], place), bytes_of(host), at)
                tensor.copy_(host)
        return at - start

    def _all(self, move: Callable[[int, memoryview, int], int], room: memoryview, at: int) -> int:
        done = 0
        try:
            while done < len(room):
                moved = move(self.file, room[done:], at + done)
                if moved == 0:
                    raise FileError(f"{self.path}: expected {len(room)} bytes at {at}, found {done}")
                done += moved
        except OSError as error:
            raise FileError(f"{self.path}: {error.strerror}") from error
        return done

    def close(self) -> None:
        os.close(self.file)
        self.path.unlink(missing_ok=True)


class Pool:
    """At most `room` experts of each layer in memory, and one more of all layers: whoever passes through."""

    def __init__(self, file: File, room: int, layers: list[tuple[list[Part], list[int]]], device: list[torch.device]):
        self.file, self.room, self.layers, self.device = file, room, layers, device
        self.slots: list[dict[int, list[torch.Tensor]]] = [{} for _ in layers]
        self.passing: tuple[int, int] | None = None
        self.buffer: list[torch.Tensor] = []
        self.keep: list[set[int]] = [set() for _ in layers]
        self.touched: list[set[int]] = [set() for _ in layers]
        self.needed: list[set[int]] = [set() for _ in layers]
        self.hits = self.reads = self.fetches = self.bytes_read = 0

    def decided(self, layer: int, needed: set[int], keep: set[int]) -> None:
        """A layer is about to run these experts, and is to hold those behind it."""
        self.keep[layer], self.needed[layer], self.touched[layer] = keep, set(needed), set()
        # Who passed through may be one to be kept now.
        self.passing = None
        for expert in sorted(keep - needed - self.slots[layer].keys()):
            self._load(layer, expert)
            self.fetches += 1

    def tensors(self, layer: int, expert: int) -> list[torch.Tensor]:
        """The tensors of an expert: where they are, or read now."""
        first = expert not in self.touched[layer]
        self.touched[layer].add(expert)
        held = self.slots[layer].get(expert)
        if held is not None:
            self.hits += first
        elif self.passing == (layer, expert):
            held = self.buffer
        else:
            held = self._load(layer, expert)
            self.reads += 1
        self.needed[layer].discard(expert)
        return held

    def _load(self, layer: int, expert: int) -> list[torch.Tensor]:
        slots, keep, needed = self.slots[layer], self.keep[layer], self.needed[layer]
        parts, starts = self.layers[layer]
        new = None
        if expert in keep:
            if len(slots) >= self.room:
                leaving = [other for other in slots if other not in keep]
                leaving.sort(key=lambda other: other in needed)
                new = slots.pop(leaving[0])
            else:
                new = [torch.empty(part.shape, dtype=part.dtype, device=self.device[layer]) for part in parts]
            slots[expert] = new
        else:
            fits = [(tuple(t.shape), t.dtype, t.device) for t in self.buffer]
            if fits != [(part.shape, part.dtype, self.device[layer]) for part in parts]:
                self.buffer = [torch.empty(p.shape, dtype=p.dtype, device=self.device[layer]) for p in parts]
            new, self.passing = self.buffer, (layer, expert)
        self.bytes_read += self.file.read(starts[expert], new)
        return new

    def clear(self) -> None:
        """Forgets what is in memory, and what was counted."""
        self.slots = [{} for _ in self.slots]
        self.passing, self.buffer = None, []
        self.hits = self.reads = self.fetches = self.bytes_read = 0

    def held(self) -> int:
        """Bytes of experts in memory."""
        return sum(t.numel() * t.element_size() for layer in self.slots for held in layer.values() for t in held) + sum(
            t.numel() * t.element_size() for t in self.buffer
        )
