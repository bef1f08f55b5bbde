"""Multiply-adds of every operation against formulas, memory against allocations counted by hand, and the table that collects them."""

import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from skelnb.backbones.dste import DSTE, STTR
from skelnb.backbones.features import Features
from skelnb.backbones.vit import SkeletonViT
from skelnb.errors import DataError, ParameterError
from skelnb.evaluation import efficiency
from skelnb.evaluation.efficiency import count_macs, efficiency_table, params, peak_memory, stgcn_blocks, throughput, usdrl_macs, vit_macs, vit_parts
from skelnb.evaluation.features import RawCoordinates
from skelnb.methods.lode import Lode
from skelnb.transforms.draws import Draws

MODES = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference": torch.inference_mode}


@pytest.fixture(params=MODES)
def mode(request):
    "Gradients on, off, and inference mode, where composite operators reach the counter whole."
    with MODES[request.param]():
        yield request.param


def clips(frames=32, there=1, slots=2, n=1):
    x = torch.randn(n, 3, frames, 25, slots, generator=torch.Generator().manual_seed(0))
    x[..., there:] = 0
    return x


def macs(f, *inputs):
    "The total, with every warning an error."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return count_macs(f, *inputs).total


# ---- operations ---------------------------------------------------------------------------------------------------------------------

def z(*shape):
    return torch.zeros(shape)


@pytest.mark.parametrize("f, expected", [
    (lambda: z(3, 4) @ z(4, 5), 60),
    (lambda: z(2, 3, 4) @ z(2, 4, 5), 120),
    (lambda: z(2, 7, 3, 4) @ z(4, 5), 14 * 60),
    (lambda: z(2, 1, 3, 4) @ z(6, 4, 5), 2 * 6 * 60),  # broadcast
    (lambda: z(3, 4) @ z(4), 12),
    (lambda: z(4) @ z(4), 4),
    (lambda: torch.addmm(z(5), z(3, 4), z(4, 5)), 60),
    (lambda: torch.addmv(z(3), z(3, 4), z(4)), 12),
    (lambda: torch.baddbmm(z(2, 3, 5), z(2, 3, 4), z(2, 4, 5)), 120),
    (lambda: torch.addbmm(z(3, 5), z(2, 3, 4), z(2, 4, 5)), 120),
    (lambda: z(3, 5).addmm_(z(3, 4), z(4, 5)), 60),
    (lambda: torch.mm(z(3, 4), z(4, 5), out=z(3, 5)), 60),
    (lambda: F.linear(z(2, 7, 4), z(5, 4), z(5)), 2 * 7 * 20),
    (lambda: F.linear(z(2, 7, 4), z(5, 4)), 2 * 7 * 20),
    (lambda: torch.einsum("nctv,kvw->nkctw", z(2, 3, 5, 7), z(4, 7, 7)), 2 * 4 * 3 * 5 * 7 * 7),
    (lambda: torch.einsum("nkctv,kvw->nctw", z(2, 3, 4, 5, 7), z(3, 7, 7)), 2 * 3 * 4 * 5 * 7 * 7),
    (lambda: torch.einsum("bhqd,bhkd->bhqk", z(2, 3, 4, 5), z(2, 3, 6, 5)), 2 * 3 * 4 * 6 * 5),
    (lambda: torch.tensordot(z(3, 4, 5), z(4, 5, 6), 2), 3 * 4 * 5 * 6),
    (lambda: F.layer_norm(z(3, 4), (4,)) + F.gelu(z(3, 4)) * z(3, 4).softmax(1) + z(4, 4)[:3], 0),
    (lambda: F.interpolate(z(1, 2, 8), 16, mode="linear"), 0),
    (lambda: F.batch_norm(z(2, 3, 4), z(3), z(3) + 1), 0),
])
def test_products(f, expected, mode):
    assert macs(f) == expected


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")
def test_linear_layer_of_onednn():
    with torch.no_grad():
        assert macs(lambda: torch.ops.mkldnn._linear_pointwise(z(2, 7, 4), z(5, 4), z(5), "none", [], "")) == 2 * 7 * 20


@settings(max_examples=60, deadline=None)
@given(dims=st.sampled_from([1, 2]), groups=st.sampled_from([1, 2, 4]), cin=st.integers(1, 3), cout=st.integers(1, 3), k=st.integers(1, 4),
       size=st.integers(7, 9), stride=st.integers(1, 3), pad=st.integers(0, 2), dilation=st.integers(1, 2), transposed=st.booleans(),
       mode=st.sampled_from(list(MODES)))
