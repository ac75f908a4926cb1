"""Recordings of routing: read from files of any known format, or made of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _cptr

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NO_EXPERT = 65_535
"""The id that fills a row where a token chose fewer experts."""


def _array(name: str, given: ArrayLike | None, dtype: Any) -> np.ndarray | None:
    """The array as one of `dtype`, refused where that would change a value."""
    if given is None:
        return None
    array = np.asarray(given)
    if array.dtype == object:
        raise _cptr.UsageError(f"{name}: expected numbers, found objects")
    if array.dtype == dtype:
        return array
    kind = np.dtype(dtype)
    if kind.kind == "u":
        if array.dtype.kind not in "iub":
            raise _cptr.UsageError(f"{name}: expected whole numbers, found {array.dtype}")
        array = np.where(array == -1, np.iinfo(kind).max, array) if name == "experts" else array
        if array.size and (array.min() < 0 or array.max() > np.iinfo(kind).max):
            raise _cptr.UsageError(f"{name}: expected numbers from 0 to {np.iinfo(kind).max}, found others")
    elif array.dtype.kind not in "iuf":
        raise _cptr.UsageError(f"{name}: expected floats, found {array.dtype}")
    return array.astype(kind)


def _floats(name: str, given: ArrayLike | None) -> np.ndarray | None:
    """f16 as it is, everything else as f32."""
    array = None if given is None else np.asarray(given)
    return array if array is not None and array.dtype == np.float16 else _array(name, array, np.float32)


class Trace:
    """A routing trace of T tokens, L layers, E experts of a layer, k of a token.

    Its arrays are views of the engine's memory, or of the mapped file, that nobody can write to. Copied are floats that
    a file has as bf16, which numpy does not know, and those of files that do not align them.
    """

    _inner: _cptr.Trace

    def __init__(
        self,
        experts: ArrayLike | None = None,
        *,
        logits: ArrayLike | None = None,
        weights: ArrayLike | None = None,
        hidden: ArrayLike | None = None,
        bias: ArrayLike | None = None,
        expert_scale: ArrayLike | None = None,
        token: ArrayLike | None = None,
        sequence: ArrayLike | None = None,
        position: ArrayLike | None = None,
        phase: ArrayLike | None = None,
        domain: ArrayLike | None = None,
        num_experts: int | None = None,
        top_k: int | None = None,
        router: str = "unknown",
        model: str = "",
        source: str = "",
        domains: Sequence[str] = ("all",),
        layer_ids: Sequence[int] | None = None,
        notes: Sequence[str] = (),
    ):
        """Of arrays: `experts` [T, L, k] (-1: none), or `logits` [T, L, E] and `top_k`; the rest is optional.

        Arrays are copied once; but `logits`, `weights` and `hidden` are kept where they are if they are float16 or
        float32, row-major, and nobody can write to them (`array.flags.writeable` is False, also of what they are views
        of). Nobody may make such an array writeable again, or resize it with `refcheck=False`, while the trace lives.

        Everything passes the checks that a file passes; `router` is the description of docs/traces.md, and is held
        against the logits.
        """
        arrays = {
            "experts": _array("experts", experts, np.uint16),
            "logits": _floats("logits", logits),
            "weights": _floats("weights", weights),
            "hidden": _floats("hidden", hidden),
            "bias": _array("bias", bias, np.float32),
            "expert_scale": _array("expert_scale", expert_scale, np.float32),
            "token": _array("token", token, np.uint32),
            "sequence": _array("sequence", sequence, np.uint32),
            "position": _array("position", position, np.uint32),
            "phase": _array("phase", phase, np.uint8),
            "domain": _array("domain", domain, np.uint8),
        }
        names = {
            "router": router,
            "model": model,
            "source": source,
            "experts": num_experts,
            "top_k": top_k,
            "domains": list(domains),
            "layer_ids": None if layer_ids is None else list(layer_ids),
            "notes": list(notes),
        }
        self._inner = _cptr.Trace(arrays, names)

    @classmethod
    def _of(cls, inner: _cptr.Trace) -> Trace:
        made = object.__new__(cls)
        made._inner = inner
        return made

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, L, E, k)."""
        return self._inner.shape

    @property
    def experts(self) -> NDArray[np.uint16]:
        """Chosen experts [T, L, k]; ids from E on are null experts, `NO_EXPERT` fills rows."""
        return self._inner.experts

    @property
    def logits(self) -> NDArray[np.floating] | None:
        """Router logits [T, L, E and null experts]."""
        return self._inner.logits

    @property
    def weights(self) -> NDArray[np.floating] | None:
        """Mixing weights [T, L, k], in the order of `experts`."""
        return self._inner.weights

    @property
    def hidden(self) -> NDArray[np.floating] | None:
        """Router inputs [T, L or 1, D]."""
        return self._inner.hidden

    @property
    def bias(self) -> NDArray[np.float32] | None:
        """The router's bias [L, E and null experts]."""
        return self._inner.bias

    @property
    def expert_scale(self) -> NDArray[np.float32] | None:
        """Factor on each expert's weight [L, E and null experts]."""
        return self._inner.expert_scale

    @property
    def token(self) -> NDArray[np.uint32] | None:
        """Token ids [T]."""
        return self._inner.token

    @property
    def sequence(self) -> NDArray[np.uint32]:
        """Number of each token's sequence [T]."""
        return self._inner.sequence

    @property
    def position(self) -> NDArray[np.uint32]:
        """Place of each token in its sequence [T]."""
        return self._inner.position

    @property
    def phase(self) -> NDArray[np.uint8]:
        """0 prefill, 1 decode [T]."""
        return self._inner.phase

    @property
    def domain(self) -> NDArray[np.uint8]:
        """Index into `domains` [T]."""
        return self._inner.domain

    @property
    def domains(self) -> list[str]:
        """Names of the parts."""
        return self._inner.domains

    @property
    def model(self) -> str:
        """The model's name, empty where it is not known."""
        return self._inner.model

    @property
    def router(self) -> str:
        """The router's description, as docs/traces.md has it."""
        return self._inner.router

    @property
    def source(self) -> str:
        """Where the data come from."""
        return self._inner.source

    @property
    def layer_ids(self) -> list[int]:
        """The model's own number of each layer."""
        return self._inner.layer_ids

    @property
    def notes(self) -> list[str]:
        """What a reader of results should know."""
        return self._inner.notes

    @property
    def evidence(self) -> str | None:
        """How far the router explains the recorded choice, in one sentence; None without logits."""
        return self._inner.evidence

    @property
    def explained(self) -> tuple[int, int] | None:
        """Sets that the router explains, and sets that were looked at; None without logits."""
        return self._inner.explained

    def write(self, path: str | PathLike[str]) -> None:
        """Writes the native format; the file appears whole or not at all."""
        self._inner.write(fspath(path))

    def first(self, tokens: int) -> Trace:
        """The first tokens, as a trace of their own."""
        return Trace._of(self._inner.first(tokens))

    def plot_hit_curve(self, ax: Axes | None = None) -> Axes:
        """Hit rates over the experts of a layer in fast memory: LRU, LFU, and Belady's rule. Needs matplotlib."""
        from .plots import hit_curve

        return hit_curve(self, ax)

    def plot_experts(self, ax: Axes | None = None) -> Axes:
        """How often each expert of each layer was chosen, as a heat map. Needs matplotlib."""
        from .plots import experts

        return experts(self, ax)

    def __len__(self) -> int:
        return len(self._inner)

    def __repr__(self) -> str:
        return repr(self._inner)


