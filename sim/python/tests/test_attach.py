"""Models attached: what is recorded, what a strategy changes, and that nothing is left behind."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from torch import nn

import cptr

NAMES = list(tiny.MODELS)
EPS = 0.2


def ids(rows: int = 1, length: int = 30) -> torch.Tensor:
    return torch.randint(0, 256, (rows, length), generator=torch.Generator().manual_seed(3))


def state(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def hooks(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def generated(model, new: int = 12) -> list[int]:
    out = model.generate(ids(length=8), max_new_tokens=new, do_sample=False, eos_token_id=None, pad_token_id=256)
    return out[0].tolist()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_recorded_is_what_the_experts_were_given(name):
    model, arrived = tiny.model(name), []
    with torch.no_grad(), cptr.attach(model) as attached:
        for router in attached.routers.all:
            experts = model.get_submodule(router.name.rsplit(".", 1)[0] + ".experts")
            experts.register_forward_pre_hook(lambda _, inputs: arrived.append(inputs[1:3]))
        model(ids())
        trace = attached.trace()
    assert len(arrived) == trace.shape[1] and trace.explained[0] == trace.explained[1] > 0
    for layer, (chosen, weights) in enumerate(arrived):
        weights, order = weights.sort(dim=-1, descending=True)
        np.testing.assert_array_equal(trace.experts[:, layer], chosen.gather(-1, order))
        np.testing.assert_array_equal(trace.weights[:, layer], weights.float())


def test_sequences_positions_and_phases_of_generate():
    model = tiny.model("olmoe")
    with cptr.attach(model) as attached:
        out = model.generate(ids(2, 9), max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=256)
        model(ids(1, 4))
        trace = attached.trace()
    # The last token that is decoded is never run.
    assert trace.sequence.tolist() == [0] * 13 + [1] * 13 + [2] * 4
    assert trace.position.tolist() == [*range(13)] * 2 + [*range(4)]
    assert trace.phase.tolist() == ([0] * 9 + [1] * 4) * 2 + [0] * 4
    assert trace.token.tolist() == [*out[0, :-1].tolist(), *out[1, :-1].tolist(), *ids(1, 4)[0].tolist()]


def test_left_padding_is_left_out():
    model, text = tiny.model("mixtral"), ids(1, 6)
    padded, mask = torch.cat([torch.full((1, 3), 256), text], 1), torch.tensor([[0] * 3 + [1] * 6])
    both, masks = torch.cat([padded, ids(1, 9)]), torch.cat([mask, torch.ones(1, 9, dtype=torch.long)])
    with torch.no_grad(), cptr.attach(model) as attached:
        model(both, attention_mask=masks)
        trace = attached.trace()
    assert trace.sequence.tolist() == [0] * 6 + [1] * 9
    assert trace.position.tolist() == [*range(6), *range(9)] and trace.token[:6].tolist() == text[0].tolist()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_lost_is_the_model_itself(name):
    model, other = tiny.model(name), tiny.model(name)
    with cptr.attach(model, memory=4, eps=0) as attached:
        assert generated(model) == generated(other)
        with torch.no_grad():
            assert torch.equal(model(ids()).logits, other(ids()).logits)
        found = attached.statistics()
    assert found["agree"] == 1 and found["mass_loss"] == 0 and 0 < found["hit_rate"] < 1


@pytest.mark.parametrize("name", NAMES)
def test_stand_ins_are_weighed_by_the_models_own_router(name):
    """What the experts get is the engine's choice, with weights that follow from the logits by the description."""
    model, arrived = tiny.model(name), []
    with torch.no_grad(), cptr.attach(model, memory=4, eps=EPS) as attached:
        routers = attached.routers
        for router in routers.all:
            experts = model.get_submodule(router.name.rsplit(".", 1)[0] + ".experts")
            experts.register_forward_pre_hook(lambda _, inputs: arrived.append(inputs[1:3]))
        model(ids())
        trace, found = attached.trace(), attached.statistics()
    assert 0 < found["worst_mass_loss"] <= EPS + 1e-4 and 0.3 < found["agree"] < 1
    changed = 0
    for layer, (chosen, weights) in enumerate(arrived):
        expected = cptr._cptr.weights(
            routers.description.text, np.ascontiguousarray(trace.logits[:, layer], np.float32), chosen.numpy()
        )
        np.testing.assert_allclose(weights.float(), expected, rtol=2e-3, atol=1e-5)
        changed += (np.sort(chosen) != np.sort(trace.experts[:, layer])).any(-1).sum()
    assert changed > 10


def test_the_engine_decides_as_it_does_for_the_recording():
    """Hit rates of a model that nothing is replaced in are those of its trace in `run`."""
    model = tiny.model("qwen3_moe")
    with torch.no_grad(), cptr.attach(model, memory=4, strategy="lru") as attached:
        for at in range(60):
            model(ids(1, 60)[:, at : at + 1])
        trace, found = attached.trace(), attached.statistics()
    row = cptr.run(trace, "lru", resident=4).rows[0]
    assert 1 - found["hit_rate"] == pytest.approx(row["miss_rate"], abs=1e-12)


