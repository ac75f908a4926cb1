"""Traces and commands against the command line; nothing here needs torch."""

from __future__ import annotations

import gc
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import cptr

DATA = Path(__file__).resolve().parents[2] / "data"
TINY = DATA / "tiny-moe-8m.safetensors"
CPTR = os.environ.get("CPTR") or shutil.which("cptr")
by_command = pytest.mark.skipif(not CPTR, reason="no cptr command: set CPTR=path/to/cptr")


def command(*words: str) -> dict:
    """What the command prints as JSON."""
    done = subprocess.run([CPTR, *words, "--json"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def tiny() -> cptr.Trace:
    return cptr.read(TINY, tokens=600)


def random(tokens: int = 300) -> cptr.Trace:
    order = np.random.default_rng(0).random((tokens, 3, 8)).argsort(-1)
    return cptr.Trace(order[..., :2], model="olmoe")


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("name", ["experts", "logits", "weights", "sequence", "position", "phase", "domain"])
def test_arrays_are_views_of_one_memory_that_nobody_can_write_to(tiny, name):
    first, second = getattr(tiny, name), getattr(tiny, name)
    if first is None:
        pytest.skip(f"the bundled trace has no {name}")
    assert address(first) == address(second) and not first.flags.owndata and not first.flags.writeable
    assert len(first) == 600
    with pytest.raises(ValueError):
        first.setflags(write=True)
    with pytest.raises(ValueError):
        first[0] = 0


def test_logits_of_a_native_file_are_the_mapped_file(tmp_path):
    logits = np.random.default_rng(0).normal(size=(64, 2, 8)).astype(np.float16)
    cptr.Trace(logits=logits, top_k=2, router="softmax-all").write(tmp_path / "t.safetensors")
    found = cptr.read(tmp_path / "t.safetensors").logits
    assert found.dtype == np.float16 and (found == logits).all()
    maps = Path("/proc/self/maps").read_text().splitlines()
    ranges = [line.split()[0].split("-") for line in maps if line.endswith("t.safetensors")]
    assert any(int(low, 16) <= address(found) < int(high, 16) for low, high in ranges)


def test_a_view_outlives_its_trace():
    trace = random()
    view, copy = trace.experts, trace.experts.copy()
    del trace
    assert (view == copy).all()


@pytest.mark.parametrize("kind", [np.float16, np.float32])
@pytest.mark.parametrize("owner", ["array", "view", "bytes", "file", "trace"])
def test_floats_that_nobody_can_write_to_are_not_copied(tmp_path, kind, owner):
    logits = np.random.default_rng(0).normal(size=(64, 2, 8)).astype(kind)
    if owner == "bytes":
        given = np.frombuffer(logits.tobytes(), kind).reshape(logits.shape)
    elif owner == "file":
        np.save(tmp_path / "logits.npy", logits)
        given = np.load(tmp_path / "logits.npy", mmap_mode="r")
    elif owner == "trace":
        given = cptr.Trace(logits=logits, top_k=2).logits
    else:
        given = logits.copy()
        given.flags.writeable = False
        given = given[16:48] if owner == "view" else given
    trace = cptr.Trace(logits=given, top_k=2, router="softmax-all")
    assert address(trace.logits) == address(given)
    found, wanted = trace.logits, given.copy()
    del trace, given
    gc.collect()
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("how", ["writeable", "view", "bytearray", "memoryview", "order"])
def test_floats_that_somebody_can_write_to_are_copied(how):
    logits = np.random.default_rng(0).normal(size=(64, 2, 8)).astype(np.float32)
    owner = bytearray(logits.tobytes())
    given = {
        "writeable": lambda: logits.copy(),
        # Itself read-only, of an array that is not.
        "view": lambda: logits.copy()[:],
        # Read-only down to their owner, who is not.
        "bytearray": lambda: np.ndarray(logits.shape, np.float32, owner),
        "memoryview": lambda: np.frombuffer(memoryview(owner).toreadonly(), np.float32).reshape(logits.shape),
        "order": lambda: np.asfortranarray(logits),
    }[how]()
    if how != "writeable":
        given.flags.writeable = False
    trace = cptr.Trace(logits=given, top_k=2)
    assert address(trace.logits) != address(given)
    if how in ("writeable", "view"):
        (given if how == "writeable" else given.base)[:] = 0
    owner[:] = bytes(len(owner))
    np.testing.assert_array_equal(trace.logits, logits)


def test_arrays_come_back_as_they_went_in(tmp_path):
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(50, 2, 8)).astype(np.float32)
    experts = np.argsort(-logits, -1)[..., :3]
    shares = np.exp(np.take_along_axis(logits, experts, -1))
    given = {
        "experts": experts.astype(np.int64),
        "logits": logits,
        "weights": (shares / shares.sum(-1, keepdims=True)).astype(np.float32),
        "hidden": rng.normal(size=(50, 1, 4)).astype(np.float16),
        "token": np.arange(50),
        "sequence": np.repeat([3, 9], 25),
        "position": np.tile(np.arange(25), 2),
        "phase": np.repeat([0, 1], 25),
        "domain": np.repeat([1, 0], 25),
    }
    names = {
        "router": "softmax-selected",
        "domains": ["law", "code"],
        "layer_ids": [1, 3],
        "model": "m",
        "notes": ["n"],
    }
    trace = cptr.Trace(**given, **names)
    trace.write(tmp_path / "t.safetensors")
    again = cptr.read(tmp_path / "t.safetensors")
    for one in (trace, again):
        assert one.shape == (50, 2, 8, 3)
        for name, value in given.items():
            np.testing.assert_array_equal(getattr(one, name), value, name)
        for name, value in names.items():
            assert getattr(one, name) == value
        assert one.explained == (100, 100)


@by_command
@pytest.mark.parametrize(
    ("strategies", "options"),
    [
        (None, {"tokens": 200}),
        (["lru", "belady", "bounded:eps=0.04", "recall-fetch:gain=off"], {"resident": 8, "tokens": 600}),
        (["ctx-aware", "migrate"], {"system": "ndp", "prefill": 64, "tokens": 400}),
        (["bounded"], {"ablate": True, "batch": 2, "tokens": 300}),
    ],
)
def test_run_is_the_commands_to_the_digit(strategies, options):
    words = [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]
    if strategies:
        words.append(f"--strategy={','.join(strategies)}")
    expected = command("run", str(TINY), *words)
    tokens = options.pop("tokens")
    of_file = cptr.run(TINY, strategies, tokens=tokens, **options)
    of_memory = cptr.run(cptr.read(TINY, tokens=tokens), strategies, **options)
    # How it was asked for, and of which files, is said by each in its way.
    same = [key for key in expected if key not in ("inputs", "files", "command_line")]
    for found in (of_file, of_memory):
        assert found.rows == expected["rows"] and len(found.rows) > 0
        assert {key: found[key] for key in same} == {key: expected[key] for key in same}
        assert found["command_line"].startswith("cptr run ")
    for key in ("inputs", "files"):
        assert of_file[key] == expected[key]


@by_command
def test_inspect_advise_plan_are_the_commands(tiny):
    assert cptr.inspect(tiny).rows == command("inspect", str(TINY), "--tokens=600")["rows"]
    words = ("--hidden=256", "--expert-inner=256", "--resident=8")
    advice = cptr.advise(tiny, resident=8, hidden=256, expert_inner=256)
    assert advice.rows == command("advise", str(TINY), "--tokens=600", *words)["rows"]
    assert cptr.plan("olmoe", bits=[4, 8]).rows == command("plan", "olmoe", "--bits=4,8")["rows"]


def test_what_is_printed_is_the_table(tiny):
    answer = cptr.run(tiny, "lru", resident=8)
    assert "| lru" in str(answer) and "8 of 32 experts a layer" in str(answer)
    assert repr(answer) == "<cptr.Answer of run: 1 rows>"


def test_other_threads_go_on_while_it_works(tiny):
    """The interpreter is released: another thread gets its turn again and again within one call."""
    turns, done = [], threading.Event()
    thread = threading.Thread(target=lambda: [turns.append(1) for _ in iter(lambda: done.wait(0.001), True)])
    thread.start()
    before = len(turns)
    cptr.run(tiny, resident=8)
    within = len(turns) - before
    done.set()
    thread.join()
    assert within > 5


def test_lists_say_what_arguments_take():
    names = {row["name"] for row in cptr.strategies() if row["axis"] == "select"}
    assert {"raw", "bounded", "cache-prior"} <= names
    bounded = next(row for row in cptr.strategies() if row["name"] == "bounded")
    assert bounded["parameters"][0]["name"] == "eps" and bounded["parameters"][0]["default"] == "0.04"
    assert "lru" in {row["name"] for row in cptr.presets()} and "numpy" in {row["name"] for row in cptr.formats()}
    assert "ndp" in {row["name"] for row in cptr.systems()} and "gpt-oss-20b" in cptr.models()
    assert "DDR5-4800" in cptr.device_names()


def test_reading_has_the_commands_options(tmp_path):
    ids = np.random.default_rng(0).random((2, 40, 16)).argsort(-1)[..., :2]
    np.save(tmp_path / "ids.npy", ids)
    trace = cptr.read(tmp_path / "ids.npy", experts=16, layout="layer-token", model="m", chunk=10)
    assert trace.shape == (40, 2, 16, 2) and trace.model == "m" and trace.sequence[-1] == 3
    assert (trace.experts == ids.swapaxes(0, 1)).all()


def test_counts(tmp_path):
    (tmp_path / "c.json").write_text(
        json.dumps({"total_input_tokens": 3, "expert_popularity": [[3, 1, 0, 2], [0, 4, 1, 1]]})
    )
    counts = cptr.read(tmp_path / "c.json")
    assert isinstance(counts, cptr.Counts) and counts.tables[0].counts.tolist() == [[3, 1, 0, 2], [0, 4, 1, 1]]
    assert cptr.inspect(counts).rows and cptr.run(counts, resident=2).rows
    with pytest.raises(cptr.CptrError, match="found counts"):
        cptr.advise(counts)


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch bomb-went-off",))


@pytest.mark.parametrize("name", ["t.pt", "t.pkl", "t.npy", "t.npz"])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    if name.endswith("npy"):
        np.save(name, np.array([Bomb()], object), allow_pickle=True)
    elif name.endswith("npz"):
        np.savez(name, experts=np.array([Bomb()], object))
    else:
        Path(name).write_bytes(pickle.dumps({"routed_experts": Bomb()}))
    with pytest.raises(cptr.CptrError) as error:
        cptr.read(name)
    assert "\n" not in str(error.value) and sorted(path.name for path in tmp_path.iterdir()) == [name]


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: cptr.read("no/where"), cptr.FileError, "no/where"),
        (lambda: cptr.read(TINY, tokens=0), cptr.InputError, "expected at least 1, found 0"),
        (lambda: cptr.read(TINY, token=3), cptr.UsageError, "unexpected argument '--token'"),
        (lambda: cptr.run(random(), "lru+lfu"), cptr.UsageError, "expected one residency"),
        (lambda: cptr.run(random(), "bounded"), cptr.InputError, "needs all router logits"),
        (lambda: cptr.run(random(), resident=99), cptr.InputError, "expected 1 to 8 experts per layer, found 99"),
        (lambda: cptr.run(random(), model="x"), cptr.UsageError, "no option of reading"),
        (lambda: cptr.run(random(), json=True), cptr.UsageError, "the answer is returned"),
        (lambda: cptr.run(3), cptr.UsageError, "expected a Trace, Counts or a path, found int"),
        (lambda: cptr.plan("gpt-oss-120b", trace=random()), cptr.InputError, "as gpt-oss-120b has them, found 2 of 8"),
        (lambda: cptr.plan("gpt-9"), cptr.InputError, "expected a config.json, or one of"),
        (lambda: cptr.Trace([[[0, 0]]], num_experts=4), cptr.InputError, "found 0 twice"),
        (lambda: cptr.Trace([[[0.5]]]), cptr.UsageError, "expected whole numbers, found float64"),
        (lambda: cptr.Trace([[[70_000]]]), cptr.UsageError, "expected numbers from 0 to 65535"),
        (lambda: cptr.Trace([[0, 1]]), cptr.UsageError, r"expected \[tokens, layers, k\]"),
        (lambda: cptr.Trace(), cptr.UsageError, "expected experts, or logits and top_k"),
        (lambda: cptr.Trace(logits=np.zeros((2, 1, 4)), top_k=9), cptr.UsageError, "expected 1 to 4 experts, found 9"),
        (lambda: cptr.Trace([[[0]]], sequence=[0, 1]), cptr.InputError, "sequence: expected 1 values, found 2"),
        (lambda: cptr.Trace([[[0]]], router="best"), cptr.UsageError, "expected a router convention"),
        (lambda: cptr.Trace([[[0]]], logits=np.full((1, 1, 4), np.nan)), cptr.InputError, "logit"),
        (lambda: random().write("/no/such/folder/t"), cptr.FileError, "No such file"),
        (lambda: random().first(0), cptr.UsageError, "expected at least 1"),
    ],
)
def test_bad_input_is_one_sentence_of_a_type(call, kind, message):
    with pytest.raises(kind, match=message) as error:
        call()
    assert isinstance(error.value, cptr.CptrError) and isinstance(error.value, ValueError)
    assert "\n" not in str(error.value)


def test_without_torch_attach_says_what_it_needs():
    code = "import sys; sys.modules['torch'] = None; import cptr; cptr.attach"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "UnsupportedError: cptr.attach needs torch: pip install 'cptr[transformers]'" in done.stderr
