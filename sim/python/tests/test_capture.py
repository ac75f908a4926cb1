"""The trace against the models' own answers and against the definition of each router convention."""

import os
import shutil
import subprocess

import numpy as np
import pytest
import tiny
import torch
from safetensors import safe_open

import cptr
from cptr.capture import Document, capture, read_documents
from cptr.capture.__main__ import main

TEXT = "The quick brown fox jumps over the lazy dog; then it sleeps, and dreams of a slower one."
DOCUMENTS = [Document("fox", TEXT), Document("dog", TEXT[::-1]), Document("fox", TEXT[:30])]


def read(path):
    with safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()


def captured(name, tmp_path, **options):
    capture(tiny.model(name), tiny.tokenizer(), DOCUMENTS, name="tiny", context=40, **options).write(
        tmp_path / "trace.safetensors"
    )
    return read(tmp_path / "trace.safetensors")


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("name", tiny.MODELS)
def test_shapes_and_metadata(name, tmp_path):
    tensors, metadata = captured(name, tmp_path)
    _, _, convention, layers = tiny.MODELS[name]
    tokens = sum(len(d.text) + 1 for d in DOCUMENTS)
    shape = (tokens, len(layers))
    assert {key: (value.dtype.name, value.shape) for key, value in tensors.items()} == {
        "experts": ("uint16", (*shape, 3)),
        "logits": ("float32", (*shape, 8)),
        "weights": ("float32", (*shape, 3)),
        "token": ("uint32", (tokens,)),
        "sequence": ("uint32", (tokens,)),
        "position": ("uint32", (tokens,)),
        "phase": ("uint8", (tokens,)),
        "domain": ("uint8", (tokens,)),
    }
    assert cptr.read(tmp_path / "trace.safetensors").explained == (tokens * len(layers), tokens * len(layers))
    assert metadata["router"] == convention
    assert metadata["layer_ids"] == ",".join(map(str, layers))
    assert (metadata["model"], metadata["experts"], metadata["top_k"], metadata["layers"]) == (
        "tiny",
        "8",
        "3",
        str(len(layers)),
    )
    assert metadata["domains"] == "fox,dog"
    # 89 + 89 + 31 tokens, cut every 40: positions start anew at each cut.
    lengths = [40, 40, len(TEXT) + 1 - 80] * 2 + [31]
    assert tensors["position"].tolist() == [p for length in lengths for p in range(length)]
    assert tensors["sequence"].tolist() == [s for s, length in enumerate(lengths) for _ in range(length)]
    assert tensors["domain"].tolist() == [0] * 89 + [1] * 89 + [0] * 31
    assert tensors["token"][0] == 256 and not tensors["phase"].any()


