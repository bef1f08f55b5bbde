"""Actionlets: clusters on the sphere, the score and its map against full differentiation, mixtures, hiding and restoring."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from skelnb.backbones.stgcn import STGCN
from skelnb.errors import DataError, ParameterError
from skelnb.objectives.actionlet import (
    Reconstruction,
    SphericalKMeans,
    actionlet_score,
    activation_map,
    blend,
    fgsm,
    gradient_map,
    gumbel_hide,
    hide,
    masses,
    mean_motion,
    mix_key,
    pooled_gradient,
    spherical_kmeans,
    upsample_map,
)
from skelnb.topology import adjacency, layout
from skelnb.transforms.augment import Mix, Region, cut_mix, mixup, resize_mix
from skelnb.transforms.draws import Draws


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def small_head(dim=8, out=5, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(dim, 16), nn.ReLU(), nn.Linear(16, out))


# ---- the mean motion


def test_mean_motion_is_the_mean_of_all_clips_or_of_those_who_are_there():
    x = numbers(7, 3, 4, 5, 2)
    x[2:, ..., 1] = 0
    torch.testing.assert_close(mean_motion(x.split(3)), x.mean(0, keepdim=True))
    there = mean_motion(iter(x.split(3)), "present")
    torch.testing.assert_close(there[..., 0], x[..., 0].mean(0, keepdim=True))
    torch.testing.assert_close(there[..., 1], x[:2, ..., 1].mean(0, keepdim=True))
    assert mean_motion([x[2:]], "present")[..., 1].eq(0).all()
    with pytest.raises(DataError, match="no clips"):
        mean_motion([])
    with pytest.raises(ParameterError, match="some"):
        mean_motion([x], "some")


# ---- clusters


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.integers(1, 6), st.integers(0, 99))
def test_clusters_are_a_fixed_point_and_inertia_never_rises(n, k, seed):
    k, keys = min(k, n), unit(numbers(n, 4, seed=seed))
    trace = [spherical_kmeans(keys, k, draws=Draws(seed), iterations=i) for i in (0, 1, 2, 5, 40)]
    for a, b in zip(trace, trace[1:]):
        assert b.inertia <= a.inertia + 1e-4 or b.reseeded > 0
    end = trace[-1]
    similarity = keys @ end.centroids.T
    assert (similarity.gather(1, end.assignment[:, None])[:, 0] >= similarity.max(1).values - 1e-6).all()
    assert math.isclose(end.inertia.item(), (keys - end.centroids[end.assignment]).square().sum().item(), abs_tol=1e-3)
    torch.testing.assert_close(end.centroids.norm(dim=1), torch.ones(k))
    if end.reseeded == 0:
        for c in end.assignment.unique():
            torch.testing.assert_close(end.centroids[c], unit(keys[end.assignment == c].sum(0)), atol=1e-4, rtol=1e-4)


def test_kmeans_finds_the_clumps_is_repeatable_and_ignores_the_global_generator():
    centres = torch.eye(6)
    of = torch.arange(600) % 6
    keys = 3 * (centres[of] + 0.1 * numbers(600, 6))
    torch.manual_seed(1)
    a = spherical_kmeans(keys, 6, draws=Draws(3))
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    b = spherical_kmeans(keys, 6, draws=Draws(3, rank=1, world=2))
    assert torch.equal(a.centroids, b.centroids) and torch.equal(a.assignment, b.assignment)
    assert len({(int(x), int(y)) for x, y in zip(of, a.assignment)}) == 6
    torch.manual_seed(1)
    assert torch.equal(state, torch.random.get_rng_state())
    warm = spherical_kmeans(keys, 6, start=a.centroids, iterations=1, draws=Draws(99))
    torch.testing.assert_close(warm.centroids, a.centroids)


def test_empty_clusters_move_to_the_worst_keys():
    keys = unit(torch.tensor([[1.0, 0, 0], [1, 0.1, 0], [0, 0, 1], [0.9, 0, 0.1]]))
    start = unit(torch.tensor([[1.0, 0, 0], [-1, 0, 0], [-1, 0.1, 0]]))  # the last two are nobody's
    one = spherical_kmeans(keys, 3, start=start, iterations=1, draws=Draws(0))
    assert one.reseeded == 2
    torch.testing.assert_close(one.centroids[1], keys[2])  # the worst
    torch.testing.assert_close(one.centroids[2], keys[3])  # the second worst
    same = spherical_kmeans(torch.ones(5, 3), 3, draws=Draws(0))  # five equal keys: no NaN
    assert same.centroids.isfinite().all() and same.inertia < 1e-5
    opposite = spherical_kmeans(torch.tensor([[1.0, 0], [-1, 0]]), 1, draws=Draws(0))
    assert opposite.centroids.isfinite().all() and opposite.centroids.norm() > 0.99


def test_karcher_steps_lead_to_the_frechet_mean():
    angle = torch.tensor([0.0, 0.1, 1.6])
    keys = torch.stack([angle.cos(), angle.sin()], 1)
    chord = spherical_kmeans(keys, 1, draws=Draws(0)).centroids[0]
    frechet = spherical_kmeans(keys, 1, karcher=3, draws=Draws(0)).centroids[0]
    assert math.isclose(math.atan2(*chord.flip(0).tolist()), math.atan2(angle.sin().sum(), angle.cos().sum()), abs_tol=1e-5)
    assert math.isclose(math.atan2(*frechet.flip(0).tolist()), angle.mean().item(), abs_tol=1e-5)
    keys = unit(numbers(50, 3) + torch.tensor([2.0, 0, 0]))
    m = spherical_kmeans(keys, 1, karcher=30, draws=Draws(0)).centroids[0]
    at = m.clone().double().requires_grad_()
    (keys.double() @ unit(at)).clamp(-1, 1).acos().square().sum().backward()
    assert at.grad.norm() < 1e-3


def test_spherical_kmeans_follows_and_is_saved():
    keys = numbers(60, 4)
    k = SphericalKMeans(5, 4, iterations=3)
    assert k.prototypes is None
    first = k.update(keys, Draws(0))
    second = k.update(keys, Draws(1))
    expected = spherical_kmeans(keys, 5, start=first.centroids, iterations=3, draws=Draws(7))
    assert torch.equal(second.centroids, expected.centroids) and torch.equal(k.prototypes, second.centroids)
    other = SphericalKMeans(5, 4)
    other.load_state_dict(k.state_dict())
    assert torch.equal(other.prototypes, k.prototypes)
    fresh = SphericalKMeans(5, 4)
    fresh.load_state_dict(SphericalKMeans(5, 4).state_dict())
    assert fresh.prototypes is None
    for wrong in (dict(k=61), dict(k=0), dict(k=2, start=torch.ones(3, 4))):
        with pytest.raises(ParameterError, match="clusters"):
            spherical_kmeans(keys, **wrong, draws=Draws(0))


# ---- the score


def test_score_is_equation_36():
    z, b, P = numbers(9, 5), numbers(5, seed=1), numbers(4, 5, seed=2)
    for margin in (1.0, 0.0, -0.5):
        score, share = actionlet_score(z, b[None], P, margin)
        plain = (-unit(z) @ unit(b) + (unit(z) @ unit(P).T).amax(1) + margin).clamp(min=0)
        torch.testing.assert_close(score, plain)
        assert math.isclose(share.item(), (plain > 0).float().mean().item(), abs_tol=1e-6)
    assert 0 < actionlet_score(z, b, P, -0.5)[1] < 1
    torch.testing.assert_close(actionlet_score(z, b)[0], (1 - unit(z) @ unit(b)).clamp(min=0))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(actionlet_score(z, b, P)[0], actionlet_score(z, b, P)[0].float(), atol=0, rtol=0)
    with pytest.raises(ParameterError, match="same projector"):
        actionlet_score(z, b[:4])


# ---- the map


def written_out(h, head, score, weights):
    "Eqs. 37 and 38 with the derivative by every number of the map."
    full = h.clone().requires_grad_()
    pooled = (full.mean((3, 4)) * weights[..., None]).sum(1)
    delta, = torch.autograd.grad(score(head(pooled)).sum(), full)
    A = (delta.clamp(min=0).mean((3, 4), keepdim=True) * h).sum(2).clamp(min=0)
    A = A / A.amax((1, 2, 3), keepdim=True)
    return A @ torch.as_tensor(adjacency("kinect_v2", "uniform")[0])


@pytest.mark.parametrize("persons", [1, 2])
@pytest.mark.parametrize("own_weights", [False, True])
def test_map_equals_full_differentiation(persons, own_weights):
    h, head = numbers(4, persons, 8, 6, 25), small_head()
    weights = torch.full((4, persons), 1 / persons)
    if own_weights:
        weights = torch.rand(4, persons, generator=torch.Generator().manual_seed(1))
        weights[0, -1] = 0
    b, P = numbers(5, seed=3), numbers(3, 5, seed=4)
    score = lambda z: actionlet_score(z, b, P)[0]  # noqa: E731
    with torch.no_grad():
        A = activation_map(h, head, score, weights=weights if own_weights else None)
    if not (own_weights and persons == 1):  # a single person of weight 0 has no largest value
        torch.testing.assert_close(A, written_out(h, head, score, weights), atol=1e-5, rtol=1e-4)
    assert A.shape == (4, persons, 6, 25) and A.min() >= 0 and A.max() <= 1
    assert all(p.grad is None for p in head.parameters())
    if own_weights:
        assert A[0, -1].eq(0).all()


def test_map_through_a_real_encoder_and_the_gradient_by_the_clips():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = STGCN(width=2, out=8, dropout=0.0).eval()
    head, x = small_head(), 0.3 * numbers(3, 3, 16, 25, 2)
    x[1, ..., 1] = 0
    b = numbers(5, seed=3)
    score = lambda z: actionlet_score(z, b)[0]  # noqa: E731
    with torch.no_grad():
        h = encoder.forward_map(x).unflatten(0, (3, 2))
        A = activation_map(h, head, score)
        plain = score(head(encoder(x).clip))
    y = x.clone().requires_grad_()
    g = pooled_gradient(encoder.forward_map(y).unflatten(0, (3, 2)), head, score, x=y)
    torch.testing.assert_close(gradient_map(h, g.pooled), A, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(g.score, plain)
    reference, = torch.autograd.grad(score(head(encoder(y).clip)).sum(), y)
    torch.testing.assert_close(g.x, reference)
    noise = fgsm(g.x, 0.02, x)
    assert noise[1, ..., 1].eq(0).all() and torch.equal(noise[0], -0.02 * reference[0].sign())
    assert fgsm(torch.ones_like(x), 0.02, x)[1, ..., 1].eq(0).all() and fgsm(torch.ones_like(x), 0.02).eq(-0.02).all()
    assert all(p.grad is None for p in [*encoder.parameters(), *head.parameters()])
    with pytest.raises(ParameterError, match="without gradient"):
        pooled_gradient(h, head, score, x=x)


def test_map_under_autocast_and_in_inference_mode():
    h, head, b = numbers(4, 1, 8, 6, 25), small_head(), numbers(5, seed=3)
    score = lambda z: actionlet_score(z, b)[0]  # noqa: E731
    plain = activation_map(h, head, score)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        A = activation_map(h, head, score)
        assert torch.equal(A, plain)
        assert activation_map(h.bfloat16(), head, score).dtype == torch.float32
    with torch.inference_mode():
        torch.testing.assert_close(activation_map(h * 1, head, score), plain)
    closed = activation_map(h, head, lambda z: actionlet_score(z, b, margin=-5.0)[0])
    assert closed.eq(0).all()
    assert torch.equal(activation_map(5 * h, lambda z: head(z / 5), score) > 0.5, plain > 0.5)


def test_smoothing_keeps_the_range_and_the_first_papers_form():
    h, head, b = numbers(4, 2, 8, 6, 25), small_head(), numbers(5, seed=3)
    score = lambda z: actionlet_score(z, b)[0]  # noqa: E731
    raw = activation_map(h, head, score, smooth=False)
    torch.testing.assert_close(raw.amax((1, 2, 3)), torch.ones(4))
    full = h.clone().requires_grad_()
    delta, = torch.autograd.grad(score(head(full.mean((1, 3, 4)))).mean(), full)
    cam = (delta.mean((3, 4), keepdim=True) * h).mean(2).clamp(min=0) / 1e-8
    for joints in layout("kinect_v2").parts.values():
        cam[..., list(joints)] = cam[..., list(joints)].mean(3, keepdim=True)
    torch.testing.assert_close(activation_map(h, head, score, form="cvpr"), cam.clamp(0, 1), atol=1e-4, rtol=1e-4)
    faint = lambda z: 1e-7 * score(z)  # noqa: E731
    assert 0 < activation_map(h, head, faint, form="cvpr").amax() < 1  # not all saturated: its size does matter
    for wrong in (dict(form="other"), dict(layout="coco17"), dict(weights=torch.ones(4, 3))):
        with pytest.raises(ParameterError):
            activation_map(h, head, score, **wrong)


# ---- frames and blends


def test_upsampling_is_linear_with_the_ends_on_the_ends():
    A = numbers(2, 2, 5, 25)
    up = upsample_map(A, 9)
    torch.testing.assert_close(up[:, :, ::2], A)
    torch.testing.assert_close(up[:, :, 1::2], (A[:, :, 1:] + A[:, :, :-1]) / 2)
    x, y = numbers(2, 3, 9, 25, 2), numbers(2, 3, 9, 25, 2, seed=1)
    weight = up.abs().clamp(0, 1)
    mixed = blend(weight, x, y)
    for n, c, t, v, m in ((0, 1, 3, 7, 1), (1, 2, 8, 24, 0)):
        w = weight[n, m, t, v]
        assert math.isclose(mixed[n, c, t, v, m], w * x[n, c, t, v, m] + (1 - w) * y[n, c, t, v, m], abs_tol=1e-5)
    with pytest.raises(ParameterError, match="upsample_map"):
        blend(A, x, y)


# ---- mixtures


def test_masses_of_cut_resize_and_mixup():
    own, partner = numbers(2, 2, 20, 25).abs(), numbers(2, 2, 20, 25, seed=1).abs()
    joints = torch.zeros(2, 25, dtype=torch.bool)
    joints[:, [3, 7, 20]] = True
    region = Region(joints, torch.tensor([4, 12]), torch.tensor([8, 4]), 20)
    for mix, frames in ((cut_mix(region), [range(4, 12), range(12, 16)]), (resize_mix(region), [range(16), range(8)])):
        a, b = masses(own, partner, mix, relative=False)
        c, d = masses(own, partner, mix)
        for n in range(2):
            gone = own[n][:, region.start[n] : region.start[n] + region.length[n]][..., [3, 7, 20]].sum()
            assert math.isclose(a[n], own[n].sum() - gone, rel_tol=1e-4)
            pasted = partner[n][:, list(frames[n])][..., [3, 7, 20]].sum()
            assert math.isclose(b[n], pasted, rel_tol=1e-4)
            assert math.isclose(c[n], a[n] / own[n].sum(), rel_tol=1e-4) and math.isclose(d[n], pasted / partner[n].sum(), rel_tol=1e-4)
    a, b = masses(own, partner, mixup(torch.tensor([0.25, 1.0]), 20, 25))
    torch.testing.assert_close(torch.stack([a, b]), torch.tensor([[0.75, 0.0], [0.25, 1.0]]))
    a, _ = masses(own, partner, cut_mix(region), exponential=0.1)
    w = (own / 0.1).exp().sum(1)
    torch.testing.assert_close(a, ((~region.mask) * w).sum((1, 2)) / w.sum((1, 2)))
    nothing = masses(0 * own, 0 * partner, cut_mix(region))
    assert nothing[0].eq(0).all() and nothing[1].eq(0).all()
    with pytest.raises(ParameterError, match="upsample_map"):
        masses(own[:, :, :5], partner[:, :, :5], cut_mix(region))


def test_a_region_longer_than_half_the_clip_shows_all_of_the_partner():
    region = Region(torch.ones(1, 25, dtype=torch.bool), torch.tensor([0]), torch.tensor([16]), 20)
    _, b = masses(torch.ones(1, 1, 20, 25), torch.ones(1, 1, 20, 25), resize_mix(region))
    assert 0.95 <= b <= 1
    everything = Mix(torch.zeros(1, 20, 25), torch.arange(20)[None])
    assert masses(torch.ones(1, 1, 20, 25), torch.ones(1, 1, 20, 25), everything)[1] == 1


def test_mix_key_is_equation_47():
    z, other = numbers(3, 4), numbers(3, 4, seed=1)
    a, b = torch.tensor([1.0, 0.3, 0.0]), torch.tensor([0.0, 0.1, 0.0])
    key = mix_key(5 * z, other, a, b)
    torch.testing.assert_close(key[0], unit(z[0]))
    torch.testing.assert_close(key[1], unit(0.75 * unit(z[1]) + 0.25 * unit(other[1])))
    torch.testing.assert_close(key[2], unit(unit(z[2]) + unit(other[2])))
    with pytest.raises(ParameterError):
        mix_key(z, other, a, b[:2])


# ---- hide and restore


def test_as_many_are_hidden_for_everybody_and_rather_where_the_map_is_large():
    A = torch.zeros(400, 2, 13, 25)
    A[..., :5] = 0.5
    mask = gumbel_hide(A, Draws(0))
    assert (mask.flatten(2).sum(2) == round(0.6 * 325)).all() and torch.equal(mask, gumbel_hide(A, Draws(0)))
    assert mask[..., :5].float().mean() > 0.75 > 0.6 > mask[..., 5:].float().mean()
    assert gumbel_hide(A, Draws(0), 0.2, tau=1e-3)[..., :5].float().mean() > 0.999
    even = gumbel_hide(A, Draws(0), tau=1e6)
    assert abs(even[..., :5].float().mean() - 0.6) < 0.01
    assert not gumbel_hide(A, Draws(0), 0).any() and gumbel_hide(0 * A, Draws(0), 1).all()
    # the first of the draw is chosen with odds exp(A / (tau max A))
    first = gumbel_hide(torch.tensor([[1.0, 0.0]]).expand(20000, 1, 1, 2), Draws(2), 0.5)[:, 0, 0, 0].float().mean()
    odds = math.exp(1 / 0.8)
    assert abs(first - odds / (1 + odds)) < 0.02
    with pytest.raises(ParameterError, match="ratio"):
        gumbel_hide(A, Draws(0), 1.5)


def test_hidden_frames():
    x, mask = numbers(2, 3, 10, 25, 2) + 9, torch.zeros(2, 2, 3, 25, dtype=torch.bool)
    mask[1, 0, 2, 5] = mask[0, 1, 0, 24] = True
    hidden = hide(x, mask)
    changed = hidden != x
    assert changed.sum() == 3 * (2 + 4)
    assert hidden[1, :, 8:, 5, 0].eq(0).all() and hidden[0, :, :4, 24, 1].eq(0).all()


@pytest.mark.parametrize("frames", [10, 12])
def test_reconstruction_loss_is_what_it_says(frames):
    h, A, x = numbers(2, 2, 8, 3, 25), numbers(2, 2, 3, 25).abs(), numbers(2, 3, frames, 25, 2)
    x[1, ..., 1] = 0
    mask = gumbel_hide(A, Draws(0))
    decoder = Reconstruction(8, 6)
    terms = decoder.terms(h, A, x, mask)
    y = decoder.decoder(h.flatten(0, 1)).unflatten(0, (2, 2)).detach()
    assert math.isclose(terms["actionlet"].item(), (y[:, :, 0] - A).square().mean().item(), rel_tol=1e-5)
    errors = [(y[n, m, 1 + 3 * (t % 4) + c, t // 4, v] - x[n, c, t, v, m]).item() ** 2
              for n, m, k, v in mask.nonzero().tolist() if (n, m) != (1, 1)
              for t in range(4 * k, min(4 * k + 4, frames)) for c in range(3)]
    assert math.isclose(terms["coordinates"].item(), 40 * np.mean(errors), rel_tol=1e-4)
    torch.testing.assert_close(decoder.loss(h, A, x, mask), sum(terms.values()))
    twin = copy.deepcopy(decoder)
    twin.actionlet, twin.coordinates = 0.5, 0.0
    torch.testing.assert_close(twin.loss(h, A, x, mask), terms["actionlet"] / 2)
    nobody = decoder.terms(h, A, 0 * x, mask)
    assert nobody["coordinates"] == 0
    h.requires_grad_(), A.requires_grad_()
    decoder.loss(h, A, x).backward()
    assert h.grad.abs().sum() > 0 and A.grad is None
    with pytest.raises(ParameterError, match="frames a step"):
        decoder.loss(h, A, numbers(2, 3, 20, 25, 2))


def test_what_the_decoder_shows_has_the_shape_of_clips():
    decoder = Reconstruction(8, 6)
    h = numbers(2, 1, 8, 3, 25)
    A, clips = decoder(h)
    assert A.shape == (2, 1, 3, 25) and clips.shape == (2, 3, 12, 25, 1)
    raw = decoder.decoder(h.flatten(0, 1))
    torch.testing.assert_close(clips[1, 2, 4 * 1 + 3, 9, 0], raw[1, 1 + 3 * 3 + 2, 1, 9])


# ---- quality


def test_gradients_do_not_flow_into_the_map():
    q = F.normalize(numbers(3, 5), dim=1).requires_grad_()
    score, _ = actionlet_score(q, q[0], q)
    grad, = torch.autograd.grad(score.sum(), q)
    still = q.detach()
    plain = q @ still.T
    reference, = torch.autograd.grad((1 - plain[:, 0] + plain.amax(1)).sum(), q)
    tangent = reference - (reference * still).sum(1, keepdim=True) * still  # a second normalisation takes the radial part
    torch.testing.assert_close(grad, tangent, atol=1e-5, rtol=1e-4)
