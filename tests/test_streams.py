"""Joint, bone and motion streams, and batches in another layout: against plain loops, and for people who are not there."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.errors import LayoutError, ParameterError
from skelnb.topology import define_layout, joint_matrix, layout, layouts, map_joints
from skelnb.transforms.streams import STREAMS, bone, map_layout, motion, stream
from skelnb.transforms.temporal import difference

KINECT = [1, 20, 20, 2, 20, 4, 5, 6, 20, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18, 20, 22, 7, 24, 11]  # the papers' list, the root its own parent


def batch(n=2, c=3, t=6, v=25, m=2, seed=0, dtype=torch.float32):
    return torch.randn(n, c, t, v, m, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def visits(x, first, last):
    "Person 2 is there from frame `first` to before `last` only."
    x = x.clone()
    x[:, :, :first, :, 1] = x[:, :, last:, :, 1] = 0
    return x


@pytest.mark.parametrize("name", layouts())
def test_bones_by_loops(name):
    known = layout(name)
    x = batch(v=known.V)
    b = bone(x, name)
    for child, parent in enumerate(known.parents):
        expected = torch.zeros_like(x[:, :, :, 0]) if parent < 0 else x[:, :, :, child] - x[:, :, :, parent]
        assert torch.equal(b[:, :, :, child], expected)


def test_parents_are_those_of_the_papers():
    x = batch()
    for child, parent in enumerate(KINECT):
        assert torch.equal(bone(x)[:, :, :, child], x[:, :, :, child] - x[:, :, :, parent])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 8), st.integers(1, 3), st.data())
def test_motion_by_loops(n, c, t, m, data):
    x = batch(n, c, t, 4, m, seed=t)
    gone = np.array(data.draw(st.lists(st.booleans(), min_size=n * t * m, max_size=n * t * m))).reshape(n, t, m)
    x = x.masked_fill(torch.from_numpy(gone)[:, None, :, None], 0)
    plain, calm = motion(x), motion(x, jumps=False)
    assert torch.equal(plain, difference(x))
    for i in range(n):
        for f in range(t):
            for p in range(m):
                step = x[i, :, f + 1, :, p] - x[i, :, f, :, p] if f + 1 < t else torch.zeros(c, 4)
                assert torch.equal(plain[i, :, f, :, p], step)
                across = f + 1 < t and gone[i, f, p] != gone[i, f + 1, p]
                assert torch.equal(calm[i, :, f, :, p], torch.zeros_like(step) if across else step)


def test_who_is_absent_stays_absent_and_who_enters_jumps():
    x = batch()
    x[..., 1] = 0
    for name in STREAMS:
        assert not stream(x, name)[..., 1].any() and stream(x, name)[..., 0].any()
    assert not map_layout(x, "kinect_v2", "smpl22")[..., 1].any()
    guest = visits(batch() + 5, 2, 4)
    assert not bone(guest)[:, :, [0, 1, 4, 5], :, 1].any()
    spikes = motion(guest)[..., 1].norm(dim=1).amax((0, 2))
    assert (spikes[[1, 3]] > 5).all() and not spikes[[0, 4, 5]].any()
    calm = motion(guest, jumps=False)[..., 1].norm(dim=1).amax((0, 2))
    assert calm.nonzero().flatten().tolist() == [2]
    assert torch.equal(motion(guest, jumps=False)[..., 0], motion(guest)[..., 0])  # the other person moves on


def test_streams_by_name():
    x = batch(v=17)
    assert stream(x, "joint", "coco17") is x
    assert torch.equal(stream(x, "bone", layout("coco17")), bone(x, "coco17")) and torch.equal(stream(x, "motion", "coco17"), motion(x))
    with pytest.raises(ParameterError, match="'bones'.*\n.*did you mean 'bone'"):
        stream(x, "bones")
    for wrong in (lambda: bone(x), lambda: stream(x, "bone"), lambda: bone(x[0], "coco17"), lambda: map_layout(x, "kinect_v2", "smpl22"),
                  lambda: map_layout(x[0], "coco17", "h36m17")):
        with pytest.raises(LayoutError, match=r"x has shape \("):
            wrong()
    with pytest.raises(LayoutError, match="kinect_v2"):
        stream(x, "bone", "kinect2")


@pytest.mark.parametrize("source, target", [("kinect_v2", "smpl22"), ("smpl22", "kinect_v2"), ("coco17", "kinect_v1"), ("kinect_v2", "kinect_v2")])
def test_layouts_by_loops(source, target):
    x = batch(v=layout(source).V, m=3)
    y, (matrix, _) = map_layout(x, source, target), joint_matrix(source, target)
    for w, row in enumerate(matrix):
        expected = sum(float(weight) * x[:, :, :, v] for v, weight in enumerate(row))
        torch.testing.assert_close(y[:, :, :, w], expected)
    one = map_joints(x[0, :, :, :, 1].permute(1, 2, 0).numpy(), source, target)[0]  # (T, V', C)
    np.testing.assert_allclose(y[0, :, :, :, 1].permute(1, 2, 0), one, rtol=1e-5, atol=1e-6)
    moved = map_layout(x + 3, source, target)
    torch.testing.assert_close(moved, y + 3, rtol=1e-4, atol=1e-4)


def test_a_joint_that_cannot_be_observed_is_an_error():
    fox = define_layout("fox", "head spine_base tail", (1, -1, 1))
    with pytest.raises(LayoutError, match="'tail' of fox can be neither copied nor imputed from kinect_v2"):
        map_layout(batch(), "kinect_v2", fox)
    assert not joint_matrix("coco17", "h36m17")[1].all()  # while these are imputed without an error
    assert map_layout(batch(v=17), "coco17", "h36m17").isfinite().all()


def test_gradients_flow_through_all_of_them():
    x = visits(batch(1, 3, 4, 25, 2, dtype=torch.float64), 1, 3).requires_grad_()
    for function in (bone, motion, lambda x: motion(x, jumps=False), lambda x: map_layout(x, "kinect_v2", "coco17")):
        assert torch.autograd.gradcheck(function, (x[..., :1].detach().requires_grad_(),), atol=1e-6)
    motion(x, jumps=False).square().sum().backward()
    assert x.grad[..., 0].all(3).any() and not x.grad[:, :, [0, 3], :, 1].any()  # no gradient across an entrance


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu():
    x = visits(batch(), 2, 4)
    for function in (bone, motion, lambda x: motion(x, jumps=False), lambda x: map_layout(x, "kinect_v2", "smpl22")):
        torch.testing.assert_close(function(x.cuda()).cpu(), function(x))
