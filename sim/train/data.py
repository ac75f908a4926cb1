"""Token streams for training and documents for evaluation."""

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

END_OF_TEXT = 0
"""The tokenizer's first token, <|endoftext|>."""


class Corpus:
    """One token stream per domain, and the domains' sampling weights. END_OF_TEXT precedes each document."""

    def __init__(self, work: Path):
        tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
        self.domains = sorted(path.stem for path in (work / "train").glob("*.jsonl"))
        self.streams = [token_stream(tokenizer, work / "train" / f"{domain}.jsonl") for domain in self.domains]
        sizes = np.array([len(stream) for stream in self.streams], dtype=float)
        # Equal parts, but a small domain (half the mean size or less) less often, so that it is not learnt by heart.
        weights = np.minimum(1.0, sizes / (0.5 * sizes.mean()))
        self.weights = weights / weights.sum()

    def batch(self, generator: np.random.Generator, sequences: int, length: int) -> np.ndarray:
        """Random windows [sequences, length + 1], each from one domain."""
        rows = []
        for domain in generator.choice(len(self.streams), size=sequences, p=self.weights):
            stream = self.streams[domain]
            start = generator.integers(len(stream) - length - 1)
            rows.append(stream[start : start + length + 1])
        return np.stack(rows).astype(np.int64)


def token_stream(tokenizer: Tokenizer, path: Path) -> np.ndarray:
    """Tokens u16 of all documents of a file, cached beside it."""
    cache = path.with_suffix(".npy")
    if not cache.exists():
        texts = [json.loads(line)["text"] for line in open(path, encoding="utf-8")]
        ids: list[int] = []
        for encoding in tokenizer.encode_batch(texts):
            ids += encoding.ids
        np.save(cache, np.array(ids, dtype=np.uint16))
    return np.load(cache)


def documents(folder: Path, tokenizer: Tokenizer, context: int) -> dict[str, list[list[int]]]:
    """Tokens of every document of DOMAIN/*.txt, END_OF_TEXT first, cut to `context` + 1 tokens."""
    return {
        domain.name: [
            tokenizer.encode(path.read_text("utf-8")).ids[: context + 1] for path in sorted(domain.glob("*.txt"))
        ]
        for domain in sorted(folder.iterdir())
        if domain.is_dir()
    }
