"""From texts to a trace."""

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .._cptr import FileError, InputError, UsageError
from ..attached import Attached, attach
from ..progress import progress
from ..traces import Trace

MAX_DOMAINS = 256


@dataclass(frozen=True)
class Document:
    """A text and the domain that it belongs to."""

    domain: str
    text: str


def read_documents(paths: Iterable[Path]) -> list[Document]:
    """A file is a document and a domain named after it; a folder is a domain, with each .txt file in it a document."""
    documents = []
    for path in paths:
        files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
        if not files:
            raise FileError(f"{path}: the folder holds no .txt file")
        for file in files:
            try:
                documents.append(Document(path.name if path.is_dir() else path.stem, file.read_text("utf-8")))
            except UnicodeDecodeError as error:
                raise InputError(f"{file}: not UTF-8 at byte {error.start}") from error
    return documents


@dataclass(frozen=True)
class Window:
    """A sequence for the model: consecutive tokens of one document."""

    domain: int
    tokens: list[int]


def windows(
    documents: list[Document], domains: list[str], tokenizer: PreTrainedTokenizerBase, context: int
) -> list[Window]:
    """Every document, with the start token if the tokenizer adds one, cut every `context` tokens.

    The context starts anew at each cut.
    """
    out = []
    for document in documents:
        ids = tokenizer(document.text, verbose=False).input_ids
        for at in range(0, len(ids), context):
            out.append(Window(domains.index(document.domain), ids[at : at + context]))
    return out


def batches(all_windows: list[Window], size: int) -> Iterator[list[Window]]:
    """Neighbours of equal length, at most `size` at a time, so that nothing needs padding."""
    batch: list[Window] = []
    for window in all_windows:
        if batch and (len(batch) == size or len(batch[0].tokens) != len(window.tokens)):
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


@torch.no_grad()
def capture(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: list[Document],
    *,
    name: str = "",
    context: int | None = None,
    batch: int = 1,
    generate: int = 0,
    sketch: int = 0,
    floats: str = "f32",
) -> Trace:
    """Runs every document through the model and returns its trace.

    `context`: tokens per sequence, at most what the model takes (default: that, but no more than 4,096).
    `batch`: sequences of equal length at a time.
    `generate`: tokens to decode greedily after each sequence, one at a time with the cache, recorded as phase decode.
    `sketch`: see `cptr.attach`. `floats`: "f16" or "f32".
    """
    limit = getattr(model.config, "max_position_embeddings", None) or 4096
    context = context or min(limit - generate, 4096)
    if context < 1 or context + generate > limit:
        raise UsageError(f"{context} + {generate} tokens per sequence do not fit into the model's {limit}")
    domains = list(dict.fromkeys(document.domain for document in documents))
    if len(domains) > MAX_DOMAINS:
        raise UsageError(
            f"{len(domains)} domains are given, a trace holds at most {MAX_DOMAINS}: use one folder per domain"
        )
    todo = windows(documents, domains, tokenizer, context)
    if not todo:
        raise InputError("no token to be captured: the texts are empty")
    check_vocabulary(model, todo)
    model.train(False)
    groups = list(batches(todo, 1 if generate else batch))
    notes = ["layers of the decoder, which was given the encoder's text"] if model.config.is_encoder_decoder else []
    with attach(model, sketch=sketch) as attached:
        for group in progress(groups, len(groups), "capturing"):
            run_batch(model, attached, group, generate)
        return attached.trace(
            model=name or attached.recorder.model,
            source="cptr.capture, transformers",
            domains=[domain.replace(",", ";") for domain in domains],
            domain_of=[window.domain for window in todo],
            floats=floats,
            notes=notes,
        )


def check_vocabulary(model: PreTrainedModel, todo: list[Window]) -> None:
    """Refuses ids that the model does not know."""
    highest = max((max(window.tokens, default=0) for window in todo), default=0)
    known = model.get_input_embeddings().get_parameter("weight").shape[0]
    if highest >= known:
        raise InputError(f"the tokenizer gave id {highest}, the model knows ids below {known}: another tokenizer?")


def run_batch(model: PreTrainedModel, attached: Attached, group: list[Window], generate: int) -> None:
    """Prefill of all windows of a batch, then decoding (of a single window).

    A model of encoder and decoder reads the text in both: what is recorded is the decoder.
    """
    tokens = torch.tensor([window.tokens for window in group], device=model.device)
    twice = model.config.is_encoder_decoder
    # Apart, as an encoder refuses to keep a cache.
    read = model.get_encoder()(tokens) if twice else None
    given = {"encoder_outputs": read, "decoder_input_ids": tokens} if twice else {"input_ids": tokens}
    output = model(**given, use_cache=generate > 0)
    # It is called otherwise in newer versions, which warn of the older name.
    cache = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    for _ in range(generate):
        token = output.logits[:, -1:].argmax(-1)
        given = {"encoder_outputs": read, "decoder_input_ids": token} if twice else {"input_ids": token}
        output = model(**given, use_cache=True, **{cache: output.past_key_values})
