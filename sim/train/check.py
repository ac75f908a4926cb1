"""Compares an exported folder under `transformers` with the training code: same logits. Prints the held-out loss.

    python check.py --work FOLDER --model olmoe-8m --out ../data/model --held-out ../data/held-out

Where two experts have the same score but for rounding, the two may choose differently, and all that follows differs.
Such documents are counted, not compared; any other difference is an error.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

import data
from export import as_stored
from model import SHAPES, Model, Shape


class Reference:
    """The folder in `transformers`; `chosen` [L][N, k] is what its routers chose in the last call."""

    def __init__(self, folder: Path):
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.chosen: list[torch.Tensor] = []
        routers = [m for m in self.model.modules() if type(m).__name__.lower().endswith("topkrouter")]
        assert len(routers) == self.model.config.num_hidden_layers
        for router in routers:
            router.register_forward_hook(lambda _, __, out: self.chosen.append(out[2]))

    def logits(self, tokens):
        self.chosen = []
        return self.model(tokens).logits


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", choices=SHAPES, default="olmoe-8m")
    parser.add_argument("--out", type=Path, required=True, help="the folder that export.py wrote")
    parser.add_argument("--held-out", type=Path, required=True)
    arguments = parser.parse_args()
    reference = Reference(arguments.out)
    state = torch.load(arguments.work / arguments.model / "checkpoint.pt", map_location="cpu", weights_only=True)
    own = Model(Shape(**state["shape"]))
    own.load_state_dict({name: as_stored(name, value).float() for name, value in state["model"].items()})
    tokenizer = Tokenizer.from_file(str(arguments.out / "tokenizer.json"))
    documents = data.documents(arguments.held_out, tokenizer, own.shape.context)
    sample = (next((arguments.held_out / "python").glob("*.txt"))).read_text("utf-8")
    assert AutoTokenizer.from_pretrained(arguments.out)(sample).input_ids == tokenizer.encode(sample).ids
    totals, worst, ties = torch.zeros(2), 0.0, 0
    for domain, rows in documents.items():
        of_domain = torch.zeros(2)
        for row in rows:
            tokens = torch.tensor([row])
            theirs = reference.logits(tokens[:, :-1])
            hidden, router_logits, choices = own(tokens[:, :-1])
            tie = nearest_tie(own, router_logits, choices, reference.chosen)
            if tie is None:
                worst = max(worst, (own.logits(hidden) - theirs).abs().max().item())
            elif tie > 1e-4:
                raise SystemExit(f"{domain}: different experts although the scores differ by {tie:.2e}")
            else:
                ties += 1
            loss = F.cross_entropy(theirs[0], tokens[0, 1:], reduction="sum")
            of_domain += torch.tensor([loss.item(), len(row) - 1])
        print(f"{domain:12} {of_domain[0] / of_domain[1]:.4f} nats/token over {int(of_domain[1])} tokens")
        totals += of_domain
    print(f"all          {totals[0] / totals[1]:.4f} nats/token over {int(totals[1])} tokens")
    print(f"largest difference of a logit {worst:.2e}; {ties} documents left out, where two experts tie")
    if worst > 1e-3:
        raise SystemExit("the two implementations disagree")


def nearest_tie(own: Model, router_logits, choices, wanted) -> float | None:
    """Where the two choose other experts first (by layer, then by token): how far apart the scores in dispute are."""
    for router, logits, chosen, theirs in zip(own.routers(), router_logits, choices, wanted, strict=True):
        differs = (chosen.sort(-1).values != theirs.sort(-1).values).any(-1).nonzero()
        if len(differs):
            best = router.ranking(logits[differs[0].item()]).sort(descending=True).values
            return (best[chosen.shape[1] - 1] - best[chosen.shape[1]]).item()
    return None


if __name__ == "__main__":
    main()
