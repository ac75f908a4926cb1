"""Experts of a model in a file: read when they run, and as many kept as there is room for.

Two forms are known. *Fused*: the experts of a layer are tensors [E, …], of which the module's own loop takes one expert
at a time. *List*: each expert is a module of its own. What computes all experts at once is refused.
"""

from __future__ import annotations

import shutil
import tempfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .._cptr import FileError, UnsupportedError
from .routers import Routers
from .store import File, Part, Pool


class Experts:
    """In the place of a tensor [E, …]: its experts, one by one."""

    def __init__(self, pool: Pool, layer: int, part: int, name: str, like: nn.Parameter):
        self._pool, self._layer, self._part, self._name = pool, layer, part, name
        self.dtype, self.device = like.dtype, like.device

    def __getitem__(self, expert: Any) -> torch.Tensor:
        if isinstance(expert, torch.Tensor) and expert.numel() == 1 or isinstance(expert, int):
            return self._pool.tensors(self._layer, int(expert))[self._part]
        raise UnsupportedError(f"{self._name}: expected experts one at a time, found several at once")

    def __getattr__(self, name: str) -> Any:
        raise UnsupportedError(
            f"{self._name}: expected experts one at a time, found that all are used at once ({name})"
        )

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise UnsupportedError(f"expected experts one at a time, found that {func.__name__} uses all at once")


def fused(module: nn.Module, experts: int) -> dict[str, nn.Parameter]:
    """The parameters [E, …] of a module, if it is fused experts; behind the experts some have null experts."""
    own = dict(module.named_parameters(recurse=False))
    fits = own and all(p.ndim >= 2 and p.shape[0] >= experts for p in own.values())
    fits = fits and min(p.shape[0] for p in own.values()) == experts
    return own if fits and "gate_up_proj" in own or fits and "down_proj" in own else {}


def listed(module: nn.Module, experts: int) -> list[nn.Module]:
    """The experts of a module, if it is a list of them."""
    children = list(module.children()) if isinstance(module, (nn.ModuleList, nn.ModuleDict)) else []
    shapes = [[(p.shape, p.dtype) for p in child.parameters()] for child in children]
    return children if len(children) == experts and shapes[0] and all(s == shapes[0] for s in shapes) else []


def beside(model: nn.Module, router: str, experts: int) -> tuple[str, nn.Module]:
    """The experts that a router chooses from: in the smallest part of the model that has both."""
    parts = router.split(".")
    for depth in range(len(parts) - 1, -1, -1):
        root = ".".join(parts[:depth])
        inside = model.get_submodule(root).named_modules(prefix=root)
        found = [(name, module) for name, module in inside if fused(module, experts) or listed(module, experts)]
        if len(found) == 1:
            return found[0]
        if found:
            break
    raise UnsupportedError(
        f"{router}: expected experts in tensors [{experts}, …] or in a list of modules beside it, found "
        f"{'several' if found else 'none'}"
    )


