"""Shears and corrupted joints."""

import numpy as np
import pytest
import torch

from skelnb.errors import ParameterError
from skelnb.transforms.corrupt import corrupt_joints, shear
from skelnb.transforms.draws import Draws


def clips(n=64, seed=0):
    x = torch.randn(n, 3, 6, 9, 2, generator=torch.Generator().manual_seed(seed))
    x[: n // 2, ..., 1] = 0
    return x


def test_shear_is_one_matrix_a_clip_with_unit_diagonal():
    x = clips()
    y = shear(x, Draws(0), 0.7)
    matrices = []
    for a, b in zip(x, y):
        flat = a.flatten(1).T.numpy()
        matrix = np.linalg.lstsq(flat, b.flatten(1).T.numpy(), rcond=None)[0].T
        np.testing.assert_allclose(matrix @ flat.T, b.flatten(1), atol=1e-5)
        matrices.append(matrix)
    matrices = np.array(matrices)
    off = matrices[:, ~np.eye(3, dtype=bool)]
    np.testing.assert_allclose(matrices[:, range(3), range(3)], 1, atol=1e-5)
    assert off.min() < -0.6 and off.max() > 0.6 and np.abs(off).max() <= 0.7 + 1e-5 and len(np.unique(off.round(5))) > 300
    assert torch.equal(y[0, ..., 1], x[0, ..., 1])  # nobody is still nobody


def test_corrupted_joints_are_the_same_in_all_frames_and_persons():
    x = clips()
    y = corrupt_joints(x, Draws(3), joints=4)
    zeroed = 0
    counts = torch.zeros(9)
    for a, b in zip(x, y):
        lost = (a != b).any(0).any(0)[:, 0]
        assert lost.sum() == 4
        counts += lost
        assert torch.equal(a[:, :, ~lost], b[:, :, ~lost])
        flat, moved = a[:, :, lost].flatten(1), b[:, :, lost].flatten(1)
        if not moved.any():
            zeroed += 1
            continue
        matrix = torch.linalg.lstsq(flat.T, moved.T).solution.T
        torch.testing.assert_close(matrix @ flat, moved, atol=1e-4, rtol=1e-4)
        assert matrix.abs().max() <= 1.001
    assert 18 <= zeroed <= 46 and counts.min() > 10


def test_extremes_and_determinism():
    x = clips(4)
    assert torch.equal(corrupt_joints(x, Draws(0), 0), x) and not corrupt_joints(x, Draws(0), 9, zero=1.0).any()
    assert torch.equal(shear(x, Draws(0), 0.0), x)
    assert torch.equal(corrupt_joints(x, Draws(5), 3), corrupt_joints(x, Draws(5), 3))
    halves = [corrupt_joints(x[2 * r:2 * r + 2], Draws(5, 0, r, 2), 3) for r in range(2)]
    assert torch.equal(torch.cat(halves), corrupt_joints(x, Draws(5), 3))


def test_positions_stay_in_single_precision_under_autocast():
    x = clips(4)
    with torch.autocast("cpu", torch.bfloat16):
        inside = shear(x, Draws(0), 1.0), corrupt_joints(x, Draws(1), 5)
    assert torch.equal(inside[0], shear(x, Draws(0), 1.0)) and torch.equal(inside[1], corrupt_joints(x, Draws(1), 5))


def test_bad_input():
    flat = torch.zeros(1, 2, 4, 9, 1)
    for call in (lambda: shear(flat, Draws(0)), lambda: corrupt_joints(flat, Draws(0), 1), lambda: corrupt_joints(clips(2), Draws(0), 10)):
        with pytest.raises(ParameterError):
            call()
