"""The linear layer on oneDNN against `nn.Linear`, forward and backward, at the sizes of our encoders. Prints GFLOP/s and their ratio.

On an Intel processor the ratio is about 1; on AMD's it was 1.1 (narrow layers) to 2.3 (wide ones)."""

import time

import torch
from torch import nn

from skelnb.backbones.linear import Linear, onednn


def rate(layer, x, grad, repeats=5):
    inputs = [x, *layer.parameters()]
    best = float("inf")
    for _ in range(repeats + 1):
        began = time.perf_counter()
        torch.autograd.grad(layer(x), inputs, grad)
        best = min(best, time.perf_counter() - began)
    return 6 * x.numel() * layer.out_features / best / 1e9


def main() -> None:
    for n, length, a, b in ((64, 64, 1024, 2048), (64, 750, 256, 1024), (32, 205, 256, 768), (64, 64, 128, 256), (256, 30, 96, 384), (64, 25, 48, 96)):
        x, grad = torch.randn(n, length, a, requires_grad=True), torch.randn(n, length, b)
        ours, theirs = rate(Linear(a, b), x, grad), rate(nn.Linear(a, b), x, grad)
        print(f"{n} x {length} tokens, {a:4} -> {b:4}: oneDNN {ours:5.0f}, nn.Linear {theirs:5.0f} GFLOP/s, ratio {ours / theirs:.2f}"
              + ("" if onednn(x, grad) else " (this PyTorch has no oneDNN)"))


if __name__ == "__main__":
    main()
