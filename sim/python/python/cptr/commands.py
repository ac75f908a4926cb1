"""The commands of `cptr` as functions: the same options, the same figures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from os import PathLike, fspath
from typing import Any

from . import _cptr
from .traces import Counts, Trace

Source = Trace | Counts | str | PathLike[str]
# What an error calls a recording that is no file.
IN_MEMORY = "<recording>"


class Answer(dict[str, Any]):
    """What a command says: the object that its `--json` prints. `print` shows its tables."""

    def __init__(self, values: Mapping[str, Any], text: str):
        super().__init__(values)
        self.text = text

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of its table, with all their columns."""
        rows: list[dict[str, Any]] = self["rows"]
        return rows

    @property
    def notes(self) -> list[str]:
        """What a reader of the rows should know."""
        notes: list[str] = self["notes"]
        return notes

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<cptr.Answer of {self['command']}: {len(self.rows)} rows>"


def _value(value: Any) -> str:
    """A value of an option; a list has commas between its items."""
    if isinstance(value, (str, PathLike)):
        return fspath(value)
    if isinstance(value, Iterable):
        return ",".join(_value(item) for item in value)
    return str(value)


def arguments(options: Mapping[str, Any]) -> list[str]:
    """Options of the command line: `domain_tokens=5` is `--domain-tokens=5`; None and False are left out."""
    line = []
    for name, value in options.items():
        option = "--" + name.replace("_", "-")
        if value is True:
            line.append(option)
        elif value is not None and value is not False:
            line.append(f"{option}={_value(value)}")
    return line


def _is_path(source: object) -> bool:
    return isinstance(source, (str, PathLike))


def command(name: str, *words: str, given: Trace | Counts | None = None, **options: Any) -> Answer:
    """Any command of `cptr` that gives rows, by its name: `command("layer", system="ndp")`.

    `words` are its arguments without a name, `options` those with one; `given` is a recording for commands that read
    one. Raises `UsageError` for what the command line would refuse.
    """
    inner = None if given is None else given._inner
    values, text = _cptr.answer([name, *words, *arguments(options)], inner)
    values = json.loads(values)
    if given is not None:
        values["inputs"] = {key: value for key, value in values["inputs"].items() if value != IN_MEMORY}
    return Answer(values, text)


def _on(name: str, source: Source, options: Mapping[str, Any]) -> Answer:
    if isinstance(source, (Trace, Counts)):
        return command(name, IN_MEMORY, given=source, **options)
    if not _is_path(source):
        raise _cptr.UsageError(f"expected a Trace, Counts or a path, found {type(source).__name__}")
    return command(name, fspath(source), **options)


def run(
    source: Source,
    strategies: str | Iterable[str] | None = None,
    *,
    resident: int | str | None = None,
    system: str | PathLike[str] | None = None,
    prefill: int | None = None,
    batch: int | None = None,
    **options: Any,
) -> Answer:
    """Strategies on a recording, as `cptr run --json` gives them, to the digit.

    `strategies`: such as `["lru", "bounded:eps=0.02+lru"]` (default: all presets that the source allows).
    `resident`: experts per layer, or bytes such as "8GB" (default: twice the active experts).
    `system`: a name of `systems()` or the TOML file of one. `prefill`: tokens of each sequence's prompt.
    `batch`: sequences side by side. Other options are those of the command: `bits`, `losses`, `ablate`, `context`, …
    """
    named = {"strategy": strategies, "resident": resident, "system": system, "prefill": prefill, "batch": batch}
    return _on("run", source, named | options)


def inspect(source: Source, **options: Any) -> Answer:
    """What `cptr inspect` says of a recording: switching, reuse, cache curves, locality, warnings.

    Options are those of the command: `cache=[4, 8]`, `parts`, `changes=True`, `recall=True`, `forecast=True`, …
    """
    return _on("inspect", source, options)


def advise(source: Source, *, resident: int | str | None = None, **options: Any) -> Answer:
    """What to do with experts that do not fit; the sentences are in `answer["advice"]`."""
    return _on("advise", source, {"resident": resident} | options)


def devices(source: Source, **options: Any) -> Answer:
    """Where the experts should lie on several near-data devices."""
    return _on("devices", source, options)


def plan(model: str | PathLike[str], *, trace: Source | None = None, **options: Any) -> Answer:
    """Which machine runs a model how fast, and how: a name of `models()`, or a config.json."""
    given = trace if isinstance(trace, (Trace, Counts)) else None
    named = IN_MEMORY if given is not None else trace
    return command("plan", fspath(model), given=given, trace=named, **options)


def serve(model: str | PathLike[str], **options: Any) -> Answer:
    """What users of a server wait for."""
    return command("serve", fspath(model), **options)


def layer(**options: Any) -> Answer:
    """One token in one layer of a machine, timed."""
    return command("layer", **options)
