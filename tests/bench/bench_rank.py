"""Effective rank against the full SVD it replaces: forward and backward for a batch of 64 clips of 75 tokens by 256 numbers.

    python tests/bench/bench_rank.py

prints milliseconds of processor time and the ratio. One thread, the best of interleaved repetitions: other load only ever adds.
"""

import time

import torch

from skelnb.objectives.rank import effective_rank, effective_rank_svd


def milliseconds(f, z) -> float:
    z.grad = None
    start = time.process_time()
    f(z).reciprocal().mean().backward()
    return 1e3 * (time.process_time() - start)


def main(batch=64, tokens=75, dim=256, repeats=15):
    torch.set_num_threads(1)
    z = torch.randn(batch, tokens, dim, generator=torch.Generator().manual_seed(0)).requires_grad_()
    gradients, times = {}, {effective_rank: [], effective_rank_svd: []}
    for f in times:  # warm up, and check that both compute the same
        milliseconds(f, z)
        gradients[f] = z.grad.clone()
    for _ in range(repeats):
        for f, t in times.items():
            t.append(milliseconds(f, z))
    ours, svd = (min(t) for t in times.values())
    difference = (gradients[effective_rank] - gradients[effective_rank_svd]).norm() / gradients[effective_rank_svd].norm()
    print(f"effective_rank {ours:.1f} ms, full SVD {svd:.1f} ms, ratio {svd / ours:.2f}, relative difference of gradients {difference:.1e}")


if __name__ == "__main__":
    main()