def test_convolutions(dims, groups, cin, cout, k, size, stride, pad, dilation, transposed, mode):
    "Against the matrix product that a convolution is: per group, outputs x inputs of a patch x patches; transposed, the patches are the input's places."
    cin, cout = cin * groups, cout * groups
    name = f"Conv{'Transpose' if transposed else ''}{dims}d"
    layer = getattr(nn, name)(cin, cout, k, stride, padding=pad, groups=groups, dilation=dilation)
    x = z(3, cin, *[size] * dims)
    with MODES[mode]():
        positions = size**dims if transposed else layer(x).shape[2:].numel()
        assert macs(layer, x) == 3 * groups * (cout // groups) * (cin // groups * k**dims) * positions


OPTIONS = [{}, {"is_causal": True}, {"attn_mask": torch.ones(5, 7, dtype=torch.bool)}, {"scale": 0.1}]
BACKENDS = {"default": None, "math": SDPBackend.MATH, "flash": SDPBackend.FLASH_ATTENTION}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: next(iter(o), "plain"))
def test_attention(backend, options, mode):
    "One number whatever kernel runs, heads of 12 included (some kernels pad them)."
    q, k, v = torch.randn(2, 3, 5, 12), torch.randn(2, 3, 7, 12), torch.randn(2, 3, 7, 12)
    choice = BACKENDS[backend]
    with sdpa_kernel(choice) if choice else warnings.catch_warnings():
        count = count_macs(lambda: F.scaled_dot_product_attention(q, k, v, **options))
        assert count.total == macs(lambda: F.scaled_dot_product_attention(query=q, key=k, value=v, **options)) == 2 * 3 * 5 * 7 * (12 + 12)
    assert count.by_operation().index.tolist() == ["attention"]


def test_attention_of_other_shapes(mode):
    q = torch.randn(2, 4, 5, 8)
    assert macs(lambda: F.scaled_dot_product_attention(q, q[:, :2], q[:, :2], enable_gqa=True)) == 2 * 4 * 5 * 5 * 16
    assert macs(lambda: F.scaled_dot_product_attention(q, q, q[..., :3])) == 2 * 4 * 5 * 5 * 11
    assert macs(lambda: F.scaled_dot_product_attention(q[0, 0], q[0, 0], q[0, 0])) == 5 * 5 * 16
    assert macs(lambda: F.scaled_dot_product_attention(q, q, q, dropout_p=0.5)) == 2 * 4 * 5 * 5 * 16
    assert macs(lambda: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, q, q)) == 2 * 4 * 5 * 5 * 16  # the kernel itself


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("weights", [False, True])
def test_multihead_attention(weights, train, mode):
    layer = nn.MultiheadAttention(16, 2, batch_first=True).train(train)
    x = torch.randn(3, 5, 16)
    assert macs(lambda: layer(x, x, x, need_weights=weights)) == 3 * (4 * 5 * 16**2 + 2 * 5**2 * 16)


@pytest.mark.parametrize("padding", [None, torch.arange(5)[None] > torch.tensor([[4], [2], [3]])], ids=["whole", "padded"])
@pytest.mark.parametrize("train", [False, True])
def test_fused_transformer_layer(train, padding, mode):
    "In eval mode PyTorch runs these layers as one kernel and skips padding; the count is that of the parts, on all tokens."
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 24, dropout=0, batch_first=True), 2).train(train)
    count = count_macs(lambda: net(torch.randn(3, 5, 16), src_key_padding_mask=padding), module=net)
    assert count.total == 3 * vit_macs(5, 16, 2, 24) and not count.uncounted
    assert count.by_module().loc["layers.*.linear1", "macs"] == 3 * 2 * 5 * 16 * 24


