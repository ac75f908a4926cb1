"""Mixture-of-experts routing: traces, strategies for experts in slow memory, the memory engine, and models attached.

    import cptr
    trace = cptr.read("trace.safetensors")
    print(cptr.run(trace, ["lru", "bounded:eps=0.04"], resident=16))

`attach` and `cptr.capture` need `torch` and `transformers`, plots need `matplotlib`; the rest needs numpy alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._cptr import (
    CptrError,
    FileError,
    InputError,
    MemoryBusyError,
    MemoryEngineError,
    UnsupportedError,
    UsageError,
    __version__,
)
from .commands import Answer, advise, command, devices, inspect, layer, plan, run, serve
from .lists import device_names, formats, models, presets, strategies, systems
from .memory import Completion, Memory
from .traces import Counts, CountTable, Trace, read

if TYPE_CHECKING:
    from .attached import Attached, attach

__all__ = [
    "Answer",
    "Attached",
    "Completion",
    "CountTable",
    "Counts",
    "CptrError",
    "FileError",
    "InputError",
    "Memory",
    "MemoryBusyError",
    "MemoryEngineError",
    "Trace",
    "UnsupportedError",
    "UsageError",
    "__version__",
    "advise",
    "attach",
    "command",
    "device_names",
    "devices",
    "formats",
    "inspect",
    "layer",
    "models",
    "plan",
    "presets",
    "read",
    "run",
    "serve",
    "strategies",
    "systems",
]


def __getattr__(name: str) -> Any:
    """`attach` comes with torch, which is only imported by those who use it."""
    if name not in ("attach", "Attached"):
        raise AttributeError(f"module 'cptr' has no attribute {name!r}")
    try:
        from . import attached as module
    except ModuleNotFoundError as error:
        raise UnsupportedError(f"cptr.{name} needs {error.name}: pip install 'cptr[transformers]'") from error
    globals().update(attach=module.attach, Attached=module.Attached)
    return globals()[name]
