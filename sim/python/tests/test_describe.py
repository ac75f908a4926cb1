"""Descriptions that are found out against those that families are known to have."""

from __future__ import annotations

import pytest
import torch
from families import build

import cptr

# From the routers' code in transformers.
KNOWN = {
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