@pytest.mark.parametrize("kind, gates", [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
@pytest.mark.parametrize("both", [False, True])
def test_recurrent(kind, gates, both, mode):
    net = kind(6, 8, 2, bidirectional=both)
    ways = 1 + both
    assert macs(net, torch.randn(5, 3, 6)) == 5 * 3 * gates * ways * 8 * ((6 + 8) + (8 * ways + 8))


def test_recurrent_layers_of_cudnn():
    "Its operator takes all layers' weights in a list, biases too: those are not multiplied."
    formula = efficiency.FORMULAS["_cudnn_rnn"][1]
    net = nn.GRU(6, 8, 2, bidirectional=True)
    assert formula(None, z(5, 3, 6), list(net.parameters()), 4, None, z(4, 3, 8), None, 3) == macs(net, z(5, 3, 6))


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 4), min_size=3, max_size=3), kept=st.lists(st.sampled_from("bij"), unique=True))
def test_contractions(sizes, kept):
    "A product that sums over k multiplies b * i * j * k numbers; i and j, of one side only, are summed before where the result lacks them."
    (b, i, j), k = sizes, 3
    first, second = torch.zeros(b, i, k), torch.zeros(b, k, j)
    expected = b * (i if "i" in kept else 1) * (j if "j" in kept else 1) * k
    assert macs(lambda: torch.einsum(f"bik,bkj->{''.join(kept)}", first, second)) == expected


def test_autocast_changes_nothing():
    net = nn.Sequential(nn.Conv1d(4, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 10, 5))
    x = torch.randn(2, 4, 10)
    with torch.autocast("cpu", torch.bfloat16):
        assert macs(net, x) == 2 * (8 * 10 * 4 * 3 + 80 * 5)


@pytest.mark.parametrize("net, x", [
    (nn.Linear(4, 5), (3, 4)), (nn.Conv2d(4, 6, 3, stride=2, groups=2), (2, 4, 9, 9)), (nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2), (2, 4, 9)),
], ids=["linear", "conv", "transposed"])
def test_backward(net, x):
    "Each gradient, of the input and of the weight, costs a forward pass; the first layer's input needs none."
    forward = macs(net, torch.zeros(x))
    assert macs(lambda: net(torch.zeros(x)).sum().backward()) == 2 * forward
    count = count_macs(lambda: net(torch.zeros(x, requires_grad=True)).sum().backward(), module=net)
    assert count.total == 3 * forward and count.by_module().loc["(backward)", "macs"] == 2 * forward


def test_backward_of_attention():
    q = torch.randn(2, 3, 5, 8, requires_grad=True)
    one = 2 * 3 * 5 * 5 * 8
    for backend, products in ((SDPBackend.FLASH_ATTENTION, 2 + 5), (SDPBackend.MATH, 2 + 4)):  # the fused kernel makes the scores again
        with sdpa_kernel(backend):
            assert macs(lambda: F.scaled_dot_product_attention(q, q, q).sum().backward()) == products * one


# ---- the rest of the count ----------------------------------------------------------------------------------------------------------

def test_unknown_operations_are_named(mode):
    with pytest.warns(UserWarning, match=r"_linalg_svd \(2 x\)"):
        count = count_macs(lambda: [torch.linalg.svdvals(torch.rand(3, 4)) for _ in range(2)])
    assert count.uncounted == {"_linalg_svd": 2} and count.total == 0
    known = {"_linalg_svd": ("svd", lambda result, a, *_, **__: 7 * a.numel())}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        count = count_macs(torch.linalg.svdvals, torch.rand(3, 4), formulas=known)
    assert count.total == 84 and count.by_operation().macs.to_dict() == {"svd": 84}


@pytest.mark.parametrize("f", [lambda: torch.cdist(torch.rand(3, 4), torch.rand(5, 4)), lambda: torch.fft.rfft(torch.rand(8)),
                               lambda: F.bilinear(torch.rand(2, 3), torch.rand(2, 4), torch.rand(5, 3, 4))])
def test_heavy_operations_that_are_left_out(f):
    with pytest.warns(UserWarning, match="not counted as multiply-adds"):
        count_macs(f)


@pytest.mark.parametrize("name, heavy", [
    ("_cdist_forward", True), ("_linalg_eigh", True), ("_grouped_mm", True), ("conv_tbc", True), ("_flash_attention_forward", True), ("_trilinear", True),
    ("miopen_rnn", True), ("_sparse_mm", True), ("flash_attn::_forward", True), ("lgamma", False), ("_thnn_fused_gru_cell", False),
    ("_cudnn_rnn_flatten_weight", False), ("mkldnn_reorder_conv2d_weight", False), ("_convert_indices_from_csr_to_coo", False),
    ("upsample_bilinear2d", False), ("_fused_sdp_choice", False), ("prim::device", False), ("_nested_get_jagged_dummy", False), ("native_layer_norm", False),
])
def test_what_is_heavy(name, heavy):
    assert efficiency._is_heavy(name) == heavy


