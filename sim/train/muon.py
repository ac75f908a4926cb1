"""Muon (Keller Jordan, 2024): momentum, then each matrix's update is replaced by the nearest orthogonal matrix.

Reaches the loss of AdamW in clearly fewer tokens, which is what counts on two CPU cores. Embeddings, output layer,
routers and norms stay with AdamW, as its author advises.
"""

from collections.abc import Callable

import torch

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration of the reference description; five rounds bring all singular values near 1."""


def orthogonalize(matrices: torch.Tensor, rounds: int = 5) -> torch.Tensor:
    """[B, m, n] -> [B, m, n] with singular values of about 1 (0.7 to 1.2) and the same singular vectors."""
    a, b, c = NEWTON_SCHULZ
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    wide = x.shape[1] <= x.shape[2]
    if not wide:
        x = x.transpose(1, 2)
    for _ in range(rounds):
        gram = torch.bmm(x, x.transpose(1, 2))
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.transpose(1, 2)


class Muon(torch.optim.Optimizer):
    """For parameters [m, n] or [B, m, n]; an attribute `stacked` = s says that each is s matrices one above the other.

    Each of the `workers` processes orthogonalizes its part of a parameter's matrices; `add_up` sums a tensor over the
    processes.
    """

    def __init__(
        self,
        parameters,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.05,
        rank: int = 0,
        workers: int = 1,
        add_up: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor,
    ):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.rank, self.workers, self.add_up = rank, workers, add_up

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            updates = [self.direction(p, index, group["momentum"]) for index, p in enumerate(group["params"])]
            summed = self.add_up(torch.cat([update.flatten() for update in updates]))
            for parameter, update in zip(group["params"], summed.split([update.numel() for update in updates])):
                rows = parameter.shape[-2] // getattr(parameter, "stacked", 1)
                scale = max(1.0, rows / parameter.shape[-1]) ** 0.5
                parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                parameter.sub_(update.view_as(parameter), alpha=group["lr"] * scale)

    def direction(self, parameter: torch.Tensor, index: int, momentum: float) -> torch.Tensor:
        """This process's part of the orthogonalized update; the other matrices are zero."""
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        average = state["momentum"].mul_(momentum).add_(parameter.grad)
        wanted = parameter.grad.add(average, alpha=momentum)
        matrices = wanted.view(-1, parameter.shape[-2] // getattr(parameter, "stacked", 1), parameter.shape[-1])
        mine = ((torch.arange(matrices.shape[0]) + index) % self.workers == self.rank).nonzero().flatten()
        update = torch.zeros_like(matrices)
        if len(mine):
            update[mine] = orthogonalize(matrices[mine])
        return update
