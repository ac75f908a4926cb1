"""Forward hooks on the routers of a model."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from .families import CaptureError, describe


@dataclass
class Rows:
    """What the routers did with N tokens: [N, L, …] tensors on the CPU, experts by falling weight."""

    experts: torch.Tensor
    logits: torch.Tensor
    weights: torch.Tensor
    hidden: torch.Tensor | None


class Recorder:
    """Collects what each router returns while it is open as a context.

    `sketch` > 0 also keeps the router's input, projected to that many numbers by a fixed random matrix of entries
    +-1/sqrt(sketch) (Achlioptas, 2003: keeps distances and inner products on average), the same for all layers.
    """

    def __init__(self, model: PreTrainedModel, sketch: int = 0):
        self.model = describe(model)
        self.calls: list[list[tuple[torch.Tensor, ...]]] = [[] for _ in self.model.routers]
        width = model.config.hidden_size
        signs = torch.randint(0, 2, (width, sketch), generator=torch.Generator().manual_seed(0)) * 2 - 1
        self.projection = signs / sketch**0.5 if sketch else None
        self.hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> "Recorder":
        for number, router in enumerate(self.model.routers):
            self.hooks.append(router.register_forward_hook(self.hook(number)))
        return self

    def __exit__(self, *_) -> None:
        for hook in self.hooks:
            hook.remove()
        self.hooks.clear()

    def hook(self, number: int):
        def record(_module, inputs, output):
            logits, weights, experts = self.model.answer(output)
            hidden = inputs[0].reshape(-1, inputs[0].shape[-1])
            sketch = [] if self.projection is None else [(hidden.detach().float().cpu() @ self.projection)]
            self.calls[number].append(
                tuple(t.detach().cpu() for t in (logits.float(), weights.float(), experts)) + tuple(sketch)
            )

        return record

    def take(self) -> Rows:
        """The rows since the last call, all layers side by side, tokens in the order in which the model saw them."""
        if not all(self.calls) or len({len(calls) for calls in self.calls}) != 1:
            raise CaptureError("not every router ran: a fused kernel or a compiled model goes past the hooks")
        layers = [[torch.cat(parts) for parts in zip(*calls)] for calls in self.calls]
        self.calls = [[] for _ in self.calls]
        logits, weights, experts, *sketch = (torch.stack(parts, 1) for parts in zip(*layers))
        weights = weights / self.model.scale
        weights, order = weights.sort(dim=-1, descending=True, stable=True)
        return Rows(experts.gather(-1, order), logits, weights, sketch[0] if sketch else None)