def test_operations_of_extensions_are_named():
    @torch.library.custom_op("efficiency_test::triple", mutates_args=())
    def triple(x: torch.Tensor) -> torch.Tensor:
        return x @ x @ x

    with pytest.warns(UserWarning, match="efficiency_test::triple"):
        assert count_macs(triple, torch.rand(3, 3)).total == 0
    assert count_macs(triple, torch.rand(3, 3), formulas={"efficiency_test::triple": ("mine", lambda result, x: 2 * len(x) ** 3)}).total == 54


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)) for _ in range(3))
        self.twin = nn.ModuleDict({"same": self.first})

    def forward(self, x):
        x = self.twin["same"](self.first(x))
        for block in self.blocks:
            x = block(x)
        return x @ x.mT


def test_breakdown_sums_to_the_total(mode):
    count = count_macs(Nested(), torch.zeros(2, 3, 4))
    assert count.total == count.rows.macs.sum() == 2 * (2 * 3 * 16 + 3 * 2 * 3 * 32 + 3 * 3 * 4)
    for table in (count.by_module(), count.by_module(1), count.by_module(2, merge=False), count.by_operation()):
        assert table.macs.sum() == count.total and abs(table.share.sum() - 1) < 1e-12
    assert count.by_module().macs.to_dict() == {"first": 192, "blocks.*.0": 576, "blocks.*.2": 576, "(itself)": 72}
    assert count.by_module(1).index.tolist() == ["first", "blocks", "(itself)"]
    mixed = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    assert count_macs(mixed, z(1, 4)).by_module().macs.to_dict() == {"0": 16, "1.*": 32}  # unlike parts keep their numbers
    assert count.by_module(merge=False).loc["blocks.1.2"].to_dict() == {"calls": 1, "macs": 192, "share": 192 / count.total}
    assert count.by_module().loc["first", "calls"] == 2 and count.gmac == count.total / 1e9


def test_breakdown_of_functions():
    net = Nested()
    outside = count_macs(lambda x: net(x) @ z(3, 3), torch.zeros(2, 3, 4)).by_module()
    assert "Nested.blocks.*.0" in outside.index and outside.loc["(itself)", "macs"] == 2 * 27
    method = Lode("tiny").eval()
    named = count_macs(method.features, clips()).by_module()
    assert {"encoder.embedding.proj", "encoder.blocks.*.attn", "encoder.blocks.*.mlp.fc1"} <= set(named.index)
    vit = method.encoder
    assert set(count_macs(vit.encode, torch.zeros(1, 5, 48)).by_module(1).index) == {"blocks"}


def test_shared_modules_go_by_where_they_are_called():
    class Layer(nn.Module):
        def __init__(self, attn):
            super().__init__()
            self.attn = attn

        def forward(self, x):
            return self.attn(x)

    shared = nn.Linear(4, 4)
    net = nn.Sequential(Layer(shared), Layer(shared))
    assert count_macs(net, z(2, 4)).by_module(merge=False).macs.to_dict() == {"0.attn": 32, "1.attn": 32}


def test_a_module_that_fails_is_left():
    class Broken(nn.Module):
        def forward(self, x):
            raise ValueError

    class Careful(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = Broken()

        def forward(self, x):
            try:
                return self.part(x)
            except ValueError:
                return x @ x

    assert count_macs(Careful(), z(3, 3)).by_module().macs.to_dict() == {"(itself)": 27}


def test_counting_leaves_no_trace():
    class Breaks(nn.Module):
        def forward(self, x):
            raise RuntimeError("no")

    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    state = torch.random.get_rng_state()
    count_macs(net, z(2, 4))
    assert torch.equal(state, torch.random.get_rng_state()) and net.training and torch.is_grad_enabled()
    with pytest.raises(RuntimeError, match="no"):
        count_macs(nn.Sequential(net, Breaks()), z(2, 4))
    registered = nn.modules.module
    assert not registered._global_forward_hooks and not registered._global_forward_pre_hooks
    assert torch.equal(state, torch.random.get_rng_state()) and count_macs(net, z(2, 4)).total == 32


def test_compiled_and_empty():
    net = torch.compile(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), backend="eager")
    assert macs(net, z(3, 4)) == 3 * (32 + 16)
    net(z(3, 4))
    count = count_macs(net, z(3, 4))
    assert count.by_module().macs.to_dict() == {"0": 96, "2": 48}  # compiled before
    nothing = count_macs(lambda: None)
    assert nothing.total == 0 and len(nothing.by_module()) == len(nothing.by_operation()) == 0


