"""Semantic tube masks: the specification's simulation, golden counts, one tube by hand, a per-sample loop with the same numbers, and ratios by strata."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skelnb.errors import ParameterError
from skelnb.topology import layouts
from skelnb.transforms import tubes as T
from skelnb.transforms.draws import Draws
from skelnb.transforms.views import VIEW_SPECS, global_local_views

N = 3000


@pytest.fixture(scope="module")
def masks():
    "form, steps -> (N, steps, 25), ratios stratified over [0.5, 0.9]."
    ratio = T.stratified_ratios(N, Draws(1))[0]
    return {(form, steps): T.tube_mask(N, (steps, 25), ratio, Draws(2), form) for form in ("slice", "connected", "paper") for steps in (8, 4, 2, 1)}


# ---- pieces


def test_golden_pieces():
    assert [sum(map(len, g)) for g in T.pieces()] == [15, 21, 21, 10, 10]
    assert [sum(map(len, g)) for g in T.pieces(connected=True)] == [15, 24, 24, 10, 10]
    slices, whole = ({frozenset(p) for g in T.pieces(connected=c) for some in g for p in some} for c in (False, True))
    assert slices - whole == {frozenset((21, 22)), frozenset((23, 24))}
    assert frozenset((6, 7, 22)) in whole - slices
    assert sorted(v for g in T.semantic_groups() for v in g) == list(range(25))


@pytest.mark.parametrize("name", layouts())
def test_every_layout_has_tubes(name):
    joints = [v for g in T.semantic_groups(name) for v in g]
    for form in T.FORMS:
        m = T.tube_mask(20, (4, len(joints)), torch.full((20,), 0.7), Draws(0), form, layout=name)
        assert m.shape == (20, 4, len(joints)) and 0 < m.float().mean() < 0.95


# ---- the simulation of the specification


@pytest.mark.parametrize("steps,target,mean,low,high,paper,most,always", [
    (8, 0.697, 0.695, 0.515, 0.875, 0.704, 0.915, 0.53),
    (4, 0.697, 0.694, 0.52, 0.87, 0.705, 0.93, 0.56),
    (2, 0.692, 0.688, 0.50, 0.86, 0.709, 0.98, 0.60),
    (1, 0.682, 0.675, 0.48, 0.84, 0.720, 1.00, 0.68),
])
def test_simulation(masks, steps, target, mean, low, high, paper, most, always):
    share = masks["slice", steps].float().mean((1, 2))
    assert abs(share.mean() - mean) < 0.005
    for q, want in ((0.05, low), (0.95, high)):
        assert abs(share.quantile(q) - want) < 0.016
    assert abs(masks["slice", steps].all(1).float().mean() - always) < 0.015
    over = masks["paper", steps].float().mean((1, 2))
    assert abs(over.mean() - paper) < 0.005 and over.max() <= most + 0.015 and over.max() < 1
    assert abs(masks["connected", steps].float().mean() - mean) < 0.005


@pytest.mark.parametrize("steps,mean,most", [(8, 0.704, 0.915), (4, None, None), (2, None, None), (1, 0.720, 1.00)])
def test_areas_of_the_paper(masks, steps, mean, most):
    "A_min 8 and A_max half of the view's own grid. The specification simulates both readings where they are one: 8 steps, and 1, where a tube has no duration."
    literal = T.tube_mask(N, (steps, 25), T.stratified_ratios(N, Draws(1))[0], Draws(2), "paper", "paper")
    assert torch.equal(literal, masks["paper", steps]) == (mean is not None)
    if mean:
        share = literal.float().mean((1, 2))
        assert abs(share.mean() - mean) < 0.005 and share.max() <= most + 0.015
    assert (literal.sum((1, 2)) < 25 * steps).all()


def test_joints_in_the_middle_of_a_list_are_hidden_more_often(masks):
    often = masks["slice", 8].float().mean((0, 1))
    assert 0.52 < often.min() and often.max() < 0.81
    assert set(often.argsort()[:4].tolist()) == {4, 8, 22, 24} and often[[4, 8, 22, 24]].sub(0.54).abs().max() < 0.025
    assert set(often.argsort()[-5:].tolist()) == {13, 14, 17, 18, 20} and often[[13, 14, 17, 18]].sub(0.79).abs().max() < 0.02
    fair = masks["connected", 8].float().mean((0, 1))
    assert (fair[[21, 23]] - fair[[22, 24]]).abs().max() < 0.03 < (often[[21, 23]] - often[[22, 24]]).min()  # hand tip and thumb


@pytest.mark.parametrize("steps", [8, 4, 2, 1])
def test_targets(masks, steps):
    target = (T.stratified_ratios(N, Draws(1))[0].double() * steps * 25).long()
    count = {form: masks[form, steps].sum((1, 2)) for form in ("slice", "connected", "paper")}
    assert (count["slice"] <= target).all() and (count["connected"] <= target).all() and (count["slice"] == target).float().mean() > 0.5
    assert (count["paper"] >= target).all() and (count["paper"] > target).any() and (count["paper"] < 25 * steps).all()


def test_a_mask_made_of_one_tube_is_a_tube():
    "With room for one tube only (A_min = A_max = target) hidden tokens are one piece of one part during one stretch."
    for form, pieces in (("slice", T.pieces()), ("connected", T.pieces(connected=True))):
        known, seen = {frozenset(p) for g in pieces for some in g for p in some}, set()
        for m in T.tube_mask(1500, (8, 25), torch.full((1500,), 0.04), Draws(3), form, area=(8, 8)):
            joints, times = m.any(0).nonzero().flatten().tolist(), m.any(1).nonzero().flatten()
            if m.sum() == len(joints) * len(times) and times[-1] - times[0] + 1 == len(times) and frozenset(joints) in known and 8 % len(joints) == 0:
                assert len(times) == 8 // len(joints)
                seen.add(frozenset(joints))
        assert seen >= {p for p in known if len(p) in (1, 2, 4)}


def loop(n, steps, target, draws, strict, least, most):
    "The same numbers, one sample and one tube at a time."
    u = torch.cat([draws.rand(n, 16, 5) for _ in range(20)], 1).tolist()
    masks = []
    for i in range(n):
        m, refused = torch.zeros(steps, 25, dtype=torch.bool), 0
        for g, k, s, a, t in u[i]:
            count = int(m.sum())
            if count >= target[i] or (strict and refused == 10):
                break
            budget, group = min(target[i] - count, most), T.semantic_groups()[int(5 * g)]
            k = 1 + int(k * len(group))
            first = int(s * (len(group) - k + 1))
            long = min(max(round((least + (budget - least) * a) / k), 1), steps)
            start = int(t * (steps - long + 1))
            tube = m.clone()
            tube[start:start + long, list(group[first:first + k])] = True
            new = int(tube.sum()) - count
            good = 0 < new <= budget if strict else count + new < 25 * steps
            m, refused = (tube, 0) if good else (m, refused + 1)
        masks.append(m)
    return torch.stack(masks)


@settings(max_examples=4, deadline=None)
@given(st.sampled_from([8, 4, 2, 1]), st.booleans(), st.booleans(), st.integers(0, 10_000))
@example(2, False, True, 0)
def test_the_loop_over_samples(steps, strict, paper, seed):
    ratio = T.stratified_ratios(12, Draws(seed))[0]
    target = (ratio.double() * steps * 25 + 1e-4).long().tolist()
    ours = T.tube_mask(12, (steps, 25), ratio, Draws(seed), "slice" if strict else "paper", "paper" if paper else "release")
    assert torch.equal(ours, loop(12, steps, target, Draws(seed), strict, *((8, 12.5 * steps) if paper else (steps, 100))))


# ---- plain masks


def test_plain_masks():
    ratio = torch.tensor([0.0, 0.5, 0.9, 0.66])
    tokens = T.tube_mask(4, (8, 25), ratio, Draws(0), "random")
    assert tokens.sum((1, 2)).tolist() == [0, 100, 180, 132]
    rows = T.tube_mask(4, (8, 25), ratio, Draws(0), "tube")
    assert (rows == rows[:, :1]).all() and rows[:, 0].sum(1).tolist() == [0, 12, 22, 16]
    assert not any(T.tube_mask(3, (8, 25), torch.zeros(3), Draws(0), form).any() for form in T.FORMS)
    for form in T.FORMS:  # something stays visible whatever is asked for
        assert (~T.tube_mask(200, (1, 25), torch.ones(200), Draws(0), form)).any(2).all()


def test_motion_aware_mask_prefers_what_moves():
    x = torch.zeros(2000, 3, 64, 25)
    x[..., 7] = torch.randn(64, generator=torch.Generator().manual_seed(0)).cumsum(0)
    m = T.motion_aware_mask(x, 8, torch.full((2000,), 0.6), Draws(0)).float()
    assert (m.sum((1, 2)) == 120).all() and m[..., 7].mean() > m[..., 6].mean() + 0.1
    short = T.motion_aware_mask(x[:, :, :8], 8, torch.linspace(0.5, 0.9, 2000), Draws(0))
    assert short.shape == (2000, 1, 25) and short[0].sum() == 12 and (short.float().mean((0, 1)) - 0.68).abs().max() < 0.05


# ---- ratios


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 3), st.sampled_from([0.5, 1.0]), st.booleans(), st.integers(0, 999))
def test_one_ratio_from_each_stratum_of_the_global_batch(n, views, world, prob, shuffle, seed):
    r = torch.cat([T.stratified_ratios(n, Draws(seed, 0, rank, world), views, prob=prob, shuffle=shuffle) for rank in range(world)], 1)
    torch.testing.assert_close(r, T.stratified_ratios(n * world, Draws(seed), views, prob=prob, shuffle=shuffle))
    masked = int(r.numel() * prob)
    some = r[r > 0].sort().values
    edges = torch.linspace(0.5, 0.9, masked + 1)
    assert len(some) == masked and (some >= edges[:-1] - 1e-6).all() and (some <= edges[1:] + 1e-6).all()
    if not shuffle:
        assert (r.flatten()[r.flatten() > 0].diff() > 0).all()  # crop-major: later crops get more


def test_masked_views_are_scattered():
    r = T.stratified_ratios(1000, Draws(0), views=2, prob=0.5)
    assert ((r > 0).float().mean(1) - 0.5).abs().max() < 0.05 and abs(torch.corrcoef(torch.stack([torch.arange(1000.0), r[0]]))[0, 1]) < 0.1
    assert T.stratified_ratios(3, Draws(0), prob=0.0).count_nonzero() == 0


# ---- masks of all views


def views(n, rank=0, world=1, spec="release"):
    x = torch.randn(world * n, 3, 150, 25, generator=torch.Generator().manual_seed(0))[rank * n:(rank + 1) * n]
    return global_local_views(x, torch.full((n,), 150), VIEW_SPECS[spec], draws=Draws(0, 0, rank, world))


@pytest.mark.parametrize("name", ["default", "release", "paper"])
def test_masks_of_all_views(name):
    globals_, locals_ = T.view_masks(views(40, spec="paper" if name == "paper" else "release"), Draws(1), T.MASK_SPECS[name])
    assert [m.shape for m in globals_] == [(40, 8, 25)] * 2 and {w: m[0].shape[1] for w, m in locals_.items()} == {32: 4, 16: 2, 8: 1}
    masked = {w: torch.stack(m).flatten(0, 1).any(2).any(1).float().mean().item() for w, m in {64: globals_, **locals_}.items()}
    want = {64: 1.0, 32: 0.5, 16: 0.5, 8: 0.5} if name == "paper" else {64: 0.5, 32: 1.0, 16: 1.0, 8: 1.0}
    assert masked == want
    halves = [torch.stack(m).float().mean((1, 2, 3)) for m in (locals_[16], locals_[8])]
    split = [h[len(h) // 2:].mean() - h[:len(h) // 2].mean() for h in halves]
    assert all(0.15 < s < 0.25 for s in split) if name == "release" else all(abs(s) < 0.15 for s in split)


@pytest.mark.parametrize("global_form,local_form", [("none", "none"), ("motion", "slice"), ("slice", "none"), ("slice", "motion"), ("random", "tube")])
def test_rows_of_table_6(global_form, local_form):
    spec = T.MaskSpec(global_form, local_form)
    globals_, locals_ = T.view_masks(views(8), Draws(1), spec)
    assert torch.stack(globals_).any() == (global_form != "none") and torch.stack(locals_[8]).any() == (local_form != "none")
    parts = [T.view_masks(views(4, rank, 2), Draws(1, 0, rank, 2), spec) for rank in (0, 1)]
    assert all(torch.equal(torch.cat([a, b]), c) for a, b, c in zip(parts[0][0], parts[1][0], globals_))
    assert all(torch.equal(torch.cat([parts[0][1][w][k], parts[1][1][w][k]]), m) for w in locals_ for k, m in enumerate(locals_[w]))


def test_bad_input():
    ratio = torch.full((2,), 0.5)
    with pytest.raises(ParameterError, match="(?s)form 'slices'.*slice"):
        T.tube_mask(2, (8, 25), ratio, Draws(0), "slices")
    with pytest.raises(ParameterError, match="(?s)8 x 17.*25"):
        T.tube_mask(2, (8, 17), ratio, Draws(0))
    with pytest.raises(ParameterError, match="one ratio per sample"):
        T.tube_mask(3, (8, 25), ratio, Draws(0))
    with pytest.raises(ParameterError, match="0.9 to 0.5"):
        T.stratified_ratios(2, Draws(0), low=0.9, high=0.5)
    with pytest.raises(ParameterError, match="form 'motoin'"):
        T.MaskSpec("motoin")
    with pytest.raises(ParameterError, match="(?s)area 'papre'.*paper"):
        T.MaskSpec(area="papre")
    with pytest.raises(ParameterError, match="(?s)area 'papre'.*paper"):
        T.tube_mask(2, (8, 25), ratio, Draws(0), area="papre")
    with pytest.raises(ParameterError, match="do not divide into steps of 6"):
        T.view_masks(views(2), Draws(0), T.MaskSpec(unit=6))
