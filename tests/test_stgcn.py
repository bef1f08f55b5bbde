"""The quarter-width ST-GCN: published sizes, a plain reference under the release's names, exact shortcuts, weights there and back."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from skelnb.backbones import stgcn
from skelnb.backbones.features import Features
from skelnb.backbones.stgcn import STGCN, Block, GraphConv, block_sizes, distinct, from_actclr, gather_first, graph, project_first, to_actclr, untracked
from skelnb.errors import CheckpointError, LayoutError, ParameterError
from skelnb.evaluation.bank import _check_apart
from skelnb.evaluation.efficiency import STGCN_QUARTER, count_macs, stgcn_blocks

SMALL = dict(width=4, out=24)


def count(module):
    return sum(p.numel() for p in module.parameters())


def clips(n=3, frames=13, joints=25, channels=3, persons=2, seed=0):
    return torch.randn(n, channels, frames, joints, persons, generator=torch.Generator().manual_seed(seed)).cumsum(2) / 3


def with_a_past(encoder, seed=0):
    "Weights and statistics as after training: the clips matter, and no bias, norm or running mean is what it was at the start."
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, t in encoder.state_dict().items():
            if t.ndim == 4:
                t.copy_(torch.randn(t.shape, generator=g) * (2 / t[0].numel()) ** 0.5)
            elif name.endswith("running_var"):
                t.copy_(0.5 + torch.rand(t.shape, generator=g))
            elif t.is_floating_point():
                t.add_(0.1 * torch.randn(t.shape, generator=g))
    return encoder


# ---- the release, written plainly ------------------------------------------------------------------------------------------------------


class PlainGcn(nn.Module):
    def __init__(self, cin, cout):
        super().__init__()
        self.conv = nn.Conv2d(cin, 3 * cout, 1)

    def forward(self, x, A):
        x = self.conv(x)
        n, kc, t, v = x.shape
        return torch.einsum("nkctv,kvw->nctw", x.view(n, 3, kc // 3, t, v), A)


class PlainBlock(nn.Module):
    def __init__(self, cin, cout, stride, first):
        super().__init__()
        self.gcn = PlainGcn(cin, cout)
        self.tcn = nn.Sequential(nn.BatchNorm2d(cout), nn.ReLU(), nn.Conv2d(cout, cout, (9, 1), (stride, 1), (4, 0)), nn.BatchNorm2d(cout))
        self.kind = "none" if first else "same" if cin == cout and stride == 1 else "conv"
        if self.kind == "conv":
            self.residual = nn.Sequential(nn.Conv2d(cin, cout, 1, (stride, 1)), nn.BatchNorm2d(cout))

    def forward(self, x, A):
        res = {"none": lambda: 0, "same": lambda: x, "conv": lambda: self.residual(x)}[self.kind]()
        return torch.relu(self.tcn(self.gcn(x, A)) + res)


class Plain(nn.Module):
    "Names of the release, order of the release, no dropout, every place of every clip."

    def __init__(self, A, channels=3, width=4, out=24):
        super().__init__()
        self.register_buffer("A", A)
        self.data_bn = nn.BatchNorm1d(channels * A.shape[1])
        w = [width] * 4 + [2 * width] * 3 + [4 * width] * 2 + [out]
        strides = [1, 1, 1, 1, 2, 1, 1, 2, 1, 1]
        self.st_gcn_networks = nn.ModuleList(PlainBlock(a, b, s, i == 0) for i, (a, b, s) in enumerate(zip([channels] + w[:-1], w, strides)))
        self.edge_importance = nn.ParameterList(nn.Parameter(torch.ones_like(A)) for _ in w)

    def forward(self, x):
        N, C, T, V, M = x.shape
        x = x.permute(0, 4, 3, 1, 2).contiguous().view(N * M, V * C, T)
        x = self.data_bn(x).view(N, M, V, C, T).permute(0, 1, 3, 4, 2).contiguous().view(N * M, C, T, V)
        self.inside = []
        for block, importance in zip(self.st_gcn_networks, self.edge_importance):
            x = block(x, self.A * importance)
            self.inside.append(x)
        return x, F.avg_pool2d(x, x.shape[2:]).view(N, M, -1).mean(1)


def pair(layout="kinect_v2", channels=3, **options):
    "Ours, and the plain one with the same weights."
    torch.manual_seed(0)
    ours = with_a_past(STGCN(layout, channels, dropout=0.0, **SMALL, **options))
    plain = Plain(ours.blocks[0].graph.A.clone(), channels)
    plain.load_state_dict(to_actclr(ours))
    return ours, plain


@pytest.mark.parametrize("frames", [13, 1, 2, 50])
def test_evaluation_is_the_plain_reference(frames):
    ours, plain = pair()
    x = clips(frames=frames)
    x[1:, ..., 1] = 0
    ours.eval(), plain.eval()
    h, pooled = plain(x)
    torch.testing.assert_close(ours.forward_map(x), h, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(ours.forward_map(x), h, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours(x).clip, pooled, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(ours.forward_taps(x, range(10)), plain.inside):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("train, order", [(True, "auto"), (False, "auto"), (True, "project_first")])
@pytest.mark.parametrize("layout, channels", [("kinect_v2", 3), ("coco17", 2)])
def test_gradients_and_statistics_are_those_of_the_plain_reference(train, order, layout, channels):
    ours, plain = (m.double().train(train) for m in pair(layout, channels, order=order))
    V = ours.joints
    x = clips(4, 13, V, channels).double()
    x[1, ..., 1] = x[2] = 0  # batch statistics see empty places
    target = torch.randn(4, 24, dtype=torch.double, generator=torch.Generator().manual_seed(3))
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    (ours(a).clip * target).sum().backward()
    (plain(b)[1] * target).sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-11)
    grads = {k: p.grad for k, p in plain.named_parameters()}
    shadow = copy.deepcopy(ours)
    with torch.no_grad():
        for p, q in zip(shadow.parameters(), ours.parameters()):
            p.copy_(q.grad)
    mine = {k: v for k, v in to_actclr(shadow).items() if k in grads}
    assert len(mine) == len(grads) == len(list(ours.parameters()))
    for k, g in grads.items():
        torch.testing.assert_close(mine[k], g, rtol=1e-9, atol=1e-10, msg=k)
    for k, v in to_actclr(ours).items():  # running statistics too
        torch.testing.assert_close(v, plain.state_dict()[k], rtol=1e-10, atol=1e-12, msg=k)


def test_parameter_gradients_survive_skipping():
    ours, _ = pair()
    ours.eval()
    x = clips(4)
    x[:3, ..., 1] = 0
    grads = []
    for skip in (True, False):
        ours.skip_empty = skip
        grads.append(torch.autograd.grad(ours(x).clip.square().sum(), list(ours.parameters())))
    for p, q in zip(*grads):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4 * max(1.0, q.abs().max().item()))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(1, 6), st.integers(0, 99))
def test_both_orders_are_one_function(cin, cout, K, T, V, seed):
    g = torch.Generator().manual_seed(seed)
    new = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.double).requires_grad_()  # noqa: E731
    x, A, w, b = inputs = new(2, cin, T, V), new(K, V, V), new(K * cout, cin, 1, 1), new(K * cout)
    ys = [f(x, A, w, b) for f in (project_first, gather_first)]
    by_hand = sum(torch.einsum("oc,nctv,vw->notw", w[k * cout:(k + 1) * cout, :, 0, 0], x, A[k])
                  + b[k * cout:(k + 1) * cout, None, None] * A[k].sum(0) for k in range(K))
    up = torch.randn(by_hand.shape, generator=g, dtype=torch.double)
    expected = torch.autograd.grad(by_hand, inputs, up, retain_graph=True)
    for y in ys:
        torch.testing.assert_close(y, by_hand)
        for mine, right in zip(torch.autograd.grad(y, inputs, up, retain_graph=True), expected):
            torch.testing.assert_close(mine, right)


@pytest.mark.parametrize("cin, cout", [(3, 16), (16, 16), (64, 256)])
def test_orders_agree_in_single_precision(cin, cout):
    g = torch.Generator().manual_seed(0)
    A = graph("kinect_v2")
    x = torch.randn(2, cin, 7, 25, generator=g).requires_grad_()
    w, b = (0.02 * torch.randn(3 * cout, cin, 1, 1, generator=g)).requires_grad_(), torch.randn(3 * cout, generator=g).requires_grad_()
    plain, quick = (f(x, A, w, b) for f in (project_first, gather_first))
    torch.testing.assert_close(quick, plain, rtol=1e-5, atol=1e-5)
    up = torch.randn(plain.shape, generator=g)
    for p, q in zip(torch.autograd.grad(plain, (x, w, b), up), torch.autograd.grad(quick, (x, w, b), up)):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-4 * p.abs().max().item())


def test_which_order(monkeypatch):
    ran = []
    for f in (project_first, gather_first):
        monkeypatch.setattr(stgcn, f.__name__, lambda *a, f=f: ran.append(f.__name__) or f(*a))
    for options, expected in ((SMALL, ["gather_first"] * 10), (dict(width=4, out=8), ["gather_first"] * 9 + ["project_first"]),  # narrows: 16 -> 8
                              (SMALL | {"order": "project_first"}, ["project_first"] * 10)):
        ran.clear()
        STGCN(**options)(clips())
        assert ran == expected


@pytest.mark.parametrize("order", ["project_first", "gather_first"])
def test_orders_of_the_whole_network(order):
    ours, _ = pair()
    other, _ = pair(order=order)
    torch.testing.assert_close(ours.eval()(clips()).clip, other.eval()(clips()).clip, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(ours(clips()).clip, other(clips()).clip, rtol=1e-5, atol=1e-5)


# ---- sizes -----------------------------------------------------------------------------------------------------------------------------


def test_parameters_are_those_of_the_paper():
    with torch.device("meta"):
        encoder = STGCN()
    importance = [b.graph.importance.numel() for b in encoder.blocks]
    assert [count(b) - n for b, n in zip(encoder.blocks, importance)] == [2576, 3200, 3200, 3200, 11_616, 12_544, 12_544, 45_760, 49_664, 658_176]
    assert sum(importance) == 18_750 and count(encoder.norm) == 150
    assert count(encoder) == 821_380 and count(encoder) + count(nn.Linear(256, 60)) == 836_800
    assert tuple(block_sizes()) == STGCN_QUARTER
    assert count(STGCN(edge_importance=False)) == 821_380 - 18_750
    assert [b.dropout.p for b in STGCN(dropout=0.3, **SMALL).blocks] == [0.0] + [0.3] * 9


@pytest.mark.parametrize("frames, steps", [(50, 13), (64, 16), (1, 1), (150, 38), (300, 75)])
def test_shapes(frames, steps):
    encoder, x = STGCN(**SMALL).eval(), clips(2, frames)
    f = encoder(x)
    assert isinstance(f, Features)
    assert f.clip.shape == (2, 24) and f.frames.shape == (2, steps, 24) and f.tokens.shape == (2, steps, 25, 24)
    assert encoder.forward_map(x).shape == (4, 24, steps, 25) and f.clip.dtype == torch.float32
    torch.testing.assert_close(f.clip, f.tokens.mean((1, 2)))
    torch.testing.assert_close(f.frames, f.tokens.mean(2))


def test_channels_by_block_at_full_size():
    with torch.device("meta"):
        encoder = STGCN().train()  # meta tensors cannot say who is present
        maps = encoder.forward_taps(torch.zeros(1, 3, 50, 25, 2), range(10))
    assert [tuple(m.shape) for m in maps] == [(2, 16, 50, 25)] * 4 + [(2, 32, 25, 25)] * 3 + [(2, 64, 13, 25)] * 2 + [(2, 256, 13, 25)]


def test_multiply_adds():
    x = torch.ones(1, 3, 50, 25, 2)
    table = stgcn_blocks()
    with torch.no_grad():
        plain = count_macs(STGCN(order="project_first").eval(), x)
        quick = count_macs(STGCN().eval(), x)
    assert plain.total == 2 * table.macs.sum() and round(plain.gmac, 3) == 0.612 and not plain.uncounted
    blocks = plain.by_module(2, merge=False).macs
    assert [blocks[f"blocks.{i}"] for i in range(10)] == (2 * table.macs).tolist()
    inputs, after = torch.tensor(table["in"].tolist()), torch.tensor([50] * 5 + [25] * 3 + [13] * 2)
    graphs = 3 * inputs * after * 625
    assert quick.total == 2 * (table.macs.sum() - table.graph.sum() + graphs.sum().item()) and not quick.uncounted
    with torch.no_grad():
        half = torch.ones(6, 3, 50, 25, 2)
        half[..., 1] = 0
        assert count_macs(STGCN().eval(), half).total * 2 == quick.total * 7  # six persons and one empty place


# ---- graph -----------------------------------------------------------------------------------------------------------------------------


def test_graph_of_the_release_and_of_the_textbook():
    A, B = graph("kinect_v2"), graph("kinect_v2", mode="textbook")
    assert [int((a > 0).sum()) for a in A] == [25, 40, 8] and [int((b > 0).sum()) for b in B] == [25, 24, 24]
    expected = {(1, 0): .25, (2, 3): .5, (4, 5): 1 / 3, (8, 9): 1 / 3, (20, 1): 1 / 3, (20, 2): 1 / 3, (20, 4): 1 / 3, (20, 8): 1 / 3}
    assert {tuple(vw): pytest.approx(A[2][tuple(vw)].item()) for vw in A[2].nonzero().tolist()} == expected
    torch.testing.assert_close(A.sum((0, 1)), torch.ones(25))
    assert torch.equal(A.sum(0), B.sum(0))
    for encoder, wanted in ((STGCN(**SMALL), A), (STGCN(mode="textbook", **SMALL), B)):
        assert all(torch.equal(b.graph.A, wanted) for b in encoder.blocks)
    assert len(STGCN(strategy="uniform", **SMALL).blocks[0].graph.A) == 1 and len(STGCN(hops=2, **SMALL).blocks[0].graph.A) == 5


def test_the_graph_matters_and_a_message_travels_one_bone():
    layer, x = GraphConv(3, 8, graph("kinect_v2")), torch.zeros(1, 3, 2, 25)
    x[..., 5] = 1
    moved = (layer(x) - layer(0 * x)).abs().sum((0, 1, 2)) > 1e-7
    assert moved.nonzero().flatten().tolist() == [4, 5, 6]
    a, b = with_a_past(STGCN(**SMALL)).eval(), STGCN(mode="textbook", **SMALL).eval()
    b.load_state_dict(a.state_dict())
    assert not torch.allclose(a(clips()).clip, b(clips()).clip, rtol=1e-2)


# ---- persons ---------------------------------------------------------------------------------------------------------------------------


def test_an_empty_place_is_a_constant_and_skipping_is_exact():
    for persons in ("mean_over_M", "present"):
        encoder = with_a_past(STGCN(persons=persons, **SMALL)).eval()
        x = clips(5, persons=3)
        x[:, ..., 2] = x[2:, ..., 1] = x[4] = 0
        encoder.skip_empty = False
        full, maps = encoder(x), encoder.forward_map(x)
        empty = maps.unflatten(0, (5, 3))[:, 2]
        assert (empty - empty[:1]).abs().max() == 0 and empty.any()
        encoder.skip_empty = True
        torch.testing.assert_close(encoder.forward_map(x), maps, rtol=1e-5, atol=1e-6)
        skipped = encoder(x)
        for name in ("clip", "frames", "tokens"):
            torch.testing.assert_close(getattr(skipped, name), getattr(full, name), rtol=1e-5, atol=1e-6)
        for mine, right in zip(encoder.forward_taps(x, (1, 4, 7)), encoder._encode(encoder._fold(x), (1, 4, 7))):
            torch.testing.assert_close(mine, right, rtol=1e-5, atol=1e-6)
        people = [encoder.forward_map(x[2:3, ..., :1]).mean((2, 3)), empty[:1].mean((2, 3))]
        expected = (people[0] + 2 * people[1]) / 3 if persons == "mean_over_M" else people[0]
        torch.testing.assert_close(full.clip[2:3], expected, rtol=1e-5, atol=1e-6)
        assert full.clip[4].any() == (persons == "mean_over_M")  # nobody there


def test_training_sees_empty_places():
    encoder = STGCN(dropout=0.0, **SMALL)
    x = clips(3)
    y = x.clone()
    y[..., 1] = 0
    full = [copy.deepcopy(encoder), copy.deepcopy(encoder)]
    full[1].skip_empty = False
    a, b = full[0].train()(y), full[1].train()(y)
    assert torch.equal(a.clip, b.clip) and torch.equal(full[0].norm.running_var, full[1].norm.running_var)
    folded = y.movedim(-1, 1).flatten(0, 1).permute(0, 3, 1, 2).flatten(1, 2)  # zeros included
    torch.testing.assert_close(full[0].norm.running_mean, 0.1 * folded.mean((0, 2)))


def test_order_and_number_of_persons():
    encoder = with_a_past(STGCN(**SMALL)).eval()
    x = clips(2, persons=3)
    torch.testing.assert_close(encoder(x[..., [2, 0, 1]]).clip, encoder(x).clip, rtol=1e-5, atol=1e-6)
    h = encoder.forward_map(x).unflatten(0, (2, 3))
    for n, m in ((0, 0), (1, 2), (0, 1)):
        torch.testing.assert_close(encoder.forward_map(x[n:n + 1, ..., m:m + 1])[0], h[n, m], rtol=1e-4, atol=1e-5)
    x[0, ..., 1:] = 0
    _check_apart(encoder, x[:1])  # evaluation may encode persons alone
    assert encoder(x[:0]).clip.shape == (0, 24)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), max_size=12))
def test_distinct(there):
    rows, place = distinct(torch.tensor(there, dtype=torch.bool))
    assert len(place) == len(there) and len(rows) == sum(there) + (not all(there))
    for i, here in enumerate(there):
        j = rows[place[i]].item()
        assert j == i if here else not there[j]


# ---- hooks for methods -----------------------------------------------------------------------------------------------------------------


def test_map_then_pool_is_forward_and_gradients_reach_the_pooled_vector():
    encoder = with_a_past(STGCN(**SMALL)).eval()
    x = clips(2)
    x[0, ..., 1] = 0
    h = encoder.forward_map(x)
    pooled = encoder.pool(h, x)
    assert torch.equal(pooled.clip, encoder(x).clip)
    (g,) = torch.autograd.grad(pooled.clip.square().sum(), h)  # an actionlet mask: the gradient at the map, and the map
    torch.testing.assert_close(g[3, :, 0, 0], 2 * pooled.clip[1] / (2 * h.shape[2] * 25), rtol=1e-4, atol=1e-7)
    assert encoder.pool(encoder.forward_taps(x, (4,))[0], x).frames.shape == (2, 7, 8)


def test_taps():
    encoder, x = with_a_past(STGCN(**SMALL)).eval(), clips(2)
    a, b, c = encoder.forward_taps(x)
    assert [tuple(t.shape) for t in (a, b, c)] == [(4, 4, 13, 25), (4, 8, 7, 25), (4, 16, 4, 25)]
    assert torch.equal(encoder.forward_taps(x, (7, 1))[1], a) and torch.equal(encoder.forward_taps(x, (9,))[0], encoder.forward_map(x))
    for wrong in ((), (10,), (-1,)):
        with pytest.raises(ParameterError, match="0 to 9"):
            encoder.forward_taps(x, wrong)


def test_untracked():
    encoder, x = STGCN(dropout=0.0, **SMALL).train(), clips()
    before = copy.deepcopy(encoder.state_dict())
    with untracked(encoder):
        inside = encoder(x).clip
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    assert torch.equal(encoder(x).clip, inside)  # batch statistics all the same
    assert encoder.norm.num_batches_tracked == 1 and all(m.track_running_stats for m in encoder.modules() if isinstance(m, nn.BatchNorm2d))
    with pytest.raises(RuntimeError), untracked(encoder):
        raise RuntimeError
    assert encoder.norm.track_running_stats


def test_initial_weights():
    torch.manual_seed(0)
    encoder = STGCN()
    block = encoder.blocks[9]
    for weight in (block.temporal.weight, block.graph.conv.weight, block.shortcut[0].weight):
        assert abs(weight.mean()) < 1e-3 and abs(weight.std() - 0.02) < 1e-3
    gains = torch.cat([m.weight for m in encoder.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))])
    assert abs(gains.mean() - 1) < 2e-3 and abs(gains.std() - 0.02) < 2e-3
    assert not any(p.any() for n, p in encoder.named_parameters() if n.endswith("bias"))
    assert all((b.graph.importance == 1).all() for b in encoder.blocks)


def test_dropout_is_active_in_training_only():
    encoder, x = STGCN(**SMALL), clips()
    encoder.train()
    assert not torch.equal(encoder(x).clip, encoder(x).clip)
    encoder.eval()
    assert torch.equal(encoder(x).clip, encoder(x).clip)


def test_bf16_is_close():
    encoder, x = with_a_past(STGCN(**SMALL)).eval(), clips()
    with torch.autocast("cpu", torch.bfloat16):
        low = encoder(x)
        assert encoder.forward_map(x).dtype == torch.bfloat16
    assert low.clip.dtype == torch.float32
    assert F.cosine_similarity(low.clip, encoder(x).clip).min() > 0.995
    encoder.train()
    with torch.autocast("cpu", torch.bfloat16):
        encoder(x).clip.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


# ---- weights of the release ------------------------------------------------------------------------------------------------------------


def official_names():
    "From the layout of the released state (specification, section C2)."
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    names = ["A", *(f"data_bn.{w}" for w in norm), *(f"edge_importance.{i}" for i in range(10))]
    for i in range(10):
        for part, what in (("gcn.conv", norm[:2]), ("tcn.0", norm), ("tcn.2", norm[:2]), ("tcn.3", norm)):
            names += [f"st_gcn_networks.{i}.{part}.{w}" for w in what]
        if i in (4, 7, 9):
            names += [f"st_gcn_networks.{i}.residual.0.{w}" for w in norm[:2]] + [f"st_gcn_networks.{i}.residual.1.{w}" for w in norm]
    return names


def projector():
    return nn.Sequential(nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 8))


def test_names_of_the_release():
    assert sorted(to_actclr(STGCN(**SMALL))) == sorted(official_names()) == sorted(Plain(graph("kinect_v2")).state_dict())


@pytest.mark.parametrize("prefix, branch", [("", None), ("module.", None), ("encoder_q.", None), ("module.encoder_q.", None), ("encoder_k.", "encoder_k")])
def test_round_trip(prefix, branch):
    a, b = with_a_past(STGCN(**SMALL)).eval(), STGCN(**SMALL).eval()
    state = {prefix + k: v for k, v in to_actclr(a, projector()).items()}
    assert state[prefix + "fc.0.weight"].shape == (24, 24, 1, 1)
    if branch:
        state |= {f"encoder_q.{k}": v + 1 for k, v in to_actclr(a).items()}
    parts = from_actclr(state | {"queue": torch.zeros(8, 2), "queue_ptr": torch.zeros(1)}, b, branch)
    b.load_state_dict(parts["encoder"])
    assert torch.equal(b(clips()).clip, a(clips()).clip)
    assert set(parts) == {"encoder", "projector"} and parts["projector"]["2.weight"].shape == (8, 24)
    projector().load_state_dict(parts["projector"])


def test_heads_are_kept_apart():
    a = STGCN(**SMALL)
    classifier = nn.Linear(24, 5)
    for state in (to_actclr(a, classifier), {f"fc.{k}": v for k, v in classifier.state_dict().items()} | to_actclr(a)):  # convolution, or matrix
        parts = from_actclr(state, a)
        assert set(parts) == {"encoder", "classifier"} and torch.equal(parts["classifier"]["weight"], classifier.weight)
    assert set(from_actclr(to_actclr(a), a)) == {"encoder"}


def test_bad_weights():
    a = STGCN(**SMALL)
    state = to_actclr(a)
    without = {k: v for k, v in state.items() if k != "st_gcn_networks.3.tcn.2.weight"}
    for wrong, encoder, said in (
        (without, a, "no st_gcn_networks.3.tcn.2.weight"),
        (state, STGCN(width=4, out=20), r"st_gcn_networks.9.gcn.conv.weight as \(72, 16, 1, 1\), not \(60, 16, 1, 1\)"),
        (state, STGCN(mode="textbook", **SMALL), "another graph"),
        (state, STGCN("coco17", **SMALL), "another graph"),
        (state, STGCN(edge_importance=False, **SMALL), "edge_importance.0, which"),
        (state | {"st_gcn_networks.10.gcn.conv.weight": torch.zeros(1)}, a, "st_gcn_networks.10"),
        ({"backbone.weight": torch.zeros(1)}, a, "data_bn.weight is missing"),
        ({f"encoder_q_motion.{k}": v for k, v in state.items()}, a, "encoder_q_motion"),
    ):
        with pytest.raises(CheckpointError, match=said):
            from_actclr(wrong, encoder)
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    assert a.load_state_dict(from_actclr(old, a)["encoder"], strict=False).unexpected_keys == []


# ---- bad input -------------------------------------------------------------------------------------------------------------------------


def test_other_layouts_and_bad_input():
    for name, V, C in (("coco17", 17, 2), ("openpose18", 18, 3), ("smpl22", 22, 3)):
        assert STGCN(name, C, **SMALL).eval()(clips(2, 9, V, C)).tokens.shape == (2, 3, V, 24)
    encoder = STGCN(**SMALL).eval()
    assert (encoder.joints, encoder.channels, encoder.dim) == (25, 3, 24)
    for x in (clips(joints=17), clips(channels=2), clips()[..., 0]):
        with pytest.raises(ParameterError, match=r"\(N, 3, T, 25, M\)"):
            encoder(x)
    for options, said in ((dict(persons="all"), "mean_over_M"), (dict(mode="official"), "mode = 'official'"), (dict(order="first"), "order"),
                          (dict(temporal_kernel=8), "odd"), (dict(strategy="spatal"), "spatial")):
        with pytest.raises(ParameterError, match=said):
            STGCN(**SMALL, **options)
    with pytest.raises(LayoutError):
        STGCN("kinect_v3")


def test_a_block_alone():
    block = Block(4, 6, graph("kinect_v2"), stride=2, dropout=0.0)
    assert block(torch.randn(2, 4, 5, 25)).shape == (2, 6, 3, 25)


def test_no_strided_convolution_of_single_frames():
    "In channels last, PyTorch 2.13 writes outside its memory in their backward pass where channels are few; it kills the process, or not."
    strided = [m for m in STGCN(width=4, out=8).modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (1, 1) and m.stride != (1, 1)]
    assert not strided
