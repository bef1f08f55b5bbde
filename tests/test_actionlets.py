"""Actionlet maps against a truth, the graph of an augmentation against block matrices, the paper's fit, and that the pictures say what they show."""

import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import nn

from skelnb.backbones.features import Features
from skelnb.backbones.stgcn import STGCN
from skelnb.data.synthetic import synthesize
from skelnb.errors import DataError, ParameterError
from skelnb.evaluation.actionlets import (
    PAPER_FIT,
    AccuracyFit,
    actionlet_table,
    augmentation_flow,
    centre_counts,
    class_separation,
    find_actionlets,
    fit_accuracy,
    flow_of,
    grad_cam,
    mask_shear_noise,
    moving_joints,
    region_features,
    region_table,
    strength_table,
    weight_by_class,
)
from skelnb.objectives.actionlet import actionlet_score, activation_map, mean_motion, upsample_map
from skelnb.reporting.actionlets import actionlet_strip, frequency_plot, kappa_plot, quality_plot, region_plot, weight_plot
from skelnb.topology import layout
from skelnb.transforms.draws import Draws

JOINTS = layout("kinect_v2").joints


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def clips():
    return synthesize(6, actions=["kick", "wave"], frames=(40, 60), seed=1, persons=2)


# ---- truth and tables


def test_moving_joints_of_whole_clips(clips):
    length = len(clips[0].xyz)
    x, moving = moving_joints(clips[:1], length)
    torch.testing.assert_close(x[0], torch.from_numpy(clips[0].xyz).permute(3, 0, 2, 1).float())
    assert torch.equal(moving[0], torch.from_numpy(clips[0].moving).permute(1, 0, 2))
    x, moving = moving_joints(clips, 20)
    assert x.shape == (6, 3, 20, 25, 2) and moving.shape == (6, 2, 20, 25)
    for m, c in zip(moving, clips):
        assert abs(m.float().mean() - c.moving.mean()) < 0.03
    with pytest.raises(DataError, match="at least one"):
        moving_joints([], 20)
    clips[2].moving, kept = None, clips[2].moving
    with pytest.raises(DataError, match="clip 2"):
        moving_joints(clips, 20)
    clips[2].moving = kept


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.integers(1, 6))
def test_table_against_counting_and_scikit_learn(seed, levels):
    A = (torch.rand(4, 2, 3, 5, generator=torch.Generator().manual_seed(seed)) * levels).round() / levels  # with ties
    truth = torch.rand(4, 2, 3, 5, generator=torch.Generator().manual_seed(seed + 1)) > 0.4
    row = actionlet_table({"a": A}, truth).iloc[0]
    marked = (A > 0.5).numpy()
    t = truth.numpy()
    assert (row.N_pos, row.N_neg) == ((marked & t).sum(), (marked & ~t).sum())
    assert math.isclose(row.recall, (marked & t).sum() / t.sum()) and math.isclose(row.chance, t.mean(), rel_tol=1e-6)
    assert math.isclose(row.auc, np.mean([roc_auc_score(b.ravel(), a.ravel()) for a, b in zip(A.numpy(), t)]), rel_tol=1e-9)


def test_table_by_group_and_where():
    A, truth = torch.rand(4, 1, 3, 5, generator=torch.Generator().manual_seed(0)), torch.zeros(4, 1, 3, 5, dtype=torch.bool)
    truth[..., :2] = True
    table = actionlet_table({"a": A, "b": 1 - A}, truth, groups=["x", "y", "x", "y"])
    assert list(table.index) == [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]
    alone = actionlet_table({"a": A[::2]}, truth[::2]).iloc[0]
    pd.testing.assert_series_equal(table.loc[("a", "x")], alone, check_names=False)
    where = torch.zeros_like(truth)
    where[..., 1:3] = True
    row = actionlet_table({"a": A}, truth, where=where).iloc[0]
    assert row.N_pos == (A[..., 1] > 0.5).sum() and row.N_neg == (A[..., 2] > 0.5).sum() and row.chance == 0.5
    assert math.isnan(actionlet_table({"a": 0 * A}, truth).R.item())
    with pytest.raises(DataError, match="upsample_map"):
        actionlet_table({"a": A[:, :, :2]}, truth)


# ---- maps


