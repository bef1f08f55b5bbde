"""ST-GCN, 16 clips of two persons and 50 frames: gathering first against the released order, and skipping empty places. Prints seconds and ratios."""

import time

import torch

from skelnb.backbones.stgcn import STGCN, gather_first, graph, project_first


def in_turn(*runs, repeats=5):
    "Best processor seconds of each; they take turns, so that a busy machine disturbs all alike."
    best = [float("inf")] * len(runs)
    for i in range(repeats + 1):
        for k, run in enumerate(runs):
            began = time.process_time()
            run()
            best[k] = min(best[k], time.process_time() - began) if i else best[k]
    return best


def step(encoder, x):
    encoder.zero_grad(set_to_none=True)
    encoder(x).clip.square().sum().backward()


def layer(cin, cout, frames) -> None:
    A, g = graph("kinect_v2").requires_grad_(), torch.Generator().manual_seed(0)
    x, w, b = (torch.randn(*shape, generator=g).requires_grad_() for shape in ((32, cin, frames, 25), (3 * cout, cin, 1, 1), (3 * cout,)))
    up = torch.randn(32, cout, frames, 25, generator=g)

    def both(f):
        return torch.autograd.grad(f(x, A, w, b), (x, A, w, b), up)

    with torch.no_grad():
        fp, fg = in_turn(lambda: project_first(x, A, w, b), lambda: gather_first(x, A, w, b))
    bp, bg = in_turn(lambda: both(project_first), lambda: both(gather_first))
    print(f"graph convolution {cin:3} -> {cout:3}: forward {1e3 * fp:5.1f} -> {1e3 * fg:5.1f} ms, ratio {fp / fg:.2f}; "
          f"with backward {1e3 * bp:5.1f} -> {1e3 * bg:5.1f} ms, ratio {bp / bg:.2f}")


def main() -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 3, 50, 25, 2)
    alone = x.clone()
    alone[..., 1] = 0
    for sizes in ((3, 16, 50), (16, 16, 50), (16, 32, 50), (32, 32, 25), (32, 64, 25), (64, 64, 13), (64, 256, 13)):
        layer(*sizes)
    released, ours = STGCN(order="project_first", skip_empty=False), STGCN()
    with torch.no_grad():
        a, b = in_turn(lambda: released.eval()(x), lambda: ours.eval()(x))
        print(f"evaluation, two persons: as released {a:.3f} s ({16 / a:.0f} clips/s), gathering first {b:.3f} s ({16 / b:.0f} clips/s), ratio {a / b:.2f}")
        a, b = in_turn(lambda: released(alone), lambda: ours(alone))
        print(f"evaluation, one person: as released {a:.3f} s, gathering first and skipping {b:.3f} s ({16 / b:.0f} clips/s), ratio {a / b:.2f}")
    a, b = in_turn(lambda: step(released.train(), x), lambda: step(ours.train(), x), repeats=3)
    print(f"training step: as released {a:.3f} s ({16 / a:.0f} clips/s), gathering first {b:.3f} s ({16 / b:.0f} clips/s), ratio {a / b:.2f}")
    with torch.autocast("cpu", torch.bfloat16):
        a, c = in_turn(lambda: step(released, x), lambda: step(ours, x), repeats=3)
    print(f"training step, bf16: as released {a:.3f} s, gathering first {c:.3f} s, ratio {a / c:.2f}; bf16 against float32 {b / c:.2f}")


if __name__ == "__main__":
    main()
