"""Plots of recordings, by matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import _cptr

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .traces import Trace


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ModuleNotFoundError as error:
        raise _cptr.UnsupportedError("plots need matplotlib: pip install 'cptr[plots]'") from error
    return pyplot.subplots(layout="constrained")[1]


def hit_curve(trace: Trace, ax: Axes | None = None) -> Axes:
    """Hit rates of caches over their size, as `cptr inspect` counts them."""
    from .commands import inspect

    ax = _axes(ax)
    _, _, experts, k = trace.shape
    points = inspect(trace, cache=sorted({*range(k, experts, max((experts - k) // 16, 1)), experts}))["rows"][0][
        "cache"
    ]
    for key in ("belady", "lfu", "lru"):
        ax.plot([point["size"] for point in points], [100 * point[key] for point in points], label=key)
    ax.set(xlabel="experts of a layer in fast memory", ylabel="hit rate in %", ylim=(0, 105))
    ax.legend()
    return ax


def experts(trace: Trace, ax: Axes | None = None) -> Axes:
    """How often each expert of each layer was chosen."""
    ax = _axes(ax)
    tokens, layers, count, _ = trace.shape
    ids = trace.experts
    table = np.stack([np.bincount(ids[:, layer][ids[:, layer] < count], minlength=count) for layer in range(layers)])
    image = ax.imshow(100 * table / tokens, aspect="auto", interpolation="nearest", vmin=0)
    ax.set(xlabel="expert", ylabel="layer")
    ax.set_yticks(range(layers), [str(layer) for layer in trace.layer_ids])
    ax.figure.colorbar(image, ax=ax, label="% of the tokens")
    return ax
