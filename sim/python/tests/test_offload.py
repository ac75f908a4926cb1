"""Experts on a drive: read when they run, bounded in memory, and back where they were."""

from __future__ import annotations

import numpy as np
import pytest
import test_attach
import tiny
import torch
from families import build

import cptr
from cptr.attached.store import File, Part, Pool

NAMES = list(tiny.MODELS)
MEMORY = 4


def eager(name: str):
    """A model whose experts run one by one with and without experts on a drive, so that floats are equal."""
    model = tiny.model(name)
    model.set_experts_implementation("eager")
    return model


@pytest.mark.parametrize("name", NAMES)
def test_text_and_logits_are_the_models(name, tmp_path):
    model, other = eager(name), eager(name)
    with cptr.attach(model, memory=MEMORY, offload=tmp_path) as attached:
        assert test_attach.generated(model) == test_attach.generated(other)
        with torch.no_grad():
            assert torch.equal(model(test_attach.ids()).logits, other(test_attach.ids()).logits)
        found = attached.statistics()
        assert found["reads"] > 0 and (tmp_path / "cptr-experts.bin").stat().st_size > 0
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_comes_back_bit_for_bit(name):
    model = tiny.model(name)
    before, pointers = test_attach.state(model), {id(p) for p in model.parameters()}
    attached = cptr.attach(model, memory=MEMORY, eps=0.2, offload=True)
    assert sum(p.numel() for p in model.parameters()) < sum(v.numel() for v in before.values())
    test_attach.generated(model)
    attached.detach()
    after = model.state_dict()
    assert all(torch.equal(after[n], v) and after[n].dtype == v.dtype for n, v in before.items())
    assert {id(p) for p in model.parameters()} == pointers
    assert torch.equal(model(test_attach.ids()).logits, tiny.model(name)(test_attach.ids()).logits)


def test_what_is_read_is_what_the_engine_says_while_it_decodes():
    """One token a pass: hits and reads of the drive are those of the engine's cache, and memory is what it holds."""
    model = tiny.model("olmoe")
    parts = [p for p in model.model.layers[0].mlp.experts.parameters()]
    expert = sum(p[0].numel() * p[0].element_size() for p in parts)
    with torch.no_grad(), cptr.attach(model, memory=MEMORY, strategy="lru", offload=True) as attached:
        for at in range(25):
            model(test_attach.ids()[:, at : at + 1])
            pool, found = attached.offload.pool, attached.statistics()
            assert [sorted(held) for held in pool.slots] == found["resident"]
            assert pool.held() <= expert * (MEMORY * len(pool.slots) + 1)
    assert found["reads"] == found["misses"] and found["read_hits"] == found["choices"] - found["misses"]
    assert found["bytes_read"] == found["reads"] * expert and found["read_hits"] > 0 and found["fetches"] == 0


def test_fewer_in_memory_than_a_token_runs():
    model, other = eager("olmoe"), eager("olmoe")
    with torch.no_grad(), cptr.attach(model, memory=1, offload=True) as attached:
        assert torch.equal(model(test_attach.ids()).logits, other(test_attach.ids()).logits)
        assert all(len(held) <= 1 for held in attached.offload.pool.slots)


def test_a_list_of_modules():
    model, other = build("switch_transformers"), build("switch_transformers")
    ids = test_attach.ids() % 150
    with torch.no_grad(), cptr.attach(model, memory=MEMORY, offload=True) as attached:
        assert attached.offload.is_list
        assert torch.equal(model(ids, decoder_input_ids=ids)[0], other(ids, decoder_input_ids=ids)[0])
        assert attached.statistics()["reads"] > 0
    after = other.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in model.state_dict().items())


def test_all_experts_at_once_are_refused_and_put_back():
    model = build("llama4")
    before, count = test_attach.state(model), test_attach.hooks(model)
    with pytest.raises(cptr.UnsupportedError, match="experts.gate_up_proj: expected experts one at a time"):
        cptr.attach(model, memory=MEMORY, offload=True)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert test_attach.hooks(model) == count


def test_a_file_that_is_there_is_not_written_over(tmp_path):
    (tmp_path / "cptr-experts.bin").write_text("mine")
    model = tiny.model("olmoe")
    with pytest.raises(cptr.FileError, match="File exists"):
        cptr.attach(model, memory=MEMORY, offload=tmp_path)
    assert (tmp_path / "cptr-experts.bin").read_text() == "mine" and model.model.layers[0].mlp.experts.down_proj.numel()


def test_a_pool_holds_no_more_than_its_room(tmp_path):
    file = File(tmp_path / "f")
    tensors = [[torch.full((3, 2), float(expert), dtype=torch.bfloat16)] for expert in range(10)]
    starts = [file.append(one) for one in tensors]
    pool = Pool(file, 3, [([Part((3, 2), torch.bfloat16)], starts)], [torch.device("cpu")])
    rng = np.random.default_rng(0)
    for _ in range(200):
        needed = set(rng.choice(10, 4, replace=False).tolist())
        keep = set(list(pool.slots[0])[:1]) | set(list(needed)[:2])
        pool.decided(0, needed, keep)
        for expert in sorted(needed):
            assert torch.equal(pool.tensors(0, expert)[0], tensors[expert][0])
        assert len(pool.slots[0]) <= 3 and keep <= pool.slots[0].keys()
    assert pool.hits + pool.reads == 800 and pool.hits > 100
    file.close()