@dataclass(frozen=True)
class CountTable:
    """How often each expert was chosen in one part of a source."""

    name: str
    model: str
    k: int
    layer_ids: list[int]
    counts: NDArray[np.uint64]
    """[L, E]."""


class Counts:
    """Counts without order of tokens, as some formats have them; `run` and `inspect` take them."""

    def __init__(self, inner: _cptr.Counts):
        self._inner = inner

    @property
    def tables(self) -> list[CountTable]:
        """The tables; their counts are copies."""
        return [CountTable(*row[:4], np.array(row[4], np.uint64)) for row in self._inner.rows]

    @property
    def source(self) -> str:
        """Where the data come from."""
        return self._inner.source

    @property
    def notes(self) -> list[str]:
        """What a reader of results should know."""
        return self._inner.notes

    def __repr__(self) -> str:
        return repr(self._inner)


def read(path: str | PathLike[str], **options: Any) -> Trace | Counts:
    """A recording of any format that `formats()` lists: a file, a folder or an archive.

    Options are those of the command line: `format`, `experts`, `top_k`, `layout` ("token-layer" or "layer-token"),
    `chunk`, `router`, `model`, `keep_startup`, `memory` (such as "8GB"), `domain`, `domain_tokens`, `tokens`.
    Pickles are read without running anything in them. Floats of native files stay in the mapped file, which nobody may
    shorten meanwhile.
    """
    from .commands import arguments

    inner = _cptr.read([*arguments(options), "--", fspath(path)])
    return Trace._of(inner) if isinstance(inner, _cptr.Trace) else Counts(inner)
