"""python -m cptr.capture MODEL --text FILE… --out trace.safetensors"""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from .._cptr import CptrError, UsageError
from .texts import capture, read_documents


MAX_MESSAGE = 300


def sentence(message: object) -> str:
    """One line of at most `MAX_MESSAGE` characters that a terminal shows as they are, shortened in the middle."""
    text = " ".join(str(message).split())
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= MAX_MESSAGE else f"{text[:180]}…{text[-119:]}"


class Parser(argparse.ArgumentParser):
    """Quotes what is wrong no longer than needed."""

    def error(self, message: str) -> NoReturn:
        super().error(sentence(message))


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "cptr-capture", description="Captures the routing of a transformers MoE model as a cptr trace."
    )
    parser.add_argument("model", help="folder or name of a Hugging Face checkpoint")
    parser.add_argument(
        "--text",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="UTF-8 files, or folders of .txt files; each is a domain",
    )
    parser.add_argument("--out", type=Path, required=True, help="the trace to write (.safetensors)")
    parser.add_argument("--generate", type=int, default=0, metavar="N", help="decode N tokens after each sequence")
    parser.add_argument(
        "--context", type=int, metavar="N", help="tokens per sequence (default: what the model takes, at most 4,096)"
    )
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="sequences at a time")
    parser.add_argument(
        "--sketch", type=int, default=0, metavar="D", help="also keep the routers' inputs, projected to D numbers"
    )
    parser.add_argument(
        "--floats", choices=("f16", "f32"), default="f32", help="width of logits and weights (default: f32)"
    )
    parser.add_argument(
        "--dtype",
        default="auto",
        help="type of the model's weights, as transformers names it (default: the checkpoint's)",
    )
    parser.add_argument(
        "--device", default="cpu", help="cpu, cuda, or auto to spread the model over all devices (needs accelerate)"
    )
    arguments = parser.parse_args(argv)
    for name in ("generate", "sketch"):
        if getattr(arguments, name) < 0:
            parser.error(f"--{name} must not be negative")
    if arguments.batch < 1 or arguments.context is not None and arguments.context < 1:
        parser.error("--batch and --context must be at least 1")
    return arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    try:
        documents = read_documents(arguments.text)
        tokenizer = AutoTokenizer.from_pretrained(arguments.model)
        dtype = arguments.dtype if arguments.dtype == "auto" else getattr(torch, arguments.dtype, None)
        if dtype is None:
            raise UsageError(f"--dtype {arguments.dtype}: torch has no such type")
        placed = {"device_map": "auto"} if arguments.device == "auto" else {}
        twice = AutoConfig.from_pretrained(arguments.model).is_encoder_decoder
        kind = AutoModelForSeq2SeqLM if twice else AutoModelForCausalLM
        model = kind.from_pretrained(arguments.model, dtype=dtype, **placed)
        if not placed:
            model = model.to(arguments.device)
        trace = capture(
            model,
            tokenizer,
            documents,
            name=Path(arguments.model).name,
            context=arguments.context,
            batch=arguments.batch,
            generate=arguments.generate,
            sketch=arguments.sketch,
            floats=arguments.floats,
        )
        trace.write(arguments.out)
    except (CptrError, OSError, ValueError) as error:
        print(f"cptr-capture: {sentence(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