def test_detached_is_as_before():
    model = tiny.model("deepseek_v2 grouped").train()
    before, count = state(model), hooks(model)
    attached = cptr.attach(model, memory=4, eps=EPS)
    assert hooks(model) > count
    attached.detach()
    attached.detach()
    after = model.state_dict()
    assert hooks(model) == count and list(after) == list(before) and model.training
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not hasattr(model, "_cptr_attached")


class Odd(nn.Module):
    """Chooses the smallest logits."""

    def __init__(self, router):
        super().__init__()
        self.router = router

    def forward(self, hidden):
        logits, weights, _ = self.router(hidden)
        ids = logits.topk(3, largest=False).indices
        return logits, weights, ids


def odd():
    model = tiny.model("olmoe")
    layer = model.model.layers[1].mlp
    layer.gate = type("OddRouter", (Odd,), {})(layer.gate)
    layer.gate.router.__class__ = type("Inner", (type(layer.gate.router),), {})
    return model


@pytest.mark.parametrize(
    ("make", "options", "kind", "message"),
    [
        (
            odd,
            {},
            cptr.UnsupportedError,
            r"^model\.layers\.1\.mlp\.gate: expected a choice .* OddRouter chose otherwise",
        ),
        (
            lambda: tiny.model("olmoe"),
            {"routers": ["model.norm"]},
            cptr.UnsupportedError,
            "^model.norm: expected a router",
        ),
        (lambda: tiny.model("olmoe"), {"routers": ["nowhere"]}, cptr.UsageError, "found \\['nowhere'\\]"),
        (lambda: tiny.model("olmoe"), {"memory": 99}, cptr.UsageError, "memory: expected 1 to 8 experts per layer"),
        (lambda: tiny.model("olmoe"), {"eps": 0.1}, cptr.UsageError, "expected memory"),
        (lambda: tiny.model("olmoe"), {"memory": 4, "eps": 2}, cptr.UsageError, "a share from 0 to 1, found 2"),
        (lambda: tiny.model("olmoe"), {"memory": 4, "strategy": "belady"}, cptr.UnsupportedError, "belady: "),
        (lambda: tiny.model("olmoe"), {"memory": 4, "strategy": "migrate"}, cptr.UnsupportedError, "in one place"),
        (lambda: tiny.model("olmoe"), {"memory": 4, "strategy": "nonsense"}, cptr.CptrError, "expected a strategy"),
        (lambda: tiny.model("olmoe"), {"offload": True}, cptr.UsageError, "offload: expected memory"),
        (lambda: tiny.model("olmoe"), {"memory": 4, "offload": "/no/where"}, cptr.FileError, "/no/where"),
        (lambda: tiny.dense(), {}, cptr.UnsupportedError, "^llama: expected a model with routers, found none"),
        (lambda: nn.Linear(2, 2), {}, cptr.UsageError, "expected a model of transformers, found Linear"),
    ],
)
def test_refused_in_one_sentence_with_nothing_attached(make, options, kind, message):
    model = make()
    before, count = state(model), hooks(model)
    with pytest.raises(kind, match=message) as error:
        cptr.attach(model, **options)
    assert "\n" not in str(error.value) and hooks(model) == count
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_attached_twice_is_refused():
    model = tiny.model("olmoe")
    with cptr.attach(model):
        with pytest.raises(cptr.UsageError, match="detach first"):
            cptr.attach(model)
    cptr.attach(model).detach()


def test_a_router_that_turns_odd_is_noticed_while_it_runs():
    model = tiny.model("mixtral")
    with torch.no_grad(), cptr.attach(model):
        model.model.layers[2].mlp.gate.forward = Odd(tiny.model("mixtral").model.layers[2].mlp.gate).forward
        with pytest.raises(cptr.UnsupportedError, match=r"^model\.layers\.2\.mlp\.gate: expected the choice that soft"):
            model(ids())


def test_strategies_that_couple_layers_take_one_token_at_a_time():
    model = tiny.model("olmoe")
    with torch.no_grad(), cptr.attach(model, memory=4, strategy="recall") as attached:
        for at in range(8):
            model(ids()[:, at : at + 1])
        assert attached.statistics()["tokens"] == 8
        with pytest.raises(cptr.UnsupportedError, match="recall: expected one token at a time"):
            model(ids())
        # And goes on.
        model(ids()[:, :1])
        assert attached.statistics()["tokens"] == 9


def test_tokens_beyond_those_that_are_counted():
    model = tiny.model("olmoe")
    with torch.no_grad(), cptr.attach(model, memory=4, tokens=40):
        model(ids())
        with pytest.raises(cptr.UsageError, match="expected at most 40 in all"):
            model(ids())


def test_without_a_run_there_is_no_trace():
    with cptr.attach(tiny.model("olmoe")) as attached:
        with pytest.raises(cptr.UnsupportedError, match="has not run"):
            attached.trace()