# ---- formulas of whole encoders -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("tokens, options, gmac", [  # specs/slim_snippet.md A6.1
    (750, dict(extra=750 * 12 * 256), 7.025), (755, dict(mlp=688, gated=True, extra=750 * 12 * 256), 7.112), (75, dict(extra=75 * 12 * 256), 0.495),
    (200, dict(extra=200 * 24 * 256), 1.423), (205, dict(extra=200 * 24 * 256), 1.463), (205, dict(mlp=688, gated=True, extra=200 * 24 * 256), 1.470),
])
def test_golden_counts(tokens, options, gmac):
    assert round(vit_macs(tokens, **options) / 1e9, 3) == gmac
    assert sum(vit_parts(tokens, **options).values()) == vit_macs(tokens, **options)


def test_golden_claims():
    mamp, slim = vit_macs(750, extra=750 * 12 * 256), vit_macs(205, mlp=688, gated=True, extra=200 * 24 * 256)
    assert round(4 * mamp / 1e9, 2) == 28.10 and round(4 * slim / 1e9, 2) == 5.88 and round(2 * slim / 1e9, 2) == 2.94
    assert round(mamp / slim, 2) == 4.78
    assert round(2 * vit_macs(205, mlp=1024, gated=True, products=1) / 1e9, 2) == 3.61


@settings(max_examples=15, deadline=None)
@given(units=st.integers(1, 4), unit=st.integers(1, 3), joints=st.integers(1, 5), heads=st.sampled_from([1, 2]), depth=st.integers(0, 3),
       mlp=st.integers(1, 40), persons=st.integers(1, 3), mode=st.sampled_from(list(MODES)))
def test_our_encoder_is_the_formula(units, unit, joints, heads, depth, mlp, persons, mode):
    net = SkeletonViT(joints, units * unit, unit, 3, 12, depth, heads, mlp)
    x = torch.randn(1, 3, units * unit, joints, 3)
    x[..., persons:] = 0
    tokens = units * joints
    with MODES[mode]():
        assert macs(net, x) == persons * vit_macs(tokens, 12, depth, mlp, extra=tokens * unit * 3 * 12)


def test_paper_size_for_one_and_two_persons():
    method = Lode("paper").eval()
    whole = vit_macs(750, extra=750 * 12 * 256)
    with torch.no_grad():
        assert macs(method.features, clips(120, 1)) == whole and macs(method.features, clips(120, 2)) == 2 * whole
        visible = torch.arange(0, 750, 10)[None]
        masked = macs(lambda x: method.encoder.encode(method.encoder.embed(x, visible)), clips(120)[..., 0])
    assert masked == vit_macs(75, extra=75 * 12 * 256) and round(masked / 1e9, 3) == 0.495


def test_a_training_step_is_counted():
    method = Lode("tiny")
    with pytest.warns(UserWarning, match="not counted"):  # the effective rank needs eigenvalues or singular values
        step = count_macs(lambda: method.losses(clips(32, n=2), Draws(0))["loss"].backward(), module=method)
    parts = step.by_module(1).macs
    assert parts["(backward)"] > 1.9 * parts["decoder"] > 0 and parts["encoder"] > 0 and parts.sum() == step.total


class Block(nn.Module):
    "ST-GCN's block as specs/actclr_usdrl.md A2.2 describes it."

    def __init__(self, cin, cout, stride, first):
        super().__init__()
        self.adjacency = nn.Parameter(torch.rand(3, 25, 25))
        self.gcn = nn.Conv2d(cin, 3 * cout, 1)
        self.tcn = nn.Sequential(nn.BatchNorm2d(cout), nn.ReLU(), nn.Conv2d(cout, cout, (9, 1), (stride, 1), (4, 0)), nn.BatchNorm2d(cout))
        same = first or (cin == cout and stride == 1)
        self.residual = None if same else nn.Sequential(nn.Conv2d(cin, cout, 1, (stride, 1)), nn.BatchNorm2d(cout))

    def forward(self, x):
        y = torch.einsum("nkctv,kvw->nctw", self.gcn(x).unflatten(1, (3, -1)), self.adjacency)
        y = self.tcn(y)
        return y if self.residual is None else y + self.residual(x)


