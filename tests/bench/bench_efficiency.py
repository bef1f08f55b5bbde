"""The efficiency table of LoDE's encoder at the paper's size and of the raw coordinates, on this machine.

    python tests/bench/bench_efficiency.py [seconds for each batch size, 1] [device, cpu] [precision, 32-true]

Prints the table and one ratio made in the same run: how much faster a clip is in the best batch than alone. Counting runs the encoder once, a little
slower than it is; the last line says how much."""

import sys
import time

import pandas as pd
import torch

from skelnb.evaluation.efficiency import count_macs, efficiency_table
from skelnb.evaluation.features import RawCoordinates
from skelnb.methods.lode import Lode


def clip(there: int) -> torch.Tensor:  # (1, C, T, V, M)
    x = torch.randn(1, 3, 120, 25, 2, generator=torch.Generator().manual_seed(0))
    x[..., there:] = 0
    return x


def main(seconds: float = 1.0, device: str = "cpu", precision: str = "32-true") -> None:
    encoders = {"raw coordinates": RawCoordinates(), "LoDE paper": Lode("paper")}
    table = efficiency_table(encoders, clip(1), clip(2), seconds=seconds, device=device, precision=precision, largest=8 if device == "cpu" else 1024)
    table["ratio"] = table.clips_s_best / table.clips_s_batch_1
    with pd.option_context("display.width", 150, "display.max_columns", None):
        print(table.T.to_string(float_format="{:,.3f}".format))
    encoder, x = encoders["LoDE paper"].eval(), clip(1)
    with torch.no_grad():
        encoder.features(x)
        times = []
        for run in (lambda: encoder.features(x), lambda: count_macs(encoder.features, x)) * 3:
            began = time.perf_counter()
            run()
            times.append(time.perf_counter() - began)
    print(f"a counted forward pass takes {min(times[1::2]) / min(times[::2]):.2f} times as long as a plain one")


if __name__ == "__main__":
    main(*[kind(a) for kind, a in zip((float, str, str), sys.argv[1:])])