class Offload:
    """The experts of a model in a file, `room` of each layer in memory."""

    def __init__(self, model: nn.Module, routers: Routers, room: int, folder: Path | None):
        self.undo: list[Callable[[], None]] = []
        self.experts = routers.experts
        found = [(router, *beside(model, router.name, routers.experts)) for router in routers.all]
        self.is_list = not fused(found[0][2], routers.experts)
        shared = len({id(module) for _, _, module in found}) < len(found)
        if shared:
            raise UnsupportedError("expected experts for each layer, found layers that share them")
        path = Path(tempfile.mkdtemp(prefix="cptr-", dir=folder)) if folder is None else Path(folder)
        self._check_space(path, [module for _, _, module in found])
        self.file = File(path / "cptr-experts.bin")
        self.undo.append(self._remove(path if folder is None else None))
        try:
            layers, devices = [], []
            for _, name, module in found:
                parts, starts, device = self._write(name, module, routers.experts)
                layers.append((parts, starts))
                devices.append(device)
            self.pool = Pool(self.file, room, layers, devices)
            for layer, (_, name, module) in enumerate(found):
                self._take_over(layer, name, module, routers.experts)
        except BaseException:
            self.close()
            raise

    def _remove(self, folder: Path | None) -> Callable[[], None]:
        def remove() -> None:
            self.file.close()
            if folder is not None:
                folder.rmdir()

        return remove

    @staticmethod
    def _check_space(folder: Path, modules: list[nn.Module]) -> None:
        needed = sum(p.numel() * p.element_size() for module in modules for p in module.parameters())
        try:
            free = shutil.disk_usage(folder).free
        except OSError as error:
            raise FileError(f"{folder}: {error.strerror}") from error
        if free < needed:
            raise FileError(f"{folder}: expected room for {needed} bytes of experts, found {free}")

    def _experts(self, module: nn.Module, experts: int) -> Iterator[list[torch.Tensor]]:
        own = fused(module, experts)
        if own:
            return ([p.data[expert] for p in own.values()] for expert in range(experts))
        return ([p.data for p in child.parameters()] for child in listed(module, experts))

    def _write(self, name: str, module: nn.Module, experts: int) -> tuple[list[Part], list[int], torch.device]:
        starts, parts, device = [], [], torch.device("cpu")
        for tensors in self._experts(module, experts):
            if any(tensor.is_meta for tensor in tensors):
                raise UnsupportedError(f"{name}: expected weights in memory, found some that are not loaded")
            starts.append(self.file.append(tensors))
            parts = [Part(tuple(tensor.shape), tensor.dtype) for tensor in tensors]
            device = tensors[0].device
        return parts, starts, device

    def _take_over(self, layer: int, name: str, module: nn.Module, experts: int) -> None:
        own = fused(module, experts)
        if own:
            plain = getattr(type(module).forward, "__wrapped__", None)
            if plain is not None:
                # Its own loop over experts, whatever kernel the configuration asks for.
                module.forward = types.MethodType(plain, module)
                self.undo.append(lambda: module.__dict__.pop("forward", None))
            for part, (of, parameter) in enumerate(own.items()):
                self.undo.append(self._restore_fused(module, of, layer, part, parameter, parameter.shape))
                module.__dict__[of] = Experts(self.pool, layer, part, f"{name}.{of}", parameter)
                parameter.data = parameter.data.new_empty(0)
            return
        for expert, child in enumerate(listed(module, experts)):
            parameters = list(child.parameters())
            hook = child.register_forward_pre_hook(self._load(layer, expert, parameters))
            self.undo.append(self._restore_list(layer, expert, parameters, hook))
            for parameter in parameters:
                parameter.data = parameter.data.new_empty(0)

    def _load(self, layer: int, expert: int, parameters: list[nn.Parameter]) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any) -> None:
            for parameter, tensor in zip(parameters, self.pool.tensors(layer, expert)):
                parameter.data = tensor

        return hook

    def _restore_fused(
        self, module: nn.Module, of: str, layer: int, part: int, parameter: nn.Parameter, shape: torch.Size
    ) -> Callable[[], None]:
        behind = parameter.data[self.experts :].clone()

        def restore() -> None:
            module.__dict__.pop(of, None)
            parts, starts = self.pool.layers[layer]
            before = sum(p.bytes for p in parts[:part])
            whole = torch.empty(shape, dtype=parts[part].dtype, device=self.pool.device[layer])
            for expert, start in enumerate(starts):
                self.file.read(start + before, [whole[expert]])
            whole[self.experts :] = behind
            parameter.data = whole

        return restore

    def _restore_list(
        self, layer: int, expert: int, parameters: list[nn.Parameter], hook: torch.utils.hooks.RemovableHandle
    ) -> Callable[[], None]:
        def restore() -> None:
            hook.remove()
            parts, starts = self.pool.layers[layer]
            new = [torch.empty(p.shape, dtype=p.dtype, device=self.pool.device[layer]) for p in parts]
            self.file.read(starts[expert], new)
            for parameter, tensor in zip(parameters, new):
                parameter.data = tensor

        return restore

    def close(self) -> None:
        """Brings all experts back to where they were, and deletes the file."""
        while self.undo:
            self.undo.pop()()
