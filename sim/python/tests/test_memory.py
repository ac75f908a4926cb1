"""The memory engine: single requests, many at once, and calls that are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import cptr


def channels() -> cptr.Memory:
    return cptr.Memory("DDR5-4800", channels=2, stripe=256, priorities=[0, 1])


def test_one_by_one_is_what_many_at_once_give():
    addresses = np.random.default_rng(0).integers(0, 1 << 20, 3000) * 64
    writes = np.random.default_rng(1).random(3000) < 0.3
    many, single = channels(), channels()
    cycles, latencies = many.run(addresses, writes=writes)
    found, ids, at = {}, {}, 0
    while len(found) < len(addresses):
        soon = None
        while at < len(addresses):
            try:
                ids[single.offer(int(addresses[at]), write=bool(writes[at]))] = at
                at += 1
            except cptr.MemoryBusyError as error:
                soon = single.now + 1 if "this cycle" in str(error) else None
                break
        single.advance(min(cycle for cycle in (single.next_event(), soon) if cycle is not None))
        for done in single.completions():
            found[ids[done.id]] = done
    assert [found[at].cycle for at in range(3000)] == cycles.tolist()
    assert [found[at].latency for at in range(3000)] == latencies.tolist()
    assert [found[at].write for at in range(3000)] == writes.tolist()
    assert many.statistics() == single.statistics() and many.idle


def test_counts_of_channels_and_sources_add_up():
    memory = channels()
    memory.run(np.arange(500) * 64)
    memory.run(np.arange(200) * 64, source=1)
    whole = memory.statistics()
    parts = [memory.statistics(channel=channel) for channel in range(memory.channels)]
    sources = [memory.statistics(source=source) for source in range(2)]
    assert whole["reads_served"] == 700 == sum(part["reads_served"] for part in parts)
    assert [one["reads_served"] for one in sources] == [500, 200] and "conflicts_with_others" in sources[1]
    assert 0 < whole["bandwidth_gb_s"] and whole["energy_pj"]["read"] > 0


def test_a_snapshot_is_gone_back_to():
    memory = channels()
    memory.offer(64)
    before = memory.snapshot()
    memory.advance(500)
    first = memory.completions()
    memory.restore(before)
    assert memory.now == 0
    memory.advance(500)
    assert memory.completions() == first and len(first) == 1


def test_arrivals_are_waited_for():
    cycles, latencies = channels().run([0, 64], arrivals=[0, 10_000])
    assert cycles[1] - latencies[1] >= 10_000 > cycles[0]


def test_completions_of_single_requests_outlast_a_run():
    memory = channels()
    one = memory.offer(1 << 20)
    memory.run([0, 64, 128])
    with pytest.raises(cptr.MemoryEngineError, match="to be taken before a snapshot"):
        memory.snapshot()
    assert [done.id for done in memory.completions()] == [one]
    memory.snapshot()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.offer(3), "not a multiple of the 64 bytes"),
        (lambda m: m.offer(m.capacity), "lies outside the memory"),
        (lambda m: m.offer(0, source=2), "expected a source below 2, found 2"),
        (lambda m: m.advance(1 << 60), "2\\^48|cycle"),
        (lambda m: m.completes(77), "has this number"),
        (lambda m: m.restore(b"x" * 100), "expected a snapshot"),
        (lambda m: m.run([0, 64, 3]), "request 2: address 0x3"),
        (lambda m: m.statistics(channel=2), "expected a channel that there is, found 2"),
    ],
)
def test_a_refused_call_changes_nothing(call, message):
    memory = channels()
    memory.offer(64)
    memory.advance(10)
    before = memory.snapshot()
    with pytest.raises(cptr.MemoryEngineError, match=message) as error:
        call(memory)
    assert memory.snapshot() == before and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cptr.Memory("DDR3"), "device: expected one of DDR4-3200"),
        (lambda: cptr.Memory("DDR5-4800", depth=3), "expected one of mapping"),
        (lambda: channels().run([-64]), "not negative"),
        (lambda: channels().run([0, 64], writes=[True]), "writes: expected 2 values, found 1"),
        (lambda: channels().statistics(channel=0, source=0), "found both"),
    ],
)
def test_what_is_wrong_is_said(call, message):
    with pytest.raises(cptr.UsageError, match=message):
        call()


def test_a_device_file():
    file = Path(__file__).resolve().parents[3] / "hw-model" / "data" / "devices" / "ddr5-4800.toml"
    assert (
        cptr.Memory(file).snapshot() == cptr.Memory("DDR5-4800").snapshot() == cptr.Memory(file.read_text()).snapshot()
    )
    assert json.dumps(cptr.Memory(file).statistics())
