"""Progress of long work: tqdm where it is installed, and only on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def progress(items: Iterable[T], total: int, verb: str) -> Iterator[T]:
    """The items, with a bar while they are gone through."""
    try:
        from tqdm.auto import tqdm
    except ModuleNotFoundError:
        return iter(items)
    return iter(tqdm(items, total=total, desc=verb, leave=False, disable=not sys.stderr.isatty()))
