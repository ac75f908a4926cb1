"""Trains a model.

    python train.py --work FOLDER --model olmoe-8m --held-out ../data/held-out --until 18:30        (or --tokens 20e6)

FOLDER is the one that corpus.py filled; checkpoint and log go to FOLDER/MODEL. The learning rate warms up, stays, and
falls linearly to zero over the last fifth of the time or of the tokens. Interrupt it when you like: the same command
goes on from the last checkpoint, also with another --until or --tokens (a nearer one begins the fall at once). Uses
CUDA where there is one, else one process of one thread per core, or `--workers` of them.
"""

import argparse
import datetime
import json
import math
import os
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from tokenizers import Tokenizer

import data
from model import SHAPES, Model, attend_and_route, training_loss
from muon import Muon

WARM_UP_STEPS = 50
DECAY_SHARE = 0.2
SHORT = 256
"""Window length before the fall of the learning rate; the full context during it."""
MUON_RATE, ADAM_RATE = 0.02, 4e-3
EVALUATE_SECONDS = 300
LOG_STEPS = 20


class Exchange:
    """Sums tensors over the processes through shared memory: several times cheaper than through sockets."""

    def __init__(self, buffer: torch.Tensor, rank: int):
        self.buffer, self.rank = buffer, rank

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        if len(self.buffer) == 1:
            return tensor
        part = self.buffer[:, : tensor.numel()]
        part[self.rank].copy_(tensor)
        dist.barrier()
        total = part.sum(0)
        dist.barrier()
        return total


class Run:
    """Model, optimizer and everything that a checkpoint holds."""

    def __init__(self, arguments: argparse.Namespace, rank: int, workers: int, exchange: Exchange):
        self.arguments, self.rank, self.workers, self.exchange = arguments, rank, workers, exchange
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.shape = SHAPES[arguments.model]
        torch.manual_seed(arguments.seed)
        self.model = Model(self.shape).to(self.device)
        hidden = [n for n, p in self.model.named_parameters() if "_proj" in n]
        matrices = [p for n, p in self.model.named_parameters() if n in hidden]
        others = [p for n, p in self.model.named_parameters() if n not in hidden]
        self.optimizers = [
            Muon(matrices, MUON_RATE, rank=rank, workers=workers, add_up=exchange),
            torch.optim.AdamW(others, ADAM_RATE, betas=(0.9, 0.97), weight_decay=0.0, fused=True),
        ]
        self.attend, self.loss = (torch.compile(f, dynamic=False) for f in (attend_and_route, training_loss))
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.path = arguments.work / arguments.model / "checkpoint.pt"
        if self.path.exists():
            self.load()
        self.corpus = data.Corpus(arguments.work)
        tokenizer = Tokenizer.from_file(str(arguments.work / "tokenizer.json"))
        self.held_out = data.documents(arguments.held_out, tokenizer, self.shape.context)

    def load(self):
        state = torch.load(self.path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]

    def save(self):
        state = {
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "shape": asdict(self.shape),
        }
        temporary = self.path.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.path)

    def schedule(self, progress: float) -> float:
        """Factor of the learning rates, 0 to 1."""
        return min(1.0, (self.step + 1) / WARM_UP_STEPS) * min(1.0, max(0.0, 1.0 - progress) / DECAY_SHARE)

    def train_step(self, progress: float) -> float:
        """One optimizer step; returns the cross-entropy of this process's windows."""
        length = SHORT if progress < 1.0 - DECAY_SHARE else self.shape.context
        windows = self.arguments.batch // (length * self.workers)
        generator = np.random.default_rng([self.arguments.seed, self.step, self.rank])
        batch = torch.from_numpy(self.corpus.batch(generator, windows, length)).to(self.device)
        hidden, router_logits, choices = self.model(batch[:, :-1], self.attend)
        loss, cross_entropy = self.loss(self.model, hidden, batch[:, 1:], router_logits, choices)
        loss.backward()
        self.average_gradients()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * self.schedule(progress)
            optimizer.step()
            optimizer.zero_grad()
        self.rebalance(choices, self.schedule(progress))
        self.step += 1
        self.tokens += windows * self.workers * length
        return cross_entropy.item()

    def average_gradients(self):
        if self.workers == 1:
            return
        gradients = [p.grad for p in self.model.parameters()]
        total = self.exchange(torch.cat([g.flatten() for g in gradients]))
        for gradient, part in zip(gradients, total.split([g.numel() for g in gradients])):
            torch.div(part.view_as(gradient), self.workers, out=gradient)

    @torch.no_grad()
    def rebalance(self, choices: list[torch.Tensor], factor: float):
        loads = torch.stack([torch.bincount(c.flatten(), minlength=self.shape.experts) for c in choices]).float()
        for router, load in zip(self.model.routers(), self.exchange(loads.flatten()).view_as(loads)):
            router.rebalance(load, factor)

    @torch.no_grad()
    def evaluate(self) -> dict:
        """Nats per token by domain, and how evenly the experts are used. Each process takes its share of documents."""
        domains = list(self.held_out)
        sums = torch.zeros(len(domains), 2)
        counts = torch.zeros(self.shape.layers, self.shape.experts)
        entropy = torch.zeros(2)
        for row, domain in enumerate(domains):
            for document in self.held_out[domain][self.rank :: self.workers]:
                tokens = torch.tensor([document], device=self.device)
                hidden, router_logits, choices = self.model(tokens[:, :-1])
                sums[row, 0] += F.cross_entropy(self.model.logits(hidden)[0], tokens[0, 1:], reduction="sum").cpu()
                sums[row, 1] += tokens.shape[1] - 1
                for layer, (scores, chosen) in enumerate(zip(router_logits, choices)):
                    counts[layer] += torch.bincount(chosen.flatten(), minlength=self.shape.experts).cpu()
                    shares = self.model.routers()[layer].shares(scores)
                    entropy += torch.tensor([torch.special.entr(shares).sum().item(), scores.shape[0]])
        if self.workers > 1:
            for tensor in (sums, counts, entropy):
                dist.all_reduce(tensor)
        total = sums.sum(0)
        return {
            "held_out": round((total[0] / total[1]).item(), 4),
            "held_out_by_domain": {d: round((sums[i, 0] / sums[i, 1]).item(), 4) for i, d in enumerate(domains)},
            "held_out_tokens": int(total[1]),
            "router_entropy": round((entropy[0] / entropy[1]).item(), 3),
            "busiest_expert_over_mean": round((counts.max(1).values / counts.mean(1)).mean().item(), 2),
        }