@pytest.mark.parametrize("name", tiny.MODELS)
def test_ids_and_weights_follow_from_logits(name, tmp_path):
    """The convention in the metadata explains the model's choice and weights, computed here from its definition."""
    tensors, metadata = captured(name, tmp_path)
    logits, experts = tensors["logits"].astype(float), tensors["experts"].astype(int)
    allowed = logits.copy()
    if "grouped" in name:
        best = logits.reshape(*logits.shape[:2], 4, 2).max(-1)
        third = np.sort(best, -1)[..., -2:-1]
        allowed[np.repeat(best < third, 2, axis=-1)] = -np.inf
    assert (experts == np.argsort(-allowed, -1, kind="stable")[..., :3]).all()
    chosen = np.take_along_axis(logits, experts, -1)
    scale = 16 if "grouped" in name else 1
    expected = scale * (
        softmax(chosen)
        if metadata["router"] == "softmax-selected"
        else np.take_along_axis(softmax(logits), experts, -1)
    )
    np.testing.assert_allclose(tensors["weights"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", tiny.MODELS)
def test_batches_change_nothing(name, tmp_path):
    alone, _ = captured(name, tmp_path)
    together, _ = captured(name, tmp_path, batch=4)
    assert (alone["experts"] == together["experts"]).all()
    np.testing.assert_allclose(alone["logits"], together["logits"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", tiny.MODELS)
def test_decoding_equals_a_second_prefill(name, tmp_path):
    """Tokens decoded one at a time with the cache route as they do when the whole sequence is given at once."""
    model = tiny.model(name)
    trace = capture(model, tiny.tokenizer(), [Document("fox", TEXT[:20])], generate=6)
    trace.write(tmp_path / "trace.safetensors")
    tensors, _ = read(tmp_path / "trace.safetensors")
    assert tensors["phase"].tolist() == [0] * 21 + [1] * 6
    assert tensors["position"].tolist() == list(range(27))
    with torch.no_grad(), cptr.attach(model) as attached:
        model(torch.tensor([tensors["token"].astype(int).tolist()]))
        again = attached.trace()
    np.testing.assert_allclose(tensors["logits"], again.logits, rtol=1e-3, atol=1e-3)


def test_sketch_keeps_inner_products(tmp_path):
    model = tiny.model("olmoe")
    seen = []
    model.model.layers[1].mlp.gate.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].reshape(-1, 32)))
    trace = capture(model, tiny.tokenizer(), DOCUMENTS[:1], sketch=4096)
    trace.write(tmp_path / "trace.safetensors")
    sketch = read(tmp_path / "trace.safetensors")[0]["hidden"].astype(float)
    assert sketch.shape == (len(TEXT) + 1 if len(TEXT) < 64 else 89, 3, 4096)
    # Before the text runs, the model is probed; twice, as the routers are asked alone as well.
    whole = torch.cat(seen[1:]).numpy().astype(float)
    scale = (whole**2).sum(-1).mean()
    assert np.abs(sketch[:, 1] @ sketch[:, 1].T - whole @ whole.T).max() < 0.2 * scale


def test_half_floats(tmp_path):
    tensors, _ = captured("olmoe", tmp_path, floats="f16")
    assert tensors["logits"].dtype == tensors["weights"].dtype == np.float16


def save_model(folder):
    tiny.model("olmoe").save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def test_command_line(tmp_path, capsys):
    model = save_model(tmp_path / "model")
    (tmp_path / "law").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "law" / name).write_text(TEXT)
    (tmp_path / "poem.txt").write_text(TEXT)
    out = tmp_path / "trace.safetensors"
    assert (
        main(
            [
                str(model),
                "--text",
                str(tmp_path / "law"),
                str(tmp_path / "poem.txt"),
                "--out",
                str(out),
                "--generate",
                "2",
                "--context",
                "60",
            ]
        )
        == 0
    )
    tensors, metadata = read(out)
    assert metadata["domains"] == "law,poem" and metadata["model"] == "model"
    assert tensors["phase"].sum() == 2 * 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["law", "model", "poem.txt", "trace.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "nowhere.txt"], "nowhere.txt"),
        (["--text", "latin.txt"], "not UTF-8 at byte 1"),
        (["--text", "empty"], "holds no .txt file"),
        (["--text", "good.txt", "--context", "60", "--generate", "5"], "do not fit into the model's 64"),
        (["--text", "good.txt", "--dtype", "float17"], "no such type"),
    ],
)
def test_bad_input_is_one_sentence_and_no_file(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "model")
    (tmp_path / "latin.txt").write_bytes(b"a\xe9b")
    (tmp_path / "good.txt").write_text(TEXT)
    (tmp_path / "empty").mkdir()
    assert main(["model", *arguments, "--out", "out.safetensors"]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cptr-capture:")]
    assert len(error) == 1 and message in error[0]
    assert not list(tmp_path.glob("out*"))


def test_messages_are_short_and_printable(capsys):
    for value in ("9" * 5000, "\x1b[2J\u202e" + "x" * 100_000):
        with pytest.raises(SystemExit) as ended:
            main(["model", "--text", "good.txt", "--out", "out.safetensors", "--generate", value])
        error = capsys.readouterr().err.splitlines()[-1]
        said = error.removeprefix("cptr-capture: error: ")
        assert ended.value.code == 2 and error.isprintable() and len(said) <= 300 and error.count("…") == 1


def test_tokenizer_of_another_model():
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(["fox"])
    with pytest.raises(cptr.CptrError, match="gave id 257, the model knows ids below 257"):
        capture(tiny.model("olmoe"), tokenizer, [Document("a", "the fox")])


def test_texts_without_tokens():
    with pytest.raises(cptr.CptrError, match="the texts are empty"):
        capture(tiny.model("olmoe"), tiny.tokenizer(), [])


def test_domains_keep_their_order(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.txt").write_text(TEXT)
    assert [d.domain for d in read_documents([tmp_path / "b", tmp_path / "a"])] == ["b", "a"]


CPTR = os.environ.get("CPTR") or shutil.which("cptr")


@pytest.mark.skipif(not CPTR, reason="no cptr command: set CPTR=path/to/cptr")
@pytest.mark.parametrize("name", tiny.MODELS)
def test_cptr_inspect_reads_it(name, tmp_path):
    captured(name, tmp_path)
    result = subprocess.run(
        [CPTR, "inspect", str(tmp_path / "trace.safetensors"), "--json"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert '"tokens": 209' in result.stdout or '"tokens":209' in result.stdout
