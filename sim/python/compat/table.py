"""Attaches to a tiny model of every MoE family of the installed transformers, and says what works.

    python compat/table.py --write ../../docs/python.md     # makes the table anew; rows of families named behind it
    python compat/table.py --check ../../docs/python.md     # fails where it is not what is found

A family works where the choices of all routers follow from their logits under one description. *Text*: with a strategy
attached that loses nothing (eps = 0), tokens decoded greedily are those of the model alone. *Stand-ins*: with eps = 0.2
other experts run than were wanted, and no token loses more. *Experts on drive*: they are read when they run, half of
them fit, the outputs are those of the model alone, and after `detach` every weight is what it was.
*Capture*: how much more processor time a pass of 256 tokens takes while it is recorded, on a model of width 256.
"""

from __future__ import annotations

import argparse
import datetime
import re
import resource
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from families import build, families

import cptr

BEGIN, END = "<!-- families: begin -->\n", "<!-- families: end -->\n"
LEAST = 40
EPS = 0.2
MOST_BYTES = 8 << 30
PASSES = 5
# Some layers have slow kernels without a GPU: where 40 tokens take so long, 256 are not measured.
SLOW_SECONDS = 0.2
# Kernels that take minutes without a GPU: only where it is asked for by name.
LEFT_OUT = {"kimi_linear"}
WIDE = {
    "hidden_size": 256,
    "intermediate_size": 256,
    "moe_intermediate_size": 256,
    "max_position_embeddings": 512,
    "d_model": 256,
    "d_ff": 256,
    "expert_ffn_hidden_size": 256,
}
HEAD = (
    "| family | answer | router | choices | text | stand-ins | experts on drive | capture |\n"
    "|---|---|---|---|---|---|---|---|\n"
)


def inputs(model: Any, tokens: int) -> dict[str, Any]:
    """The same tokens for every model."""
    ids = torch.randint(3, 150, (1, tokens), generator=torch.Generator().manual_seed(1))
    given = {"input_ids": ids, "use_cache": False}
    if getattr(model.config, "is_encoder_decoder", False):
        given["decoder_input_ids"] = ids
    return given


def output(model: Any, tokens: int = 40) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs(model, tokens))[0]


def greedy(model: Any) -> list[int] | None:
    """Tokens that the model decodes, one by one without a cache; None of a model without a head."""
    vocabulary = getattr(model.config.get_text_config(), "vocab_size", 0)
    given = inputs(model, 12)
    name = "decoder_input_ids" if "decoder_input_ids" in given else "input_ids"
    with torch.no_grad():
        for _ in range(4):
            logits = model(**given)[0]
            if logits.shape[-1] != vocabulary:
                return None
            given[name] = torch.cat([given[name], logits[:, -1:].argmax(-1)], 1)
    return given[name][0].tolist()


def text(model: Any) -> str:
    alone = greedy(model)
    if alone is None:
        return "no head"
    with cptr.attach(model, memory=4, eps=0, record=False):
        return "equal" if greedy(model) == alone else "differs"


def stand_ins(model: Any) -> str:
    try:
        with cptr.attach(model, memory=4, eps=EPS, record=False) as attached:
            output(model)
            found = attached.statistics()
    except cptr.UnsupportedError:
        return "refused"
    if found["worst_mass_loss"] > EPS * 1.001:
        return "too much lost"
    return "yes" if found["agree"] < 1 else "none taken"


def on_drive(model: Any) -> str:
    before, weights = output(model), {name: value.clone() for name, value in model.state_dict().items()}
    try:
        with cptr.attach(model, memory=4, offload=True, record=False) as attached:
            found = output(model)
            reads = attached.statistics()["reads"]
            form = "list" if attached.offload.is_list else "fused"
    except cptr.UnsupportedError:
        form, found, reads = "refused", before, 1
    after = model.state_dict()
    same = all(torch.equal(value, after[name]) for name, value in weights.items()) and len(after) == len(weights)
    near = torch.allclose(found, before, rtol=1e-3, atol=1e-3 * before.abs().max().item())
    return form if same and near and reads > 0 else "differs"