class Clock:
    """How far training is, the same for all processes: the first one's clock counts."""

    def __init__(self, arguments: argparse.Namespace, run: Run):
        self.run, self.tokens = run, arguments.tokens
        self.begin = time.time() - run.seconds
        self.whole = end_of(arguments) - self.begin
        self.evaluated = time.time()

    def look(self) -> tuple[float, bool]:
        """Progress from 0 to 1, and whether an evaluation is due."""
        now = time.time()
        self.run.seconds = now - self.begin
        progress = max(self.run.tokens / self.tokens, self.run.seconds / self.whole)
        told = torch.tensor([progress, float(progress >= 1 or now - self.evaluated > EVALUATE_SECONDS)])
        if self.run.workers > 1:
            dist.broadcast(told, 0)
        if told[1]:
            self.evaluated = now
        return told[0].item(), bool(told[1])


def end_of(arguments: argparse.Namespace) -> float:
    """Seconds since 1970 at which training ends; infinite without --until."""
    if not arguments.until:
        return math.inf
    now = datetime.datetime.now()
    end = datetime.datetime.combine(now.date(), datetime.time.fromisoformat(arguments.until))
    return (end if end > now else end + datetime.timedelta(days=1)).timestamp()


class Log:
    """One JSON line every LOG_STEPS steps and at every evaluation."""

    def __init__(self, path: Path, run: Run):
        self.path, self.run = path, run
        self.start()

    def start(self):
        self.losses, self.time, self.tokens = [], time.time(), self.run.tokens

    def write(self, progress: float, evaluation: dict):
        entry = {
            "step": self.run.step,
            "tokens": self.run.tokens,
            "train": round(float(np.mean(self.losses)), 4) if self.losses else None,
            "learning_rate_factor": round(self.run.schedule(progress), 4),
            "tokens_per_s": round((self.run.tokens - self.tokens) / (time.time() - self.time)),
            "minutes": round(self.run.seconds / 60, 1),
            "date": datetime.datetime.now().isoformat(timespec="seconds"),
        }
        with open(self.path, "a") as file:
            file.write(json.dumps(entry | evaluation) + "\n")
        self.start()


def train(rank: int, workers: int, arguments: argparse.Namespace, buffer: torch.Tensor):
    """What each process runs. The first one writes the log and the checkpoints."""
    torch.set_num_threads(1)
    if workers > 1:
        meeting = f"file://{arguments.work.resolve()}/rendezvous"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=workers)
    run = Run(arguments, rank, workers, Exchange(buffer, rank))
    clock, log = Clock(arguments, run), Log(run.path.with_name("log.jsonl"), run)
    while True:
        progress, due = clock.look()
        evaluation = run.evaluate() if due else {}
        if rank == 0 and due:
            run.save()
        if rank == 0 and (due or len(log.losses) == LOG_STEPS):
            log.write(progress, evaluation)
        if progress >= 1:
            break
        log.losses.append(run.train_step(progress))
    if workers > 1:
        dist.barrier()
        dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="the folder that corpus.py filled")
    parser.add_argument("--model", choices=SHAPES, default="olmoe-8m")
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--until", help="end at this time of day, HH:MM")
    parser.add_argument("--tokens", type=float, default=math.inf, help="end after so many tokens")
    parser.add_argument("--batch", type=int, default=4096, help="tokens per step")
    parser.add_argument("--workers", type=int, default=1 if torch.cuda.is_available() else os.cpu_count())
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if not arguments.until and arguments.tokens == math.inf:
        parser.error("give --until or --tokens")
    data.Corpus(arguments.work)  # tokenizes once, before the processes start
    (arguments.work / arguments.model).mkdir(exist_ok=True)
    (arguments.work / "rendezvous").unlink(missing_ok=True)
    if arguments.workers > 1:
        size = sum(p.numel() for p in Model(SHAPES[arguments.model]).parameters())
        buffer = torch.zeros(arguments.workers, size).share_memory_()
        torch.multiprocessing.spawn(train, (arguments.workers, arguments, buffer), nprocs=arguments.workers)
    else:
        train(0, 1, arguments, torch.zeros(1, 0))


if __name__ == "__main__":
    main()
