"""Captures the routing of a running `transformers` mixture-of-experts model as a native cptr trace.

    with Recorder(model) as recorder:
        model(input_ids)
        layers = recorder.take()

`capture` does the whole job from texts to a file; `python -m cptr_capture` is that on the command line.
"""

from .capture import Document, capture, read_documents
from .families import FAMILIES, CaptureError, describe
from .recorder import Recorder
from .trace import Trace

__all__ = ["FAMILIES", "CaptureError", "Document", "Recorder", "Trace", "capture", "describe", "read_documents"]
