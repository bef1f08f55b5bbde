"""What a feature bank saves: a linear probe of 20 epochs on cached features against running the encoder in every epoch, and empty persons that are skipped.

Prints seconds of processor time, to which other jobs on the machine do not count, and their ratio."""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from skelnb.backbones.vit import SkeletonViT  # noqa: E402
from skelnb.data.store import SkeletonStore  # noqa: E402
from skelnb.data.synthetic import synthesize  # noqa: E402
from skelnb.evaluation.bank import View, extract_bank  # noqa: E402

VIEW = View(frames=60)
BATCH, EPOCHS = 32, 20


def timed(function):
    began = time.process_time()
    result = function()
    return result, time.process_time() - began


def encoder(persons: str) -> SkeletonViT:
    torch.manual_seed(0)
    return SkeletonViT(frames=60, dim=96, depth=3, heads=4, mlp=384, persons=persons)


def probe(features, n: int, y: torch.Tensor, classes: int) -> nn.Linear:
    "A linear layer, SGD, 20 epochs; `features(rows)` gives (b, D)."
    torch.manual_seed(0)
    order, head = torch.Generator().manual_seed(0), nn.Linear(96, classes)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)
    for _ in range(EPOCHS):
        for rows in torch.randperm(n, generator=order).split(BATCH):
            loss = nn.functional.cross_entropy(head(features(rows)), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return head


def epochs(store: SkeletonStore) -> None:
    vit, y = encoder("present").eval(), torch.from_numpy(store.labels)

    @torch.no_grad()
    def again(rows):
        return vit(VIEW.read(store, rows.numpy())).clip

    def cached():
        x = extract_bank(vit, store, view=VIEW, batch=BATCH).pooled()
        return probe(lambda rows: x[rows], len(y), y, len(store.classes))

    ours, ours_s = timed(cached)
    theirs, theirs_s = timed(lambda: probe(again, len(y), y, len(store.classes)))
    assert torch.allclose(ours.weight, theirs.weight, atol=1e-3)
    print(f"{EPOCHS} epochs on {len(y)} clips: cached, extraction included, {ours_s:.2f} s  encoder in every epoch {theirs_s:.2f} s  "
          f"ratio {theirs_s / ours_s:.1f}")


def persons(store: SkeletonStore) -> None:
    vit, everybody = encoder("mean_over_M"), np.arange(len(store))

    @torch.no_grad()
    def slots():
        vit.eval()
        return torch.cat([vit(VIEW.read(store, part)).clip for part in np.array_split(everybody, -(-len(store) // BATCH))])

    bank, ours_s = timed(lambda: extract_bank(vit, store, view=VIEW, batch=BATCH))
    theirs, theirs_s = timed(slots)
    assert torch.allclose(bank.pooled("clip", "mean_over_M"), theirs, atol=1e-4)
    print(f"{len(store)} clips, {len(bank.index)} persons in {2 * len(store)} slots: empty ones skipped {ours_s:.2f} s  all encoded {theirs_s:.2f} s  "
          f"ratio {theirs_s / ours_s:.2f}")


def main(n: int = 120) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clips = synthesize(n * 4 // 5, seed=0) + synthesize(n // 5, seed=0, persons=2, start=n * 4 // 5)
        store = SkeletonStore.write(Path(folder, "store"), clips, persons=2)
        extract_bank(encoder("present"), store, view=VIEW, clips=range(BATCH))  # the first calls are slow: memory, and imports of the optimizer
        probe(lambda rows: torch.zeros(len(rows), 96), BATCH, torch.zeros(BATCH, dtype=torch.int64), 2)
        epochs(store)
        persons(store)


if __name__ == "__main__":
    main()
