"""Switch Transformers: one expert a token, a decoder beside an encoder, and a router that answers in another order."""

import numpy as np
import tiny
import torch
from test_capture import DOCUMENTS, TEXT, read, softmax
from transformers import AutoConfig, AutoModelForSeq2SeqLM

import cptr
from cptr.capture import Document, capture
from cptr.capture.__main__ import main


def switch():
    torch.manual_seed(7)
    made = AutoModelForSeq2SeqLM.from_config(
        AutoConfig.for_model(
            "switch_transformers",
            vocab_size=tiny.VOCABULARY,
            d_model=32,
            d_kv=8,
            d_ff=16,
            num_heads=4,
            num_layers=2,
            num_decoder_layers=4,
            num_sparse_encoder_layers=1,
            num_sparse_decoder_layers=2,
            num_experts=8,
            expert_capacity=64,
            decoder_start_token_id=256,
            pad_token_id=256,
            eos_token_id=256,
        )
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.3)
    return made.eval()


def captured(tmp_path, documents=DOCUMENTS, **options):
    capture(switch(), tiny.tokenizer(), documents, name="tiny", context=40, **options).write(tmp_path / "t.safetensors")
    return read(tmp_path / "t.safetensors")


def test_the_sparse_layers_of_the_decoder_with_one_expert_each(tmp_path):
    tensors, metadata = captured(tmp_path)
    tokens = sum(len(document.text) + 1 for document in DOCUMENTS)
    assert tensors["experts"].shape == tensors["weights"].shape == (tokens, 2, 1)
    assert (metadata["router"], metadata["layer_ids"], metadata["top_k"]) == ("softmax-all", "1,3", "1")
    logits = tensors["logits"].astype(float)
    assert (tensors["experts"][..., 0] == logits.argmax(-1)).all()
    np.testing.assert_allclose(tensors["weights"][..., 0], softmax(logits).max(-1), rtol=1e-4)
    assert len(set(tensors["experts"].ravel().tolist())) > 2


def test_equals_what_the_experts_were_given():
    model, arrived = switch(), []
    tokens = torch.tensor([[256, *range(40, 70)]])
    with torch.no_grad(), cptr.attach(model) as attached:
        for router in attached.routers.all:
            router.module.register_forward_hook(lambda _m, _i, output: arrived.append(output[0].argmax(-1).reshape(-1)))
        model(tokens, decoder_input_ids=tokens)
        trace = attached.trace()
    assert len(arrived) == 2 == trace.shape[1]
    for layer, ids in enumerate(arrived):
        np.testing.assert_array_equal(trace.experts[:, layer, 0], ids)


def test_batches_change_nothing(tmp_path):
    alone, together = captured(tmp_path)[0], captured(tmp_path, batch=4)[0]
    assert (alone["experts"] == together["experts"]).all()
    np.testing.assert_allclose(alone["logits"], together["logits"], rtol=1e-3, atol=1e-4)


def test_decoding_equals_a_second_prefill(tmp_path):
    tensors, _ = captured(tmp_path, [Document("fox", TEXT[:20])], generate=6)
    assert tensors["phase"].tolist() == [0] * 21 + [1] * 6
    ids = torch.tensor([tensors["token"].astype(int).tolist()])
    model = switch()
    with torch.no_grad(), cptr.attach(model) as attached:
        model(ids[:, :21], decoder_input_ids=ids)
        again = attached.trace()
    np.testing.assert_allclose(tensors["logits"], again.logits, rtol=1e-3, atol=1e-3)


def test_command_line(tmp_path):
    switch().save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "poem.txt").write_text(TEXT)
    arguments = [
        str(tmp_path / "model"),
        "--text",
        str(tmp_path / "poem.txt"),
        "--out",
        str(tmp_path / "t.safetensors"),
    ]
    assert main([*arguments, "--context", "60", "--generate", "2"]) == 0
    assert read(tmp_path / "t.safetensors")[0]["phase"].sum() == 2 * 2
