"""Encoders for the tests of the feature bank, in a module of their own so that other processes can import them quickly."""

import torch
from torch import nn

from skelnb.backbones.features import Features
from skelnb.transforms.spatial import present


class Linear(nn.Module):
    "Tokens (N, T, V, D): a random linear map of each person's coordinates, averaged over those present. Logs what it is given."

    def __init__(self, dim=5, channels=3, fault=None):
        super().__init__()
        self.map = nn.Linear(channels, dim)
        nn.init.normal_(self.map.weight, generator=torch.Generator().manual_seed(0))
        nn.init.constant_(self.map.bias, 0.1)
        self.seen, self.fault = [], fault

    def features(self, x):
        assert not torch.is_grad_enabled() and not self.training
        self.seen.append(tuple(x.shape))
        if self.fault is not None:
            x = self.fault(self, x)
        tokens = self.map(x.permute(0, 4, 2, 3, 1))  # (N, M, T, V, D)
        there = present(x)[:, :, None, None, None]
        return Features.from_tokens((tokens * there).sum(1) / there.sum(1).clamp(min=1))


class Conv(nn.Module):
    "What ActCLR's backbone does with persons, in small: batch normalisation shared by persons, convolutions, mean over time, joints and all M persons."

    def __init__(self, joints=25, dim=8):
        super().__init__()
        self.norm, self.conv, self.norm2 = nn.BatchNorm1d(3 * joints), nn.Conv2d(3, dim, (9, 1), padding=(4, 0)), nn.BatchNorm2d(dim)

    def forward(self, x):
        n, c, t, v, m = x.shape
        z = self.norm(x.permute(0, 4, 3, 1, 2).reshape(n * m, v * c, t)).view(n * m, v, c, t).permute(0, 2, 3, 1)
        z = torch.relu(self.norm2(self.conv(z))).unflatten(0, (n, m)).mean(1)  # (N, D, T, V)
        return Features.from_tokens(z.permute(0, 2, 3, 1))


class Together(nn.Module):
    "Both persons in one token, as USDRL has it."

    persons_apart = False

    def __init__(self, persons=2):
        super().__init__()
        self.map = nn.Linear(3 * 25 * persons, 4)

    def features(self, x):
        frames = torch.tanh(self.map(x.permute(0, 2, 4, 3, 1).flatten(2)))
        return Features(frames.mean(1), frames)


def fail(encoder, x):
    "A fault of `Linear`: the sixth call is too much."
    if len(encoder.seen) > 5:
        raise ArithmeticError("the machine caught fire")
    return x


def fail_at_once(encoder, x):
    "A fault of `Linear`: every call is too much."
    raise ArithmeticError("the machine caught fire")


def nan_when_high(encoder, x):
    "Not a number for a person who stands high."
    return torch.where(x[:, 1:2].amax((1, 2, 3, 4), keepdim=True) > 90, torch.nan, x)


def shifted(x, draws):
    "An augmentation: each clip moved at random."
    return torch.where(x != 0, x + draws.randn(len(x), x.shape[1], 1, 1, 1), 0)


def largest(f):
    "A readout of our own."
    return f.tokens.flatten(1, 2).amax(1)