def test_find_actionlets_is_the_recipe():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder, head = STGCN(width=2, out=8, dropout=0.0), nn.Linear(8, 4)
    x = numbers(5, 3, 16, 25, 2)
    with torch.no_grad():
        encoder(x)
    encoder.eval()
    mean, P = mean_motion([x]), numbers(3, 4)
    anchor = head(encoder(mean).clip)[0]
    h = encoder.forward_map(x).unflatten(0, (5, 2))
    plain = upsample_map(activation_map(h, head, lambda z: actionlet_score(z, anchor, P)[0]), 16)
    torch.testing.assert_close(find_actionlets(encoder, x, mean, head, P, batch=2), plain, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(find_actionlets(encoder, x, head=head, prototypes=P), plain, atol=1e-4, rtol=1e-4)
    x[1, ..., 1] = 0
    assert find_actionlets(encoder, x)[1, 1].eq(0).all()
    # an encoder whose map is the squared clip, pooled over those who are there: clip 1 is as it would be alone
    stub, head = SimpleNamespace(persons="present", forward_map=lambda x: x.movedim(-1, 1).flatten(0, 1)[:, :, ::4].square()), nn.Linear(3, 4)
    pooled, alone = (find_actionlets(stub, part, mean, head, P) for part in (x, x[1:2, ..., :1]))
    torch.testing.assert_close(pooled[1, :1], alone[0], atol=1e-5, rtol=1e-4)


def test_grad_cam_of_a_linear_classifier_is_cam():
    h, y = numbers(4, 1, 6, 5, 25), torch.tensor([0, 2, 1, 1])
    classifier = nn.Linear(6, 3)
    cam = torch.einsum("nd,nmdtv->nmtv", classifier.weight[y], h).relu().detach()
    torch.testing.assert_close(grad_cam(h, classifier, y), cam / cam.amax((1, 2, 3), keepdim=True))
    assert classifier.weight.grad is None


def test_regions_and_weights_by_class():
    h, A = numbers(3, 2, 4, 5, 6), torch.rand(3, 2, 5, 6, generator=torch.Generator().manual_seed(1))
    inside, outside = region_features(h, A)
    torch.testing.assert_close((inside * A.sum((1, 2, 3))[:, None] + outside * (1 - A).sum((1, 2, 3))[:, None]) / 60, h.mean((1, 3, 4)))
    alone, rest = region_features(h, torch.ones_like(A))
    torch.testing.assert_close(alone, h.mean((1, 3, 4)))
    assert rest.eq(0).all()
    joints, steps = weight_by_class(A, [0, 2, 0], ["a", "b", "c"], list("uvwxyz"))
    np.testing.assert_allclose(joints.loc["a"], A[[0, 2]].mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(steps.loc["c"], A[1].mean((0, 2)), rtol=1e-5)
    assert joints.loc["b"].isna().all()
    first = weight_by_class(A, [0, 2, 0], ["a", "b", "c"], list("uvwxyz"), torch.tensor([[True, False]] * 3))[0]
    np.testing.assert_allclose(first.loc["c"], A[1, 0].mean(0), rtol=1e-5)


def test_recognition_by_region():
    "Class 1 differs in joint 0 only, of which the map knows."
    h, A = numbers(12, 1, 4, 3, 5).abs(), torch.zeros(12, 1, 3, 5)
    y, A[..., 0] = np.arange(12) % 2, 1
    h[y == 0, :, 0, :, 0] += 5
    h[y == 1, :, 1, :, 0] += 5
    table = region_table({"a": (h, A), "b": (h, 1 - A)}, y, np.arange(12) // 2)
    assert table.loc["a", "actionlets"] == 1 and table.loc["a", "rest"] < 0.9 and list(table) == ["everywhere", "actionlets", "rest"]
    assert table.loc["b", "rest"] == 1 and table.loc["b", "actionlets"] == table.loc["a", "rest"]
    fig = region_plot(table, "x")
    dots = {line.get_label(): line.get_xdata() for line in fig.axes[0].lines}
    np.testing.assert_allclose(dots["rest"], 100 * table["rest"])
    assert "a: 100 % from actionlets" in fig.alt
    with pytest.raises(ParameterError, match="region_table"):
        region_plot(table.drop(columns="rest"))


def test_how_often_local_features_occur():
    axes = torch.eye(3)
    kind = torch.tensor([0] * 14 + [1] * 4 + [2] * 2).view(1, 2, 5, 2)  # (N, M, T', V)
    h, A = axes[kind].movedim(-1, 2) * torch.rand(1, 2, 1, 5, 2).add(0.5), (kind > 0).float() * 0.8
    counts = centre_counts(h, A, k=3)
    assert counts["everywhere"].tolist() == [14, 4, 2] and counts["actionlets"].tolist() == [0, 4, 2]
    assert centre_counts(h, A, k=3, threshold=0.9)["actionlets"].sum() == 0
    assert centre_counts(h, A, k=3, where=torch.tensor([[True, False]]))["everywhere"].sum() == 10
    assert centre_counts(h, A, k=3, most=19).equals(counts)
    fig = frequency_plot(counts)
    np.testing.assert_allclose(fig.axes[0].lines[1].get_ydata(), [400 / 6, 200 / 6, 0])
    with pytest.raises(ParameterError, match="threshold"):
        frequency_plot(counts.assign(actionlets=0))
    with pytest.raises(DataError):
        centre_counts(h, A[..., :1])


# ---- the graph


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=6))
def test_kappa_counts_the_parts_of_a_graph(sizes):
    P = torch.block_diag(*(torch.full((n, n), 1 / n) for n in sizes))
    flow = flow_of(P)
    assert flow.kappa(1e-6) == flow.kappa(0.5) == len(sizes)
    assert flow.values.min() >= 0 and flow.values.max() <= 2 and math.isclose(flow.weights.sum().item(), 1, rel_tol=1e-9)
    group = np.repeat(np.arange(len(sizes)), sizes)
    assert math.isclose(flow.purity(group), 1, rel_tol=1e-9)
    assert math.isclose(flow.purity(np.arange(len(group))), len(sizes) / len(group), rel_tol=1e-6)
    f = flow.features(len(sizes))
    apart = torch.cdist(f, f)
    same = torch.as_tensor(group[:, None] == group)
    assert apart[same].max() < 1e-3 and (len(sizes) == 1 or apart[~same].min() > 0.1)


def test_cheeger_brackets_a_bottleneck_and_longer_flows_join():
    P = 0.97 * torch.kron(torch.eye(2), torch.ones(4, 4) / 4) + 0.03 * torch.ones(8, 8) / 8
    cut = 0.015  # conductance of the two halves
    v2 = flow_of(P).values[1].item()
    assert v2 / 2 <= cut <= math.sqrt(2 * v2) and flow_of(P).kappa(0.1) == 2
    assert flow_of(P, steps=100).kappa(0.1) == 1
    laplacian = torch.eye(8, dtype=torch.float64) - P.double()  # rows and columns add up to one: nothing to normalise
    torch.testing.assert_close(flow_of(P).values, torch.linalg.eigvalsh(laplacian).clamp_min(0))
    for wrong in (torch.ones(3, 3), torch.ones(3, 2) / 2):
        with pytest.raises(DataError, match="transition"):
            flow_of(wrong)


def test_an_augmentation_that_changes_nothing_leaves_everybody_alone():
    x = numbers(20, 3, 8, 25, 1)
    encoder = lambda x: x.mean(2).flatten(1)  # noqa: E731
    same = augmentation_flow(encoder, x, lambda x, draws: x, Draws(0), temperature=0.01)
    assert same.kappa() == 20
    lost = augmentation_flow(encoder, x, lambda x, draws: 0 * x, Draws(0), temperature=0.1)
    assert lost.kappa() == 1
    wrapped = augmentation_flow(lambda x: Features(encoder(x), x), x, lambda x, draws: x, Draws(0), temperature=0.01, batch=3)
    torch.testing.assert_close(wrapped.weights, same.weights)
    noisy = partial(mask_shear_noise, sigma=0.3)
    a, b = (augmentation_flow(encoder, x, noisy, Draws(seed)) for seed in (1, 1))
    assert torch.equal(a.weights, b.weights) and not torch.equal(a.weights, augmentation_flow(encoder, x, noisy, Draws(2)).weights)
    with pytest.raises(ParameterError):
        augmentation_flow(encoder, x, noisy, Draws(0), temperature=0)


def test_equation_16_by_parts():
    x = numbers(2, 3, 40, 25, 1) + 5
    assert torch.equal(mask_shear_noise(x, Draws(0)), x)
    masked = mask_shear_noise(x, Draws(0), mask=0.3)
    gone = masked.eq(0).all(1)
    assert abs(gone.float().mean() - 0.3) < 0.04 and torch.equal(masked[:, 0][~gone], x[:, 0][~gone])
    assert abs((mask_shear_noise(x, Draws(0), sigma=0.2) - x).std() - 0.2) < 0.01
    sheared = mask_shear_noise(x, Draws(0), limit=0.4)
    matrix = torch.linalg.lstsq(x[0].flatten(1).T, sheared[0].flatten(1).T).solution
    torch.testing.assert_close(matrix.diagonal(), torch.ones(3), atol=1e-3, rtol=0)
    assert 0.01 < (matrix - torch.eye(3)).abs().max() <= 0.401


def test_strength_table_and_the_paper_s_fit(clips):
    x, _ = moving_joints(clips, 12)
    grow = lambda x, draws, s: mask_shear_noise(x, draws, sigma=s)  # noqa: E731
    table, spectra = strength_table(lambda x: x.flatten(1), x, grow, [0, 5.0], [0, 1, 0, 1, 0, 1], temperature=0.01, d=2)
    assert list(table) == ["strength", "kappa", "purity", "accuracy"] and table.kappa[0] == 6 > table.kappa[1] and table.purity[0] > 0.99
    assert set(spectra) == {0, 5.0} and len(spectra[0]) == 6
    assert "purity" not in strength_table(lambda x: x.flatten(1), x, grow, [0])[0]
    # Eq. 17: the maximum of the printed curve
    assert math.isclose(PAPER_FIT.best, 30.37, abs_tol=0.01) and math.isclose(PAPER_FIT(PAPER_FIT.best), 56.78, abs_tol=0.01)
    k = np.array([2, 5, 20, 60, 150])
    np.testing.assert_allclose(fit_accuracy(k, PAPER_FIT(k)), PAPER_FIT, rtol=1e-6)
    assert math.isnan(AccuracyFit(1, -1, 1).best)
    with pytest.raises(DataError, match="three constants"):
        fit_accuracy([3, 3, 4], [1, 2, 3])


def test_class_separation_by_hand():
    z = torch.tensor([[1.0, 0], [0.6, 0.8], [0, -2], [-3, 0]])
    table = class_separation(z, [0, 0, 1, 2], ["a", "b", "c"], anchor=[1, 0])
    assert math.isclose(table.diameter["a"], math.sqrt(0.8), rel_tol=1e-6) and math.isclose(table.distance["a"], math.sqrt(2), rel_tol=1e-6)
    assert math.isclose(table.ratio["a"], math.sqrt(2 / 0.8), rel_tol=1e-6) and math.isnan(table.diameter["b"])
    assert math.isclose(table.L["a"], 2 * (1 - 0.8), rel_tol=1e-6) and math.isclose(table.D["a"], 4 * (1 - math.cos(math.acos(0.6) / 2)), rel_tol=1e-6)
    with pytest.raises(DataError):
        class_separation(z / 0, [0, 0, 1, 2], ["a", "b", "c"])


# ---- pictures


def test_strip_rows_frames_and_refusals(clips):
    xyz, w = clips[0].xyz, clips[0].moving.astype(float)
    fig = actionlet_strip(xyz, {"one": w, "two": 1 - w}, n=4, title="kick")
    assert len(fig.axes) == 8 and f"one {w.mean():.2f}" in fig.alt and "kick" in fig.alt
    assert len(fig.svg()) > 1000
    with pytest.raises(ParameterError, match="row"):
        actionlet_strip(xyz, w[:-1])
    with pytest.raises(ParameterError, match="'b'"):
        actionlet_strip({"a": xyz, "c": xyz}, {"b": w})
    with pytest.raises(ParameterError, match="somebody"):
        actionlet_strip(0 * xyz, w)


def test_the_other_pictures():
    table = pd.DataFrame({"N_pos": [3, 9], "N_neg": [8, 1], "R": [3 / 11, 0.9], "chance": [0.3, 0.3]})
    fig = quality_plot(table, [0, 10])
    assert "from 27% to 90%" in fig.alt and fig.axes[0].lines[0].get_ydata().tolist() == [3, 9]
    with pytest.raises(ParameterError, match="N_neg"):
        quality_plot(table.drop(columns="N_neg"), [0, 1])
    strengths = pd.DataFrame({"strength": [0, 1.0], "kappa": [6, 2], "accuracy": [0.5, 0.7]})
    fig = kappa_plot(strengths, {0: np.zeros(6), 1.0: np.linspace(0, 1, 6)}, 0.1, PAPER_FIT)
    assert "6 at 0, 2 at 1" in fig.alt and len(fig.axes) == 3 and fig.axes[2].lines[0].get_ydata().tolist() == [50, 70]
    assert len(kappa_plot(strengths[["strength", "kappa"]], {0: np.zeros(6)}, 0.1).axes) == 2
    with pytest.raises(ParameterError, match="strength_table"):
        kappa_plot(table, {}, 0.1)
    joints = pd.DataFrame(np.eye(2, 25), index=["wave", "kick"], columns=JOINTS)
    fig = weight_plot(joints, pd.DataFrame(np.eye(2, 13), index=["wave", "kick"]))
    assert "wave: spine base, kick: spine mid" in fig.alt
    with pytest.raises(ParameterError, match="25 joints"):
        weight_plot(joints.iloc[:, :5], pd.DataFrame(np.eye(2, 13), index=["wave", "kick"]))
