"""Compares an exported folder under `transformers` with the training code: same logits. Prints the held-out loss.

    python check.py --work FOLDER --model ../data/model --held-out ../data/held-out

Where two experts have the same score but for rounding, the two may choose differently, and all that follows differs.
Such documents are counted, not compared; any other difference is an error.
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
    totals, worst, ties = torch.zeros(2), 0.0, 0
    for domain, rows in documents.items():
        of_domain = torch.zeros(2)
        for row in rows:
            tokens = torch.tensor([row])
            theirs = reference(tokens[:, :-1], output_router_logits=True)
            hidden, router_logits, choices = own(tokens[:, :-1])
            tie = nearest_tie(router_logits, choices, theirs.router_logits)
            if tie is None:
                worst = max(worst, (own.logits(hidden) - theirs.logits).abs().max().item())
            elif tie > 1e-4:
                raise SystemExit(f"{domain}: different experts although the scores differ by {tie:.2e}")
            else:
                ties += 1
            loss = F.cross_entropy(theirs.logits[0], tokens[0, 1:], reduction="sum")
            of_domain += torch.tensor([loss.item(), len(row) - 1])
        print(f"{domain:12} {of_domain[0] / of_domain[1]:.4f} nats/token over {int(of_domain[1])} tokens")
        totals += of_domain
    print(f"all          {totals[0] / totals[1]:.4f} nats/token over {int(totals[1])} tokens")
    print(f"largest difference of a logit {worst:.2e}; {ties} documents left out, where two experts tie")
    if worst > 1e-3:
        raise SystemExit("the two implementations disagree")


def nearest_tie(router_logits, choices, reference_logits) -> float | None:
    """Where the two choose other experts first (by layer, then by token): how far apart the scores in dispute are."""
    for own, chosen, theirs in zip(router_logits, choices, reference_logits, strict=True):
        wanted = theirs.topk(chosen.shape[1], -1).indices
        differs = (chosen.sort(-1).values != wanted.sort(-1).values).any(-1).nonzero()
        if len(differs):
            token = differs[0].item()
            best = own[token].sort(descending=True).values
            return (best[chosen.shape[1] - 1] - best[chosen.shape[1]]).item()
    return None


if __name__ == "__main__":
    main()
