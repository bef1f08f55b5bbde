"""What the tests of fine-tuning share with other processes: a small LoDE, and a job."""

import torch

from skelnb.data.store import SkeletonStore
from skelnb.evaluation.finetune import FinetuneClips, finetune_clips
from skelnb.methods.lode import Lode, LodePreset

SHORT = dict(epochs=2, batch=8, warmup=0, hidden=12, drop_path=0.0, precision="32-true")


def small(seed=0, **changes):
    torch.manual_seed(seed)
    return Lode(LodePreset.named("tiny", **dict(frames=16, unit=8, dim=16, mlp=16, heads=2, depth=2) | changes))


def tune(path, folder):
    "Fine-tune with everything that processes must agree on: batch norm in the head, looks at held-out people, shared test clips."
    torch.set_num_threads(1)  # SGD, because Adam turns the rounding of a zero gradient (a bias before batch norm) into a step
    store = SkeletonStore.open(path)
    config = FinetuneClips(**SHORT | dict(dropout=0.0, lr=0.1, optimizer="sgd", looks=2))
    clips = store.split("split", "train"), store.split("split", "test")
    outcome, model = finetune_clips(small(), store, *clips, config, "validation", folder, device="cpu")
    return {"scores": outcome.scores.tolist(), "notes": outcome.notes, "mean": model.head[2].running_mean.tolist()}
