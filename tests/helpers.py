"""A toy method and loader, and jobs for other processes (they must be importable there, hence a module of their own)."""

import copy
import tempfile
import time
from pathlib import Path

import torch
from forks import ranks
from torch import nn

from skelnb.errors import TrainingError
from skelnb.methods.base import Method
from skelnb.training.fit import FitConfig, fit
from skelnb.training.launch import launch
from skelnb.transforms.draws import Draws


def run_ranks(target: str, config: dict, n: int):
    "The result of `module:function`(**config) on `n` processes (Gloo on the CPU); with 1, in this process. As `launch`, but sooner."
    if n == 1:
        return launch(target, config)
    with tempfile.TemporaryDirectory() as folder:
        return ranks(target, config, n, Path(folder))


def same_weights(a: dict, b: dict, tolerance: float = 0.0) -> bool:
    "Are two state dictionaries equal, to the bit or within a tolerance? Prints what differs most."
    assert a.keys() == b.keys()
    worst = {k: (a[k].double() - b[k].double()).abs().max().item() for k in a}
    print("largest difference:", max(worst.items(), key=lambda kv: kv[1]))
    return max(worst.values()) <= tolerance


class ToyLoader:
    "Clips (n, 3, T, V, 1) that are a function of (seed, step); `nan_at` spoils one clip of that step, `wait` makes reading slow."

    def __init__(self, batch=8, seed=0, nan_at=None, wait=0.0):
        self.size, self.seed, self.nan_at, self.wait = batch, seed, nan_at, wait

    def batch(self, step, rank=0, world=1):
        time.sleep(self.wait)
        x = Draws(self.seed, step, rank, world).child("toy").randn(self.size // world, 3, 6, 5, 1)
        if step == self.nan_at and rank == world - 1:
            x[-1, 0, 0, 0] = torch.nan
        return {"x": x.cumsum(2)}



class Toy(Method):
    "Predict an EMA teacher's view of the clip from half of its joints; has all that a real method has: draws, dropout, teacher, buffer."

    name = "toy"

    def __init__(self, dropout=0.0, dim=16):
        super().__init__()
        layers = nn.Flatten(), nn.Linear(90, dim), nn.LayerNorm(dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(dim, dim)
        self.encoder = nn.Sequential(*layers)
        self.teacher = copy.deepcopy(self.encoder).requires_grad_(False)
        self.head = nn.Linear(dim, 90)
        self.register_buffer("seen", torch.zeros(()))

    def losses(self, batch, draws):
        x = batch["x"]
        z = self.encoder(x * (draws.rand(len(x), 1, 1, 5, 1) < 0.5))
        with torch.no_grad():
            target = self.teacher(x)
        fill, agree = ((self.head(z) - x.flatten(1)) ** 2).mean(), ((z - target) ** 2).mean()
        return {"loss": fill + agree, "fill": fill, "agree": agree, "tokens": z}

    def after_step(self, draws, progress):
        self.seen += 1
        for p, q in zip(self.teacher.parameters(), self.encoder.parameters()):
            p.lerp_(q, 0.1 + 0.1 * progress * float(draws.child("teacher", shared=True).rand(1)))


class Careful(Toy):
    "A toy whose parameters learn at different rates, begin at different times and are clipped apart."

    def lr_scale(self, name):
        return 0.1 if name.startswith("encoder.1") else 1.0

    def frozen_until(self, name):
        return 0.5 if name.startswith("head") else 0.0

    def clip_group(self, name):
        return name.split(".")[0]


def train(folders, steps, loader=None, batch=8, toy=Toy, **config):
    "One training for each folder and number of steps, from the same initial weights."
    torch.set_num_threads(1)
    done = []
    for folder, n in zip(folders, steps):
        torch.manual_seed(0)
        settings = FitConfig(**{"steps": n, "batch": batch, "lr": 1e-2, "warmup": 0, "log_every": 1, "checkpoint_every": 3, "device": "cpu",
                                "precision": "32-true", "clip": 1.0, **config})
        method = toy(dropout=settings.seed % 2 * 0.2)  # odd seeds use dropout
        done.append(fit(method, ToyLoader(batch, **(loader or {})), settings, folder).step)
    return done


def train_then_nan(folders, steps):
    "`train`, the last folder with all that is not the default; and then what is said when the last process alone meets a NaN."
    other = dict(optimizer="sgd", nesterov=True, schedule="steps", milestones=(3,), decay_all=True, clip=0.05, toy=Careful)
    done = train(folders[:-1], steps[:-1]) + train(folders[-1:], steps[-1:], **other)
    try:
        train([folders[0] + "-nan"], [6], loader={"nan_at": 3})
    except TrainingError as e:
        return {"done": done, "error": str(e)}


class Steps:
    "A loader whose batches of eight clips are a function of the step, shared by the processes; stops before one of them."

    def __init__(self, batch, stop=None):  # batch(n, step, rank, world)
        self.make, self.stop = batch, stop

    def batch(self, step, rank=0, world=1):
        if step == self.stop:
            raise KeyboardInterrupt
        return self.make(8 // world, step, rank, world)
