"""What the U-shaped module adds to an encoder in evaluation: seconds, ratios to the bare encoder in one run, multiply-adds, and what masks by length cost.

Usage: bench_fusion.py [clips] [frames]"""

import sys
import time
from functools import partial

import torch

from skelnb.backbones.agcn import AGCN
from skelnb.backbones.fusion import WithFusion, WithUpsampling
from skelnb.backbones.stgcn import STGCN
from skelnb.backbones.unik import UNIK
from skelnb.evaluation.efficiency import count_macs


def in_turn(*runs, repeats=3):
    "Best processor seconds of each; they take turns, so that a busy machine disturbs all alike."
    best = [float("inf")] * len(runs)
    for i in range(repeats + 1):
        for k, run in enumerate(runs):
            began = time.process_time()
            run()
            best[k] = min(best[k], time.process_time() - began) if i else best[k]
    return best


@torch.no_grad()
def main(clips: int = 2, frames: int = 300) -> None:
    torch.manual_seed(0)
    x, valid = torch.randn(clips, 3, frames, 25, 1), torch.full((clips,), frames * 2 // 3)
    print(f"{clips} clips of {frames} frames, one person")
    for name, net in {"AGCN, T/8": AGCN(), "UNIK, T/4": UNIK(), "ST-GCN, a quarter wide": STGCN()}.items():
        net, simple, nested = net.eval(), WithUpsampling(net).eval(), WithFusion(net).eval()
        bare, up, fused, safe = in_turn(partial(net, x), partial(simple, x), partial(nested, x), partial(nested, x, valid))
        macs = [count_macs(m, x[:1]).total for m in (net, nested)]
        print(f"{name:22}: bare {bare:.3f} s, interpolated {up:.3f} s, fused {fused:.3f} s, fused and masked {safe:.3f} s; ratios to bare "
              f"{up / bare:.2f}, {fused / bare:.2f}, {safe / bare:.2f}; multiply-adds {macs[1] / macs[0]:.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
