"""Cosine k-NN at NTU-60's size (40,000 clips to search, 16,000 to name, 1,024 numbers, k = 20) against a bare blocked matrix product + torch.topk.

Prints seconds, their ratio and the peak memory beyond the features; then weighted votes, and mAP against scikit-learn's function query by query.
The bare search runs half before and half after ours, so that a machine that slows down slows both."""

import resource
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import average_precision_score

from skelnb.evaluation.examples import Examples
from skelnb.evaluation.neighbours import nearest, retrieval, vote

BLOCK, K, CLASSES = 512, 20, 60


def features(n: int, width: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    "Clips around 60 centres."
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, CLASSES, (n,), generator=g)
    centres = torch.randn(CLASSES, width, generator=torch.Generator().manual_seed(9))
    return (0.15 * centres[y]).add_(torch.randn(n, width, generator=g)), y.numpy()


def bare(q: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    "What cannot be avoided: rows already of length 1, any order of ties."
    buffer, found = torch.empty(BLOCK, len(g)), []
    for i in range(0, len(q), BLOCK):
        part = q[i:i + BLOCK]
        found.append(torch.mm(part, g.T, out=buffer[:len(part)]).topk(K, 1).indices)
    return torch.cat(found)


def timed(f, *args):
    "Seconds by the clock and of the processor, and what came out."
    began = np.array([time.perf_counter(), time.process_time()])
    out = f(*args)
    return np.array([time.perf_counter(), time.process_time()]) - began, out


@contextmanager
def memory():
    "How much more memory than before is in use at most, in MB: a list that is filled at the end."
    now = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    before, seen, done = now(), [], threading.Event()

    def look():
        while not done.wait(0.01):
            seen.append(now())

    thread = threading.Thread(target=look)
    thread.start()
    more: list[float] = []
    yield more
    done.set()
    thread.join()
    more.append(max(seen, default=before) - before)


def main(queries: int = 16_000, gallery: int = 40_000, width: int = 1024) -> None:
    (q, yq), (g, yg) = features(queries, width, 0), features(gallery, width, 1)
    uq, ug = (torch.nn.functional.normalize(x, dim=1) for x in (q, g))
    half, small = queries // 2, slice(0, 512)
    bare(uq[small], ug), nearest(q[small], g, K)  # warm up
    print(f"{queries} x {gallery} x {width}, k = {K}, {torch.get_num_threads()} threads")
    with memory() as bare_mb:
        first, found = timed(bare, uq[:half], ug)
    with memory() as our_mb:
        ours, (value, index) = timed(nearest, q, g, K)
    last, rest = timed(bare, uq[half:], ug)
    floor = first + last
    assert (index == torch.cat([found, rest])).float().mean() > 0.999  # else: rounding
    for kind, a, b in zip(("clock", "processor"), floor, ours):
        print(f"{kind:9}  bare product + topk {a:.2f} s, nearest {b:.2f} s, ratio {b / a:.2f}")
    print(f"memory     beyond the features: bare {bare_mb[0]:.0f} MB, nearest {our_mb[0]:.0f} MB, {g.nbytes / 2**20:.0f} of them the gallery at length 1")
    votes, shares = timed(vote, value, torch.from_numpy(yg)[index], CLASSES, 0.07)
    right = (shares.argmax(1).numpy() == yq).mean()
    print(f"votes      weighted: {votes[0]:.3f} s, ratio with them {((ours + votes) / floor)[0]:.2f}; accuracy {right:.3f}")
    names, some, few = [str(c) for c in range(CLASSES)], 2048, 64
    took, r = timed(retrieval, Examples(g, yg, names), Examples(q[:some], yq[:some], names))
    theirs, ap = timed(lambda: [average_precision_score(yg == c, row) for c, row in zip(yq[:few], (uq[:few] @ ug.T).numpy())])
    assert np.allclose(ap, r.ap[:few], atol=1e-4)
    a, b = 1e3 * theirs[1] / few, 1e3 * took[1] / some
    print(f"retrieval  with mAP {b:.2f} ms a query, product included; scikit-learn's AP in a loop {a:.2f} ms a query, ratio {a / b:.0f} (processor)")


if __name__ == "__main__":
    main()
