"""The memory engine: DRAM channels behind controllers, command by command."""

from __future__ import annotations

import json
from os import PathLike, fspath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _cptr


class Completion(NamedTuple):
    """A request that is done."""

    id: int
    cycle: int
    latency: int
    """Cycles from acceptance to the end of the data."""
    source: int
    write: bool


class Memory:
    """Channels of one device at cycle 0. A call that is refused raises `MemoryEngineError` and changes nothing.

    `device`: a name of `device_names()`, a file that ends in .toml, or the text of one. Options: `mapping`, `refresh`
    ("none", "ab", "sb"), `page` ("open", "closed"), `queue`, `offers`, `channels`, `stripe` (bytes), `priorities` (a
    list, one for each source, 0 goes first).
    """

    def __init__(self, device: str | PathLike[str], **options: Any):
        text = []
        for name, value in options.items():
            text.append(f"{name}={','.join(map(str, value)) if isinstance(value, (list, tuple)) else value}")
        self._inner = _cptr.Memory(fspath(device), " ".join(text))

    @property
    def now(self) -> int:
        """The current cycle."""
        return self._inner.now

    @property
    def capacity(self) -> int:
        """Bytes of all channels."""
        return self._inner.capacity

    @property
    def access_bytes(self) -> int:
        """Bytes of one access."""
        return self._inner.access_bytes

    @property
    def channels(self) -> int:
        """Channels."""
        return self._inner.channels

    @property
    def clock_ps(self) -> int:
        """Picoseconds of a clock; it has `cycles_per_clock` cycles."""
        return self._inner.clock_ps

    @property
    def cycles_per_clock(self) -> int:
        """2 where commands use both edges (HBM3), else 1."""
        return self._inner.cycles_per_clock

    @property
    def idle(self) -> bool:
        """Whether nothing waits."""
        return self._inner.idle

    def offer(self, address: int, *, write: bool = False, source: int = 0) -> int:
        """Offers one access in the current cycle, and gives its id; `MemoryBusyError`: it may be taken later."""
        return self._inner.offer(address, write=write, source=source)

    def advance(self, cycle: int) -> None:
        """Goes to `cycle` and lets happen what happens up to then, that cycle included."""
        self._inner.advance(cycle)

    def next_event(self) -> int | None:
        """The first cycle in which something can happen; None if nothing ever will."""
        return self._inner.next_event()

    def next_command(self) -> int | None:
        """The first cycle with a command, after which there may be room again."""
        return self._inner.next_command()

    def completions(self) -> list[Completion]:
        """Takes the completions whose cycle has come, in their order."""
        return [Completion(*one) for one in self._inner.completions()]

    def completes(self, id: int) -> int | None:
        """The cycle in which a request completes or did; None while that is not known."""
        return self._inner.completes(id)

    def run(
        self,
        addresses: ArrayLike,
        *,
        writes: ArrayLike | None = None,
        arrivals: ArrayLike | None = None,
        source: int = 0,
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Accesses one after the other, each as soon as there is room: (cycle, latency) of each when it is complete.

        `writes` has true for writes; before its cycle in `arrivals` an access is not offered.
        """
        known = None if arrivals is None else _unsigned("arrivals", arrivals)
        given = None if writes is None else np.asarray(writes, bool)
        return self._inner.run(_unsigned("addresses", addresses), writes=given, arrivals=known, source=source)

    def statistics(self, *, channel: int | None = None, source: int | None = None) -> dict[str, Any]:
        """Counts since the start: of all, of one channel, or of one source. Of all also bandwidth and energy."""
        found: dict[str, Any] = json.loads(self._inner.statistics(channel=channel, source=source))
        return found

    def snapshot(self) -> bytes:
        """The state, for `restore` of a memory with the same device and options."""
        return self._inner.snapshot()

    def restore(self, snapshot: bytes) -> None:
        """Goes where the memory was at a snapshot."""
        self._inner.restore(snapshot)


def _unsigned(name: str, given: ArrayLike) -> NDArray[np.uint64]:
    array = np.asarray(given)
    if array.ndim != 1 or array.dtype.kind not in "iu" or (array.dtype.kind == "i" and array.size and array.min() < 0):
        raise _cptr.UsageError(f"{name}: expected one axis of whole numbers that are not negative")
    return array.astype(np.uint64)
