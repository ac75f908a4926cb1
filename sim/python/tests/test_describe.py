"""Descriptions that are found out against those that families are known to have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import build

import cptr

# From the routers' code in transformers.
KNOWN = {
    "dbrx": "softmax-selected",
    "jetmoe": "softmax-selected",
    "mixtral": "softmax-selected",
    "olmoe": "softmax-all",
    "deepseek_v3": "sigmoid:4:2:scale=2.5",
    "deepseek_v4": "sqrt-softplus:scale=1.5:table=3",
    "gemma4": "softmax-selected",
    "gpt_oss": "softmax-selected",
    "kolibri1": "sigmoid:1:1:bias=choice:renormalise=off",
    "llama4": "sigmoid:1:1:renormalise=off",
    "longcat_flash": "softmax-all:scale=6:null=4",
    "minimax_m2": "sigmoid:1:1",
    "mistral_large4": "softmax-all:4:2:rating=two:renormalise=on",
    "phimoe": "sparse-mixer:jitter=0.01",
    "switch_transformers": "softmax-all",
    "zaya": "softmax-all:null=1",
}


@pytest.mark.parametrize("family", KNOWN)
def test_the_description_is_the_familys(family):
    model = build(family)
    with cptr.attach(model) as attached:
        assert attached.routers.description.text == KNOWN[family] and attached.routers.description.weighs


def test_a_factor_for_each_expert_is_kept():
    model = build("gemma4")
    ids = torch.randint(3, 150, (1, 20))
    with torch.no_grad(), cptr.attach(model) as attached:
        model(input_ids=ids)
        trace = attached.trace()
    scale = model.get_submodule(attached.routers.all[0].name).per_expert_scale
    assert trace.expert_scale[0].tolist() == pytest.approx(scale.tolist()) and trace.explained[0] == 80


def test_null_experts_run_nothing_and_are_kept():
    model = build("longcat_flash")
    ids = torch.randint(3, 150, (1, 40))
    with torch.no_grad(), cptr.attach(model) as attached:
        model(input_ids=ids)
        trace = attached.trace()
    assert trace.shape[2] == 8 and trace.logits.shape[2] == 12
    assert ((trace.experts >= 8) & (trace.experts < 12)).any() and not (trace.experts >= 12).any()


def test_a_choice_behind_the_router_is_the_one_that_experts_are_given():
    """DBRX's routers return logits alone; stand-ins arrive with the weights that the description gives them."""
    model, arrived = build("dbrx"), []
    with torch.no_grad(), cptr.attach(model, memory=4, eps=0.2) as attached:
        for router in attached.routers.all:
            router.experts.register_forward_pre_hook(lambda _, args: arrived.append((args[1], args[2])))
        model(input_ids=torch.randint(3, 150, (1, 40)))
        trace, text = attached.trace(), attached.routers.description.text
    others = 0
    for layer, (chosen, weights) in enumerate(arrived):
        logits = np.ascontiguousarray(trace.logits[:, layer], np.float32)
        np.testing.assert_allclose(weights, cptr._cptr.weights(text, logits, chosen.numpy()), rtol=2e-3, atol=1e-5)
        others += (np.sort(chosen) != np.sort(trace.experts[:, layer])).any(-1).sum()
    assert len(arrived) == trace.shape[1] == 4 and trace.explained == (160, 160) and others > 10


def test_routers_of_attention_are_left_out():
    """JetMoE chooses parts of attention too; its answer says for each expert which tokens it has."""
    model, counts = build("jetmoe"), []
    with torch.no_grad(), cptr.attach(model) as attached:
        for router in attached.routers.all:
            router.module.register_forward_hook(lambda _m, _i, output: counts.append(output[3]))
        model(input_ids=torch.randint(3, 150, (1, 40)))
        trace = attached.trace()
    assert [router.name for router in attached.routers.all] == [f"model.layers.{at}.mlp.router" for at in range(4)]
    for layer, count in enumerate(counts):
        assert np.bincount(trace.experts[:, layer].ravel(), minlength=8).tolist() == count


def test_nllb_is_refused_as_its_experts_are_not_those_that_its_router_chooses():
    """Once transformers mends that, its form is to be added: docs/python.md says why it is missing."""
    model = build("nllb_moe")
    block = model.model.decoder.layers[3].ffn
    ran, chosen = set(), set()
    for name, expert in block.experts.items():
        expert.register_forward_hook(lambda *_, name=name: ran.add(name))
    block.router.register_forward_hook(lambda _m, _i, output: chosen.update(output[0].argmax(-1).tolist()))
    ids = torch.randint(3, 150, (1, 40))
    with torch.no_grad():
        model(input_ids=ids, decoder_input_ids=ids)
    assert ran == {"expert_0", "expert_1"} and not chosen <= {0, 1}
    with pytest.raises(cptr.UnsupportedError, match="NllbMoeTop2Router that returns"):
        cptr.attach(model)
