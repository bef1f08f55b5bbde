"""Linear probes on cached features: SLiM's 52 heads at once against 52 runs, USDRL's recipe on 40,000 x 2,048, and the cache against the encoder.

Prints the CPU seconds of one core, which other jobs on the machine disturb less than the clock, and their ratio."""

import time
from dataclasses import replace

import torch

from skelnb.backbones.vit import SkeletonViT
from skelnb.evaluation.examples import Examples
from skelnb.evaluation.linear import LinearEval, train_heads


def clips(n: int, width: int, classes: int = 60) -> Examples:
    "Features with some class in them."
    g = torch.Generator().manual_seed(width)
    y = torch.arange(n) % classes
    return Examples(torch.randn(classes, width, generator=g)[y] * 0.5 + torch.randn(n, width, generator=g), y.numpy(), [str(k) for k in range(classes)])


def timed(function):
    began = time.process_time()
    out = function()
    return time.process_time() - began, out


def grid(steps: int = 150) -> None:
    slim = LinearEval.named("slim", iterations=steps)
    readouts = [clips(6_000, width) for width in (256, 512, 1024, 1280)]
    for readout in readouts:
        train_heads([readout], replace(slim, iterations=5))  # warm up
    together, runs = timed(lambda: [train_heads([e], slim) for e in readouts])
    single, alone = timed(lambda: [[train_heads([e], replace(slim, lr=lr)) for lr in slim.grid] for e in readouts])
    far = max((run.heads.weight - torch.cat([a.heads.weight for a in ones])).abs().max().item() for run, ones in zip(runs, alone))
    print(f"SLiM, {steps} steps of 64 clips: 52 heads at once {together:.2f} s, one after another {single:.2f} s, ratio {single / together:.1f}, "
          f"largest difference of a weight {far:.0e}; its 20,000 steps at once: {together * 20_000 / steps / 60:.1f} min")


def recipe(epochs: int = 4, n: int = 40_000, width: int = 2_048) -> None:
    usdrl, e = LinearEval.named("usdrl"), clips(n, width)
    train_heads([e], usdrl, until=1)  # warm up
    seconds = timed(lambda: train_heads([e], usdrl, until=epochs))[0] / epochs
    look = timed(lambda: train_heads([e], usdrl, rows=range(512), watch=e.take(range(16_000)), until=1))[0]
    print(f"USDRL on {n} x {width}: {1 / seconds:.1f} epochs/s, {n / seconds:,.0f} clips/s; its 160 epochs {160 * seconds / 60:.1f} min, "
          f"its 32 looks at 16,000 test clips {32 * look / 60:.1f} min")


def cache(n: int = 16, epochs: int = 100) -> None:
    "MAMP's encoder, one person of 120 frames and 25 joints; its probe on 256 features."
    encoder, x, e = SkeletonViT().eval(), torch.randn(n, 3, 120, 25, 1), clips(40_000, 256)
    with torch.no_grad():
        encoder(x[:4])
        encode = timed(lambda: encoder(x))[0] / n
    probe = timed(lambda: train_heads([e], LinearEval(), until=3))[0] / 3 / len(e)
    print(f"MAMP: encoder {1 / encode:,.1f} clips/s, probe {1 / probe:,.0f} clips/s; 40,000 clips, {epochs} epochs: encoder in every epoch "
          f"{len(e) * epochs * (encode + probe) / 3600:.1f} h, once and cached {len(e) * (encode + epochs * probe) / 3600:.2f} h, "
          f"ratio {epochs * (encode + probe) / (encode + epochs * probe):.0f}")


if __name__ == "__main__":
    torch.set_num_threads(1)  # waiting threads would count as work
    grid()
    recipe()
    cache()
