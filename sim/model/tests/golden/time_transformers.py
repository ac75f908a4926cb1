#!/usr/bin/env python3
"""Tokens per second of transformers on a checkpoint, to set beside those that `cptr capture --json` prints.

  python3 time_transformers.py MODEL --text FILE [--context 512] [--threads 1] [--sequences 16]

The same work: each sequence in one forward pass from an empty cache, f32, router scores recorded by hooks, logits of
the last token only.
"""

import argparse
import time

import torch
import transformers

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--text", required=True)
parser.add_argument("--context", type=int, default=512)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--sequences", type=int, default=16)
parser.add_argument("--experts", help="experts_implementation, such as eager, batched_mm, grouped_mm")
arguments = parser.parse_args()

torch.set_num_threads(arguments.threads)
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=f"{arguments.model}/tokenizer.json")
options = {"experts_implementation": arguments.experts} if arguments.experts else {}
model = transformers.AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32, **options).eval()
with open(arguments.text, encoding="utf-8") as file:
    tokens = tokenizer(file.read(), return_tensors="pt").input_ids[0]
sequences = tokens.split(arguments.context)[: arguments.sequences]
scores = []
for module in model.modules():
    if type(module).__name__.lower().endswith("topkrouter"):
        module.register_forward_hook(lambda _, __, out: scores.append(out[0]))
with torch.inference_mode():
    model(sequences[0][None], logits_to_keep=1)
    scores.clear()
    start, start_cpu = time.perf_counter(), time.process_time()
    for sequence in sequences:
        model(sequence[None], logits_to_keep=1)
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
count = sum(map(len, sequences))
print(f"transformers {transformers.__version__}, torch {torch.__version__}, {arguments.threads} threads: "
      f"{count} tokens in {seconds:.2f} s, {count / seconds:.0f} tokens/s; {cpu:.2f} s of processor time, "
      f"{count / cpu:.0f} tokens/s; {len(scores)} score tensors")