def overhead(family: str, small: Any) -> str:
    """How much more a pass takes while it is recorded: the fastest of several, in turn."""
    if seconds(small, 40) > SLOW_SECONDS:
        return "slow"
    try:
        model = build(family, WIDE)
        output(model, 256)
    except Exception:  # noqa: BLE001: as in `row`
        return ""
    alone, recorded = [], []
    for _ in range(PASSES):
        alone.append(seconds(model))
        with cptr.attach(model):
            recorded.append(seconds(model))
    return f"{100 * (min(recorded) / min(alone) - 1):+.0f} %"


def seconds(model: Any, tokens: int = 256) -> float:
    """Processor time of a pass, which others on the machine do not lengthen."""
    start = time.process_time()
    output(model, tokens)
    return time.process_time() - start


def row(family: str, timed: bool) -> list[str]:
    """A line of the table."""
    try:
        model = build(family)
        output(model)
    except Exception as error:  # noqa: BLE001: whatever a foreign model finds wrong with a small configuration
        return [family, "", f"not made small: {type(error).__name__}", "", "", "", "", ""]
    try:
        with cptr.attach(model) as attached:
            output(model)
            routers, trace = attached.routers, attached.trace()
    except cptr.CptrError as error:
        reason = re.sub(r"^\S+: ", "", str(error))
        reason = "its routers return no ids" if "expected a router that returns" in reason else reason
        return [family, "", f"refused: {reason}", "", "", "", "", ""]
    form = routers.all[0].form.name
    form = "standard" if form == "logits, weights, ids" else form
    explained, total = trace.explained
    weighs = routers.description.text if routers.description.weighs else f"{routers.description.text}, weights apart"
    equal = "all" if explained == total else f"{explained} of {total}"
    capture = overhead(family, model) if timed else ""
    return [family, form, f"`{weighs}`", equal, text(model), stand_ins(model), on_drive(model), capture]


def rows(names: list[str], timed: bool) -> Iterator[list[str]]:
    for family in names:
        yield row(family, timed)
        print(f"\r\033[K{family}", end="", file=sys.stderr, flush=True)
    print("\r\033[K", end="", file=sys.stderr)


def works(cells: list[str]) -> bool:
    return cells[3] == "all" and cells[4] != "differs" and cells[5] != "too much lost" and cells[6] != "differs"


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def table(names: list[str], timed: bool, stated: str = "") -> tuple[str, int]:
    """The table, and how many families work; families that are not asked for are as they are stated."""
    of_family = {cells[0]: cells for cells in parsed(stated)[2:]}
    of_family |= {cells[0]: cells for cells in rows(names, timed)}
    found = [of_family[family] for family in sorted(of_family)]
    count = sum(works(cells) for cells in found)
    date = datetime.date.today().isoformat()
    said = f"{count} of {len(found)} families of transformers {transformers.__version__} work, {date}:\n\n"
    return said + HEAD + "".join(map(line, found)), count


def parsed(text: str) -> list[list[str]]:
    """The cells of a table, its head and the line below that among them."""
    lines = [part for part in text.splitlines() if part.startswith("|")]
    return [[cell.strip() for cell in part.strip("|").split("|")] for part in lines]


def untimed(text: str) -> list[list[str]]:
    """The cells that are the same in every run."""
    return [cells[:-1] for cells in parsed(text)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", help="default: all but the slowest")
    parser.add_argument("--write", type=Path, help="the document whose table is made anew")
    parser.add_argument("--check", type=Path, help="the document whose table must be what is found")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    # A family whose configuration stays large is to fail, not to take the machine with it.
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
    names = arguments.families or [family for family in families() if family not in LEFT_OUT]
    if arguments.write:
        document = arguments.write.read_text("utf-8")
        before, rest = document.split(BEGIN)
        stated, behind = rest.split(END)
        found, _ = table(names, timed=True, stated=stated if arguments.families else "")
        arguments.write.write_text(before + BEGIN + "\n" + found + "\n" + END + behind, "utf-8")
        return 0
    found, count = table(names, timed=arguments.check is None)
    if arguments.check:
        stated = arguments.check.read_text("utf-8").split(BEGIN)[1].split(END)[0]
        differ = [cells for cells in untimed(found) if cells not in untimed(stated)]
        missing = [cells for cells in untimed(stated) if cells not in untimed(found)]
        for sign, cells in [*(("found", cells) for cells in differ), *(("stated", cells) for cells in missing)]:
            print(f"{sign}: {line(cells)}", end="")
        print(f"{count} families work; at least {LEAST} are to")
        return 1 if differ or missing or count < LEAST else 0
    print(found, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
