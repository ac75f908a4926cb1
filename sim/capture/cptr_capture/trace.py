"""The native trace file (docs/traces.md)."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from .families import CaptureError, Description
from .recorder import Rows

FLOATS = {"f16": np.float16, "f32": np.float32}
PREFILL, DECODE = 0, 1


@dataclass
class Trace:
    """Tokens of one or more sequences with their routing; grows by `append`, ends as a file by `write`."""

    model: Description
    name: str
    source: str
    floats: str = "f32"
    domains: list[str] = field(default_factory=list)
    parts: list[dict[str, np.ndarray]] = field(default_factory=list)

    def append(self, rows: Rows, *, token, sequence, position, phase, domain: int) -> None:
        """Adds N tokens: N numbers each in `token`, `position` and `phase`, one in `sequence` and `domain`."""
        count = len(token)
        if rows.experts.shape[0] != count:
            raise CaptureError(f"the routers saw {rows.experts.shape[0]} tokens where {count} were given")
        if not bool(rows.logits.isfinite().all()):
            raise CaptureError("a router gave a logit that is not finite: try another --dtype")
        floats = FLOATS[self.floats]
        part = {
            "experts": rows.experts.numpy().astype(np.uint16),
            "logits": rows.logits.numpy().astype(floats),
            "weights": rows.weights.numpy().astype(floats),
            "token": np.asarray(token, dtype=np.uint32),
            "sequence": np.full(count, sequence, dtype=np.uint32),
            "position": np.asarray(position, dtype=np.uint32),
            "phase": np.asarray(phase, dtype=np.uint8),
            "domain": np.full(count, domain, dtype=np.uint8),
        }
        if rows.hidden is not None:
            part["hidden"] = rows.hidden.numpy().astype(np.float16)
        self.parts.append(part)

    def metadata(self) -> dict[str, str]:
        return {
            "model": self.name,
            "router": self.model.convention,
            "experts": str(self.model.experts),
            "top_k": str(self.model.top_k),
            "layers": str(len(self.model.layer_ids)),
            "source": self.source,
            "domains": ",".join(name.replace(",", ";") for name in self.domains),
            "layer_ids": ",".join(map(str, self.model.layer_ids)),
            "notes": "\n".join(self.model.notes),
        }

    def write(self, path: Path) -> None:
        """Writes the file; it appears whole or not at all."""
        if not self.parts:
            raise CaptureError("no token was captured: the texts are empty")
        tensors = {name: np.concatenate([part[name] for part in self.parts]) for name in self.parts[0]}
        temporary = path.with_name(path.name + ".tmp")
        try:
            save_file(tensors, temporary, metadata=self.metadata())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
