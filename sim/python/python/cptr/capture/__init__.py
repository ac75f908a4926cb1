"""From texts to a trace: `capture` runs them through a model, `python -m cptr.capture` is that on the command line."""

from .texts import Document, capture, read_documents

__all__ = ["Document", "capture", "read_documents"]
