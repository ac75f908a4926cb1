"""Tests that need torch are left out where it is not installed; the rest runs with numpy alone."""

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "compat"))

collect_ignore = []
if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
    collect_ignore = [
        "test_attach.py",
        "test_offload.py",
        "test_describe.py",
        "test_capture.py",
        "test_switch.py",
        "tiny.py",
    ]