@pytest.mark.parametrize("frames", [50, 64])
def test_stgcn(frames):
    widths = [(3, 16, 1), (16, 16, 1), (16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 256, 1)]
    net = nn.Sequential(*(Block(*w, i == 0) for i, w in enumerate(widths)))
    table = stgcn_blocks(frames)
    count = count_macs(net.to("meta"), torch.zeros(2, 3, frames, 25, device="meta"))  # two persons
    assert count.by_module(1, merge=False).macs.tolist() == (2 * table.macs).tolist()
    assert [sum(p.numel() for p in b.parameters()) - 1875 for b in net] == table.parameters.tolist()
    if frames == 50:
        assert round(count.gmac, 3) == 0.612 and round(2 * count.gmac, 3) == 1.225 and table.parameters.sum() + 150 + 18_750 == 821_380
        assert table.frames.tolist() == [50] * 4 + [25] * 3 + [13] * 3


@pytest.mark.parametrize("kind, net, gmac", [("dste", DSTE, 6.224), ("sttr", STTR, 1.601)])
def test_usdrl(kind, net, gmac):
    with torch.device("meta"):
        count = count_macs(net().eval(), torch.zeros(1, 3, 64, 25, 2))
    assert count.total == usdrl_macs(kind) and round(count.gmac, 3) == gmac
    x = torch.randn(2, 3, 8, 25, 1)
    assert macs(net(frames=8, dim=16, layers=3).eval(), x) == 2 * usdrl_macs(kind, 8, 50, 3, 16, 3)  # an absent person's joints cost as much


def test_usdrl_without_attention_products():
    assert round(usdrl_macs("dste", products=0) / 1e9, 2) == 6.14 and round(usdrl_macs("sttr", products=0) / 1e9, 2) == 1.57
    with pytest.raises(ParameterError, match="'dste' or 'sttr'"):
        usdrl_macs("stgcn")


# ---- parameters ---------------------------------------------------------------------------------------------------------------------

def test_params():
    net = Nested()
    net.blocks[0].requires_grad_(False)
    net.extra = nn.Parameter(torch.zeros(5))
    net.norm = nn.BatchNorm1d(3)
    table = params(net)
    assert table.loc["first"].tolist() == [20, 0, 0] and table.loc["twin"].tolist() == [0, 0, 0]  # shared: counted once
    assert table.loc["blocks"].tolist() == [2 * 76, 76, 0] and table.loc["norm"].tolist() == [6, 0, 7]
    assert table.loc["(itself)"].tolist() == [5, 0, 0] and table.loc["total"].tolist() == [20 + 152 + 6 + 5, 76, 7]
    assert table.loc["total"][["trainable", "frozen"]].sum() == sum(p.numel() for p in net.parameters())
    assert params(RawCoordinates()).loc["total"].tolist() == params(len).loc["total"].tolist() == [0, 0, 0]
    assert params(nn.Linear(2, 3)).loc["(itself)"].tolist() == [9, 0, 0]


def test_params_of_lode():
    table = params(Lode("paper"))
    assert table.loc["encoder", "trainable"] == 6_336_000 and table.loc["total", "trainable"] == 8_920_332
    table = params(Lode("paper").teacher)
    assert table.loc["total", "trainable"] == 0 and table.loc["total", "buffers"] >= 576 * 256


# ---- memory -------------------------------------------------------------------------------------------------------------------------

X = torch.zeros(1000)  # 4,000 bytes that were there before


def freed():
    a = X + 1
    b = torch.cat([a, a])  # 4,000 + 8,000
    del a
    c = b * 2  # 8,000 + 8,000
    del b
    return c.sum()


def kept():
    a = X + 1
    b = torch.cat([a, a])
    return a, b * 2  # 4,000 + 8,000 + 8,000


@pytest.mark.parametrize("f, expected", [
    (freed, 16_000), (kept, 20_000), (lambda: X.view(10, 100).T[2:], 0), (lambda: X.add_(0), 0), (lambda: (X + 1).add_(1).mul_(2), 4000),
    (lambda: [X + 1 for _ in range(5)], 20_000), (lambda: [(X + 1).sum() for _ in range(5)], 4000 + 5 * 4),
    (lambda: torch.zeros(10, dtype=torch.float64) + 1, 160),
    (lambda: (X + 1)[:10], 4000), (lambda: torch.addmm(z(2, 5), z(2, 3), z(3, 5)), 40 + 24 + 60 + 40), (lambda: None, 0),
    (lambda: (X + 1).half(), 6000), (lambda: (X + 1).contiguous(), 4000),
])
def test_peak_memory(f, expected, mode):
    with torch.no_grad() if mode == "grad" else warnings.catch_warnings():
        assert peak_memory(f) == expected


