"""The names that arguments take, and what they mean."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from . import _cptr


@cache
def _lists() -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = json.loads(_cptr.lists())
    return found


def strategies() -> list[dict[str, Any]]:
    """Every part that a strategy can have: axis, name, help, needs, parameters (name, default, unit, help)."""
    return _lists()["strategies"]


def presets() -> list[dict[str, Any]]:
    """Names for whole strategies: name, help, and the five parts."""
    return _lists()["presets"]


def formats() -> list[dict[str, Any]]:
    """The formats that `read` knows: name, help."""
    return _lists()["formats"]


def systems() -> list[dict[str, Any]]:
    """Modelled machines: name, help."""
    return _lists()["systems"]


def models() -> list[str]:
    """Models whose sizes are known."""
    return [model["name"] for model in _lists()["models"]]


def device_names() -> list[str]:
    """Memory devices that `Memory` knows."""
    return [device["name"] for device in _lists()["devices"]]
