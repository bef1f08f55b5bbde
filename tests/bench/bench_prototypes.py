"""Sinkhorn and the prototypes' cross-entropy with gradients, in pieces against the tables written out: CPU time, its ratio, and peak memory.

Each form runs in a process of its own, whose largest resident size, less the largest before the step, is the peak (too small where making the data needed
more for a moment than the step starts from). Arguments: tokens (2000) and prototypes (16384) where both forms run, then tokens and prototypes where only the
pieces run (none; 20000 65536 takes minutes), then rows at a time there (by device)."""

import json
import resource
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from skelnb.objectives.prototypes import prototype_cross_entropy, sinkhorn, sinkhorn_weights, weight_normed


def problem(n, k, d=256):
    g = torch.Generator().manual_seed(0)
    x, t, v, w = (F.normalize(torch.randn(rows, d, generator=g), dim=1) for rows in (n, n, k, k))
    return x.requires_grad_(), v.requires_grad_(), torch.ones(k, 1, requires_grad=True), t, w


def in_pieces(x, v, gain, t, w, chunk):
    log_r = sinkhorn_weights(t, w, 0.04, chunk=chunk)
    return prototype_cross_entropy(x, weight_normed(v, gain), t, w, log_r, teacher_temperature=0.04, chunk=chunk)


def written_out(x, v, gain, t, w, chunk):
    q = sinkhorn(t @ w.T, 0.04)
    return F.cross_entropy(x @ weight_normed(v, gain).T / 0.1, q)


def one(form: str, n: int, k: int, chunk: int | None) -> dict:
    "Seconds of wall clock and CPU, megabytes, loss and gradient norms of one step."
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    step = {"pieces": in_pieces, "dense": written_out}[form]
    step(*problem(64, 128), chunk).backward()  # the first call loads libraries
    data = problem(n, k)
    before, wall, cpu = peak(), time.perf_counter(), time.process_time()
    loss = step(*data, chunk)
    loss.backward()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "mb": peak() - before, "threads": torch.get_num_threads(),
            "numbers": [loss.item(), *(t.grad.norm().item() for t in data[:3])]}


def child(*arguments) -> dict:
    done = subprocess.run([sys.executable, __file__, "one", json.dumps(arguments)], stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout)


def main(n: int = 2000, k: int = 16384, large_n: int = 0, large_k: int = 0, chunk: int | None = None) -> None:
    ours, dense = (min((child(form, n, k, chunk) for _ in range(3)), key=lambda r: r["cpu"]) for form in ("pieces", "dense"))
    for a, b in zip(ours["numbers"], dense["numbers"]):
        assert abs(a - b) < 1e-4 * abs(b)
    table = n * k * 4 / 2**20
    print(f"{ours['threads']} thread(s), {n:,} tokens, {k:,} prototypes: in pieces {ours['cpu']:.2f} s and {ours['mb']:.0f} MB, "
          f"written out {dense['cpu']:.2f} s and {dense['mb']:.0f} MB ({dense['mb'] / table:.1f} tables), ratio of time {dense['cpu'] / ours['cpu']:.2f}, "
          f"of memory {dense['mb'] / ours['mb']:.1f}")
    if large_n:
        large = child("pieces", large_n, large_k, chunk)
        needs = dense["mb"] / table * large_n * large_k * 4 / 2**20
        print(f"{large_n:,} tokens, {large_k:,} prototypes: in pieces {large['wall']:.0f} s ({large['cpu']:.0f} s of CPU) and {large['mb']:.0f} MB; "
              f"written out it would take {needs:.0f} MB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        print(json.dumps(one(*json.loads(sys.argv[2]))))
    else:
        main(*map(int, sys.argv[1:]))
