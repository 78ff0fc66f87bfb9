#!/usr/bin/env python3
"""Times dense causal attention of cuDNN (through PyTorch's SDPA) on the shapes of cuda_attention_bench: the peer to
compare with, in the same run. bf16, random data, medians of event times; TFLOP/s exact-causal."""

import statistics
import sys
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def time_ms(work, repeats):
    time.sleep(0.4)  # after seconds at the limit of its power the card lowers its clocks for a while
    for _ in range(3):
        work()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    events[0].record()
    for event in events[1:]:
        work()
        event.record()
    torch.cuda.synchronize()
    times = [a.elapsed_time(b) for a, b in zip(events, events[1:])]
    return min(times), statistics.median(times), max(times)


def dense_flops(q_len, kv_len, dim, heads):
    """Exact-causal."""
    return 4 * dim * heads * (q_len * (kv_len - q_len) + q_len * (q_len + 1) / 2)


def sdpa_ms(q_len, kv_len, dim, heads, kv_heads, causal, repeats):
    q = torch.randn(1, heads, q_len, dim, device="cuda", dtype=torch.bfloat16)
    k = torch.randn(1, kv_heads, kv_len, dim, device="cuda", dtype=torch.bfloat16)
    v = torch.randn(1, kv_heads, kv_len, dim, device="cuda", dtype=torch.bfloat16)

    def work():
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)

    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION]):
        return time_ms(work, repeats)


def dense_ms(q_len, kv_len, dim, heads, kv_heads):
    """Lowest, median and highest time of cuDNN. PyTorch reaches its causal mask for whole prompts alone; a chunk is
    the sum of all queries against the keys before the chunk and of the causal rest, without merging the two."""
    repeats = 5 if dense_flops(q_len, kv_len, dim, heads) > 4e13 else 12
    times = sdpa_ms(q_len, q_len, dim, heads, kv_heads, True, repeats)
    if q_len < kv_len:
        past = sdpa_ms(q_len, kv_len - q_len, dim, heads, kv_heads, False, repeats)
        times = [a + b for a, b in zip(times, past)]
    return times


def dense(q_len, kv_len, dim, heads=32, kv_heads=8):
    low, median, high = dense_ms(q_len, kv_len, dim, heads, kv_heads)
    rate = dense_flops(q_len, kv_len, dim, heads) / median * 1e-9
    print(f"cudnn    D {dim:3d}  {q_len:6d}/{kv_len:<7d} {heads}/{kv_heads}  {median:9.3f} ms "
          f"({low:.3f} .. {high:.3f})  {rate:6.1f}", flush=True)


def matmul():
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    _, median, _ = time_ms(lambda: a @ b, 20)
    print(f"cublas   8192^3  {median:.3f} ms  {2 * 8192**3 / median * 1e-9:.1f}", flush=True)


def main():
    print(torch.cuda.get_device_name(0), torch.__version__, flush=True)
    matmul()
    for dim, lengths in ((128, (4096, 8192, 16384, 32768, 131072)), (64, (16384, 32768)),
                         (256, (16384,)), (96, (16384,)), (192, (16384,))):
        for length in lengths:
            try:
                dense(length, length, dim)
            except Exception as error:  # a shape that cuDNN refuses
                print(f"cudnn    D {dim}  {length}: {error}".splitlines()[0], flush=True)


if __name__ == "__main__":
    sys.exit(main())