def test_peak_memory_with_gradients():
    "y = (w x)^2: forward w x (kept), its square; backward the gradients of the square, of w x, and of w."
    w = torch.ones(1000, requires_grad=True)
    assert peak_memory(lambda: (w * 2 + 1).sum()) == 8000  # neither product is kept: constants need only themselves
    assert peak_memory(lambda: w.exp().sin().exp()) == 12_000  # each is kept for its gradient
    with torch.no_grad():
        assert peak_memory(lambda: w.exp().sin().exp()) == 8000
    assert w.grad is None


def test_peak_memory_grows_with_the_batch():
    method = Lode("tiny").eval()
    with torch.no_grad():
        one, four = (peak_memory(partial(method.features, clips(32, n=n))) for n in (1, 4))
    assert 3.5 < four / one < 4.5
    assert peak_memory(lambda: method.features(clips(32)).clip.sum().backward()) > 3 * one


def test_peak_memory_sees_what_the_encoder_holds():
    "A hand count: Linear(4, 100) on 10 rows, then ReLU; the result of the layer is alive while ReLU makes its own."
    net = nn.Sequential(nn.Linear(4, 100), nn.ReLU())
    x = z(10, 4)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert peak_memory(lambda: net(x)) == 2 * 10 * 100 * 4


# ---- speed --------------------------------------------------------------------------------------------------------------------------

class Toy(nn.Module):
    "Counts what it sees; memory ends at `limit` clips."

    def __init__(self, limit=None):
        super().__init__()
        self.layer, self.norm, self.limit = nn.Linear(75, 8), nn.BatchNorm1d(8), limit

    def forward(self, x):
        if self.limit and len(x) >= self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        frames = self.layer(x[..., 0].permute(0, 2, 1, 3).flatten(2))
        return Features(self.norm(frames.mean(1)), frames)


def batch(n):
    return clips(8, n=n)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("train", [False, True])
def test_throughput(precision, train):
    net = Toy()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    speed = throughput(net, batch, (4, 2), seconds=0.01, warmup=1, precision=precision, train=train) if not train else \
        throughput(net, lambda n: batch(n + 1), (4, 2), seconds=0.01, warmup=1, precision=precision, train=train)
    assert speed.table.batch.tolist() == [1, 2, 4] and (speed.table.repeats >= 3).all() and (speed.table.note == "").all()
    assert (speed.table.clips_per_second - speed.table.batch / speed.table.milliseconds * 1e3).abs().max() < 1e-6 * speed.table.clips_per_second.max()
    assert speed.single["batch"] == 1 and speed.best["clips_per_second"] == speed.table.clips_per_second.max()
    assert (speed.device, speed.precision, speed.threads) == ("cpu", precision, torch.get_num_threads())
    assert net.training and net.layer.weight.grad is None and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("precision, kind", [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)])
@pytest.mark.parametrize("train", [False, True])
def test_throughput_runs_as_told(train, precision, kind):
    seen = set()

    class Tells(Toy):
        def forward(self, x):
            seen.add((torch.is_grad_enabled(), self.training, self.layer(x[..., 0].flatten(2)[:, 0, :75]).dtype))
            return super().forward(x)

    throughput(Tells(), lambda n: batch(n + 1), (1,), seconds=0.001, precision=precision, train=train)
    assert seen == {(train, train, kind)}


def test_throughput_ends_with_memory():
    speed = throughput(Toy(limit=4), batch, seconds=0.001, warmup=0, largest=64)
    assert speed.table.batch.tolist() == [1, 2, 4] and speed.table.note.tolist() == ["", "", "out of memory"]
    assert speed.table.clips_per_second.isna().tolist() == [False, False, True] and speed.best["batch"] in (1, 2)
    with pytest.raises(torch.OutOfMemoryError):
        throughput(Toy(limit=1), batch, seconds=0.001, warmup=0)


def test_throughput_doubles_until_it_no_longer_helps(monkeypatch):
    "Seconds per batch: 1, 1, 1, 2, 4, 8: from 4 clips on nothing is gained, and two doublings later it ends."
    seconds = {1: 1.0, 2: 1.0, 4: 1.0, 8: 2.0, 16: 4.0, 32: 8.0}
    sizes = []

    def fake(run, device, budget, warmup):
        return seconds[sizes[-1]], 3

    def made(n):
        sizes.append(n)
        return batch(n)

    monkeypatch.setattr(efficiency, "_median_seconds", fake)
    speed = throughput(Toy(), made)
    assert speed.table.batch.tolist() == [1, 2, 4, 8, 16] and speed.best["batch"] == 4 and speed.best["clips_per_second"] == 4
    assert throughput(Toy(), made, largest=3).table.batch.tolist() == [1, 2]
    assert throughput(Toy(), made, (16, 32, 8)).table.batch.tolist() == [1, 8, 16, 32]


