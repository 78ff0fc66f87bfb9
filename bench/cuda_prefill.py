#!/usr/bin/env python3
"""FlexPrefill beside dense attention on a Hopper GPU: plan() and attend() of the cuda backend, by
`flexprefill bench --backend cuda`, and right after each case cuDNN (PyTorch's SDPA) on the same shape.

    cuda_prefill.py FLEXPREFILL [--model models/needle-14m] [--prompt-file FILE] [--lengths N,N]

bf16, 32 query and 8 kv heads, gamma .9, min_budget 1024; medians of event times, ms. One JSON line per case, the table
last. "structured" and "normal" are data of `flexprefill bench`, head_dim 128. "real" are heads of all layers of the
model for the text, with the model's head_dim. A "chunk" has 8192 queries against 131072 keys; "random 10 %" is a mask
of that density, at the price of the dearest plan of its shape. cuDNN gets normal data of the same shape, and does a
chunk in two calls (cuda_peers.dense_ms). Without PyTorch its columns stay empty."""

import argparse
import json
import subprocess
import sys

try:
    import torch

    import cuda_peers
except ImportError:
    torch = None

HEADS, KV_HEADS, CHUNK = 32, 8, 8192
COLUMNS = ("data", "D", "q_len", "kv_len", "computed", "plan", "attend", "total", "dense", "cuDNN", "cuDNN / total",
           "cuDNN / dense")


def bench(program, mode, options):
    command = [program, "bench", mode, "--backend", "cuda", "--heads", str(HEADS), "--kv-heads", str(KV_HEADS),
               *options, "--json", "-"]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if run.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{run.stderr}")
    return json.loads(run.stdout)["results"][0]


def cudnn_ms(case):
    if torch is None:
        return None
    torch.cuda.empty_cache()
    return cuda_peers.dense_ms(case["q_len"], case["kv_len"], case["head_dim"], case["heads"], case["kv_heads"])[1]


def ms(case, name):
    """The row of this name, or None."""
    return next((1e3 * row["seconds"] for row in case["rows"] if row["name"] == name), None)


def ratio(cudnn, ours):
    return None if cudnn is None or ours is None else cudnn / ours


def entry(data, case, cudnn, plan, attend_row):
    attend, dense = 1e3 * attend_row["seconds"], ms(case, "dense")
    total = plan + attend
    values = (data, case["head_dim"], case["q_len"], case["kv_len"], attend_row["computed_share"], plan, attend, total,
              dense, cudnn, ratio(cudnn, total), ratio(cudnn, dense))
    line = dict(zip(COLUMNS, values))
    print(json.dumps(line), flush=True)
    return line


def planned(program, data, options, rules=("coverage",)):
    """One line per rule. Dense attention and the policies take turns in one process."""
    policies = ["--rule", rules[0]] if len(rules) == 1 else []
    case = bench(program, "plan", [*policies, *options])
    cudnn = cudnn_ms(case)
    rows = {row["name"]: row for row in case["rows"]}
    repeated = ", text repeated" if "text repeated" in case["case"] else ""
    return [entry(f"{data}, {rule}{repeated}", case, cudnn, ms(case, f"plan {rule}"), rows[f"attend {rule}"])
            for rule in rules if f"attend {rule}" in rows]


def random_chunk(program, plan):
    options = ["--data", "normal", "--q-len", str(CHUNK), "--kv-len", "131072", "--density", "0.1"]
    case = bench(program, "attention", options)
    return entry("chunk, random 10 %", case, cudnn_ms(case), plan, case["rows"][-1])


def table(lines):
    def text(value):
        if value is None:
            return "-"
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    cells = [COLUMNS] + [[text(line[column]) for column in COLUMNS] for line in lines]
    widths = [max(len(row[n]) for row in cells) for n in range(len(COLUMNS))]
    for row in cells:
        print(row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:])), sep="  ")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="the executable flexprefill, built with CUDA")
    parser.add_argument("--model", help="folder of a model for the real lines; none without")
    parser.add_argument("--prompt-file", default="examples/data/rust-book.txt")
    parser.add_argument("--lengths", default="4096,8192,16384,32768,65536,131072")
    parser.add_argument("--official", action="store_true", help="the rule of the authors, too")
    arguments = parser.parse_args()
    program, lengths = arguments.program, arguments.lengths.split(",")
    rules = ("coverage", "official") if arguments.official else ("coverage",)
    print(torch.cuda.get_device_name(0) + ", torch " + torch.__version__ if torch else "no PyTorch", flush=True)

    lines = []
    for length in lengths:
        lines += planned(program, "structured", ["--data", "structured", "--q-len", length], rules)
    chunk = ["--q-len", str(CHUNK), "--kv-len", "131072"]
    chunks = []
    for data in ("structured", "normal"):
        chunks += planned(program, f"chunk, {data}", ["--data", data, *chunk])
    lines += chunks + [random_chunk(program, max(line["plan"] for line in chunks))]
    if arguments.model:
        real = ["--model", arguments.model, "--prompt-file", arguments.prompt_file]
        for length in lengths:
            lines += planned(program, "real", [*real, "--q-len", length], rules)
        lines += planned(program, "chunk, real", [*real, *chunk])
    table(lines)


if __name__ == "__main__":
    sys.exit(main())
