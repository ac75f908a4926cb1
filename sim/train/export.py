"""Writes a model's last checkpoint as a Hugging Face folder: model (f16), tokenizer, log.

    python export.py --work FOLDER --model olmoe-8m --out ../data/model

The folder appears complete or not at all (an existing one is replaced).
"""

import argparse
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

import data
from model import SHAPES, Model, Shape


def hugging_face_tensors(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One tensor per expert and projection, as published checkpoints have it, in f16; a bias for the selection, which
    decides between scores that are close, in f32."""
    tensors = {}
    for name, value in state.items():
        if name.endswith("experts.gate_up_proj"):
            for expert, both in enumerate(value):
                gate, up = both.chunk(2)
                tensors[name.replace("gate_up_proj", f"{expert}.gate_proj.weight")] = gate
                tensors[name.replace("gate_up_proj", f"{expert}.up_proj.weight")] = up
        elif name.endswith("experts.down_proj"):
            for expert, down in enumerate(value):
                tensors[name.replace("down_proj", f"{expert}.down_proj.weight")] = down
        else:
            tensors[name] = value
    return {name: as_stored(name, value).contiguous() for name, value in tensors.items()}


def as_stored(name: str, value: torch.Tensor) -> torch.Tensor:
    return value if name.endswith("_bias") else value.half()


def export(work: Path, model: str, out: Path) -> None:
    state = torch.load(work / model / "checkpoint.pt", map_location="cpu", weights_only=True)
    shape = Shape(**state["shape"])
    Model(shape).load_state_dict(state["model"])  # complains if anything is missing
    temporary = out.with_name(out.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(hugging_face_tensors(state["model"]), temporary / "model.safetensors", metadata={"format": "pt"})
    (temporary / "config.json").write_text(json.dumps(shape.config(data.END_OF_TEXT), indent=2) + "\n")
    shutil.copy(work / "tokenizer.json", temporary)
    (temporary / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": "<|endoftext|>",
                "model_max_length": shape.context,
            },
            indent=2,
        )
        + "\n"
    )
    shutil.copy(work / model / "log.jsonl", temporary / "training-log.jsonl")
    if (out / "NOTICE.md").exists():
        shutil.copy(out / "NOTICE.md", temporary)
    shutil.rmtree(out, ignore_errors=True)
    os.replace(temporary, out)
    print(f"{out}: {state['tokens'] / 1e6:.2f} M tokens, {(out / 'model.safetensors').stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", choices=SHAPES, default="olmoe-8m")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    export(arguments.work, arguments.model, arguments.out)
