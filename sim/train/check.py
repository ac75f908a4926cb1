"""Compares an exported folder under `transformers` with the training code: same logits. Prints the held-out loss.

    python check.py --work FOLDER --model ../data/model --held-out ../data/held-out

The differences allowed are those of 16-bit weights and of the order of 32-bit sums.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import AutoTokenizer, OlmoeForCausalLM

import data
from model import Olmoe, Shape


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--work", "--model", "--held-out"):
        parser.add_argument(name, type=Path, required=True)
    arguments = parser.parse_args()
    reference = OlmoeForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    state = torch.load(arguments.work / "checkpoint.pt", map_location="cpu", weights_only=True)
    own = Olmoe(Shape(**state["shape"]))
    own.load_state_dict({name: value.half().float() for name, value in state["model"].items()})
    tokenizer = Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
    documents = data.documents(arguments.held_out, tokenizer, own.shape.context)
    sample = (next((arguments.held_out / "python").glob("*.txt"))).read_text("utf-8")
    assert AutoTokenizer.from_pretrained(arguments.model)(sample).input_ids == tokenizer.encode(sample).ids
    worst, nats, count = 0.0, 0.0, 0
    for domain, rows in documents.items():
        of_domain = torch.zeros(2)
        for row in rows:
            tokens = torch.tensor([row])
            theirs = reference(tokens[:, :-1]).logits
            worst = max(worst, (own.logits(own(tokens[:, :-1])[0]) - theirs).abs().max().item())
            of_domain += torch.tensor([F.cross_entropy(theirs[0], tokens[0, 1:], reduction="sum").item(), len(row) - 1])
        print(f"{domain:12} {of_domain[0] / of_domain[1]:.4f} nats/token over {int(of_domain[1])} tokens")
        nats, count = nats + of_domain[0].item(), count + of_domain[1].item()
    print(f"all          {nats / count:.4f} nats/token over {int(count)} tokens")
    print(f"largest difference of a logit {worst:.2e}")
    if worst > 1e-3:
        raise SystemExit("the two implementations disagree")


if __name__ == "__main__":
    main()