def test_throughput_refuses():
    with pytest.raises(ParameterError, match="16-mixed needs a GPU"):
        throughput(Toy(), batch, (1,), precision="16-mixed")
    with pytest.raises(ParameterError, match="precision = 'half'"):
        throughput(Toy(), batch, (1,), precision="half")
    with pytest.raises(ParameterError, match="nothing to train"):
        throughput(RawCoordinates(), batch, (1,), train=True)


# ---- the table ----------------------------------------------------------------------------------------------------------------------

FIXED = ["parameters", "to_train", "gmac_1", "gmac_2", "fed", "not_counted"]


def test_efficiency_table():
    encoders = {"raw": RawCoordinates(), "lode": Lode("tiny"), "vit": SkeletonViT(frames=32, dim=16, depth=1, heads=2, mlp=8, persons="mean_over_M"),
                "dste": DSTE(frames=32, dim=16)}
    modes = {k: e.training for k, e in encoders.items()}
    table = efficiency_table(encoders, clips(32, 1), clips(32, 2), measure=False)
    assert list(table.columns) == FIXED and table.index.tolist() == list(encoders)
    one = vit_macs(200, 48, 2, 96, extra=200 * 12 * 48) / 1e9
    assert table.loc["lode", ["gmac_1", "gmac_2"]].tolist() == [one, 2 * one] and table.loc["raw", ["gmac_1", "gmac_2"]].tolist() == [0, 0]
    assert table.loc["vit", "gmac_1"] == table.loc["vit", "gmac_2"] and table.loc["dste", "gmac_1"] == table.loc["dste", "gmac_2"]
    assert table.loc["lode", "parameters"] == sum(p.numel() for p in encoders["lode"].encoder.parameters()) < table.loc["lode", "to_train"]
    assert table.loc["lode", "fed"] == "32 frames x 25 joints, 1 of 2 and 2 of 2 persons"
    assert {k: e.training for k, e in encoders.items()} == modes
    assert table.equals(efficiency_table(encoders, clips(32, 1), clips(32, 2), measure=False))


def test_efficiency_table_measured():
    class Odd(nn.Module):
        def features(self, x):
            return Features(torch.linalg.svdvals(x[..., 0].flatten(2)), x.mean((1, 4)))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = efficiency_table({"odd": Odd(), "lode": Lode("tiny")}, {"odd": clips(8, 1), "lode": clips(32, 1)}, {"odd": clips(8, 2), "lode": clips(32, 2)},
                                 seconds=0.001, batch_sizes=(1, 2), precision="bf16-mixed")
    assert list(table.columns)[: len(FIXED)] == FIXED and table.loc["odd", "not_counted"] == "_linalg_svd" and table.loc["lode", "not_counted"] == ""
    assert table.precision.tolist() == ["bf16-mixed"] * 2 and table.device.tolist() == ["cpu"] * 2 and table.memory_of.tolist() == ["tensors"] * 2
    assert (table[["clips_s_batch_1", "latency_ms", "clips_s_best", "peak_mb_batch_1", "peak_mb_best"]] > 0).all(axis=None)
    assert table.loc["lode", "weights_mb"] == 4 * table.loc["lode", "parameters"] / 1e6 and table.loc["odd", "weights_mb"] == 0
    assert table.best_batch.isin([1, 2]).all() and (table.clips_s_best >= table.clips_s_batch_1).all()


@pytest.mark.parametrize("one, two, message", [
    (clips(32, 2), clips(32, 2), "the clip for 1 person has 2 persons in it"), (clips(32, 1), clips(32, 1), "the clip for 2 persons has 1 persons in it"),
    (clips(32, 0), clips(32, 2), "has 0 persons"), (clips(32, 1, n=3), clips(32, 2), r"shape \(3, 3, 32, 25, 2\)"), (clips(32, 1)[0], clips(32, 2), "shape"),
])
def test_efficiency_table_refuses(one, two, message):
    with pytest.raises(DataError, match=message) as e:
        efficiency_table({"lode": Lode("tiny")}, one, two, measure=False)
    assert "'lode'" in e.value.place and "(1, C, T, V, M)" in e.value.remedy
