#!/usr/bin/env python3
"""Times flexprefill's attention and PyTorch's scaled_dot_product_attention on the CPU, in turn, on the same
shapes with the same threads, and prints the ratios as a Markdown table (`>> docs/performance.md`).

For developers, on an otherwise idle machine; needs PyTorch, best in a folder of its own:
  python3 -m venv /tmp/torch && /tmp/torch/bin/pip install torch==2.13.0
  /tmp/torch/bin/python scripts/bench_peers.py

PyTorch gets what suits it: contiguous [1, heads, tokens, head_dim], keys and values already repeated for the
query heads, its flash kernel. Its masks are dense, so sparse rows of ours stand beside its dense attention.
"""
import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections import namedtuple

warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
try:
    import torch
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError:
    sys.exit("bench_peers.py: PyTorch is missing; see the head of this file for how to install it")

HEADS, KV_HEADS = 8, 2
SPARSE_LEN = 16384  # where the sparse rows are measured
Case = namedtuple("Case", "dtype head_dim q_len kv_len")
CASES = [
    Case("bf16", 128, 4096, 4096),
    Case("bf16", 128, SPARSE_LEN, SPARSE_LEN),
    Case("bf16", 128, 512, SPARSE_LEN),
    Case("bf16", 64, 8192, 8192),
    Case("f32", 128, 4096, 4096),
    Case("f32", 64, 8192, 8192),
]


class Torch:
    """One case in PyTorch; run() returns seconds."""

    def __init__(self, case):
        dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[case.dtype]
        torch.manual_seed(1)

        def tensor(tokens, heads):
            values = torch.randn(1, heads, tokens, case.head_dim).to(dtype)
            return values.repeat_interleave(HEADS // heads, dim=1).contiguous()

        self.q = tensor(case.q_len, HEADS)
        self.k, self.v = tensor(case.kv_len, KV_HEADS), tensor(case.kv_len, KV_HEADS)
        self.mask = None
        if case.q_len != case.kv_len:  # is_causal would align the diagonal to the first key
            visible = torch.ones(case.q_len, case.kv_len, dtype=torch.bool)
            visible = visible.tril(diagonal=case.kv_len - case.q_len)
            self.mask = torch.zeros(case.q_len, case.kv_len, dtype=dtype).masked_fill(~visible, float("-inf"))
        self.run()

    def run(self):
        with torch.inference_mode(), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            begin = time.perf_counter()
            F.scaled_dot_product_attention(self.q, self.k, self.v, attn_mask=self.mask, is_causal=self.mask is None)
            return time.perf_counter() - begin


def ours(tool, case, threads, options):
    """Rows of `flexprefill bench attention`, by name; each a process that warms up and measures once."""
    command = [tool, "bench", "attention", "--heads", HEADS, "--kv-heads", KV_HEADS, "--head-dim", case.head_dim,
               "--q-len", case.q_len, "--kv-len", case.kv_len, "--dtype", case.dtype, "--threads", threads,
               "--repeats", 1, "--json", "-", *options]
    result = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                            check=True)
    rows = json.loads(result.stdout)["results"][0]["rows"]
    return {row["name"]: row for row in rows}


def milliseconds(samples):
    low, middle, high = min(samples), statistics.median(samples), max(samples)
    return f"{1e3 * middle:.1f} ({1e3 * low:.1f} .. {1e3 * high:.1f})"


def measure(case, tool, threads, rounds):
    """Seconds of PyTorch, and per row of ours (seconds, the last row itself)."""
    sparse = case.q_len == SPARSE_LEN
    flex = ["--no-dense", "--policy", "flex", "--min-budget", 256, "--data", "structured"]
    calls = [["--density", 0.1], flex] if sparse else [[]]
    peer, theirs, rows = Torch(case), [], {}
    for _ in range(rounds):
        for options in calls:
            for name, row in ours(tool, case, threads, options).items():
                rows.setdefault(name, ([], row))[0].append(row["seconds"])
        theirs.append(peer.run())
    return theirs, rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--tool", default="build/flexprefill", help="the executable (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of both (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is run (%(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    print("\n## Beside PyTorch\n")
    print(f"`scripts/bench_peers.py`, PyTorch {torch.__version__} (scaled_dot_product_attention, flash, causal), "
          f"{arguments.threads} threads, {HEADS} query heads and\n{KV_HEADS} kv heads, {arguments.rounds} rounds in "
          f"turn, {time.strftime('%Y-%m-%d', time.gmtime())}. Sparse rows stand beside PyTorch's dense attention. "
          "Targets:\ndense 2x, FlexPrefill with 10 % computed at 16K 10x.\n")
    print("| case | ours | computed | ours, ms | PyTorch, ms | PyTorch, GFLOP/s | times faster |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for case in CASES:
        theirs, rows = measure(case, arguments.tool, arguments.threads, arguments.rounds)
        # Query t sees kv_len - q_len + t + 1 keys; two products, two operations each.
        pairs = case.q_len * (case.kv_len - case.q_len) + case.q_len * (case.q_len + 1) / 2
        rate = 4 * case.head_dim * HEADS * pairs / statistics.median(theirs) / 1e9
        share = {name: row.get("computed_share") for name, (_, row) in rows.items()}
        share["total flex"] = share.get("attend flex")
        for name, (seconds, _) in rows.items():
            if name in ("plan flex", "attend flex"):
                continue
            faster = statistics.median(theirs) / statistics.median(seconds)
            print(f"| {case.dtype}, head_dim {case.head_dim}, {case.q_len} x {case.kv_len} | {name} | "
                  f"{100 * share[name]:.1f} % | {milliseconds(seconds)} | {milliseconds(theirs)} | {rate:.0f} | "
                  f"{faster:.2f} |", flush=True)


if __name__ == "__main__":
    main()
