"""The two-stream encoders of USDRL: sizes, equations written out, switches, and weights of the release."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from skelnb.backbones.dste import DSTE, STTR, DenseLayer, DenseShift, from_usdrl, spatial_tokens, temporal_tokens, to_usdrl
from skelnb.backbones.vit import drop_path
from skelnb.errors import CheckpointError, ParameterError

SMALL = dict(joints=5, persons=2, frames=8, dim=16)


def count(module):
    return sum(p.numel() for p in module.parameters())


def clips(n=3, frames=8, joints=5, persons=2, seed=0):
    return torch.randn(n, 3, frames, joints, persons, generator=torch.Generator().manual_seed(seed))


def test_parameters_are_those_of_the_paper():
    with torch.device("meta"):
        assert count(DSTE()) == 57_137_368 and count(STTR()) == 27_713_536
        assert count(DenseLayer(64, 1024)) == 13_659_264 and count(DenseLayer(50, 1024)) == 13_656_044
        assert count(DSTE(layers=3)) - count(DSTE()) == 13_659_264 + 13_656_044  # the release ignores its number of layers
        assert count(DSTE(heads=8)) == count(DSTE())


def test_tokens():
    x = clips()
    t, s = temporal_tokens(x), spatial_tokens(x)
    assert t.shape == (3, 8, 30) and s.shape == (3, 10, 24)
    for m, v, frame, c in ((0, 0, 0, 0), (1, 3, 5, 2), (0, 4, 7, 1)):
        assert torch.equal(t[:, frame, (m * 5 + v) * 3 + c], x[:, c, frame, v, m])
        assert torch.equal(s[:, m * 5 + v, frame * 3 + c], x[:, c, frame, v, m])


def attention(layer, x):
    "torch's own multi-head attention with the layer's weights."
    d = x.shape[-1]
    mha = nn.MultiheadAttention(d, layer.attn.heads, batch_first=True)
    mha.load_state_dict({"in_proj_weight": layer.attn.qkv.weight, "in_proj_bias": layer.attn.qkv.bias,
                         "out_proj.weight": layer.attn.proj.weight, "out_proj.bias": layer.attn.proj.bias})
    return mha(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize("options", [{}, {"shift": "paper"}, {"fuse": "sum"}, {"conv": "depthwise", "kernel": 5}, {"heads": 4}, {"gap": 3},
                                     {"alpha": 0.0}, {"alpha": 1.0}, {"alpha": 0.2}], ids=str)
def test_a_layer_is_its_equations(options):
    layer, x = DenseLayer(9, 16, **options).eval(), torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(0))
    expected = 0
    if layer.ca:
        u = x + F.relu(layer.conv(x.transpose(1, 2)).transpose(1, 2))
        v = x + attention(layer, layer.ca.norm1(u))
        expected = layer.alpha * layer.ca.mlp(layer.ca.norm2(v))
    if layer.dsa:
        mixed = x + layer.shift.wt2(F.relu(layer.shift.wt1(x.transpose(1, 2)))).transpose(1, 2)
        every = torch.arange(9) % options.get("gap", 4) == 0
        h = torch.where((every if options.get("shift") != "paper" else ~every)[:, None], x, mixed)

        def phi(s):
            s = s + attention(layer, layer.dsa.norm1(s))
            return s + layer.dsa.mlp(layer.dsa.norm2(s))

        both = phi(h) + phi(x)
        expected = expected + (1 - layer.alpha) * (both if options.get("fuse") == "sum" else both / 2)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_switches_change_the_result():
    torch.manual_seed(0)
    base = DSTE(**SMALL).eval()
    x = clips()
    for options in ({"shift": "paper"}, {"fuse": "sum"}, {"alpha": 0.3}, {"heads": 2}, {"gap": 2}):
        other = DSTE(**SMALL, **options).eval()
        other.load_state_dict(base.state_dict())
        assert not torch.allclose(other(x).clip, base(x).clip, atol=1e-5), options
    assert not any("dsa" in n or "shift" in n for n, _ in DSTE(**SMALL, alpha=1.0).named_parameters())
    assert not any("ca." in n or "conv" in n for n, _ in DSTE(**SMALL, alpha=0.0).named_parameters())


@pytest.mark.parametrize("make", [DSTE, STTR])
def test_features(make):
    encoder, x = make(**SMALL).eval(), clips()
    y_t, y_s = encoder.dense(x)
    f = encoder(x)
    assert y_t.shape == (3, 8, 16) and y_s.shape == (3, 10, 16) and f.tokens is None
    assert torch.equal(f.clip, torch.cat([y_t.amax(1), y_s.amax(1)], 1)) and torch.equal(f.frames[..., :16], y_t)
    assert f.frames.shape == (3, 8, 32)
    torch.testing.assert_close(encoder(x[..., :1]).clip, encoder(F.pad(x[..., :1], (0, 1))).clip)
    torch.testing.assert_close(encoder(x[1:2]).clip, f.clip[1:2], rtol=1e-4, atol=1e-5)  # clips do not see each other
    assert encoder.persons_apart is False


def test_positions_are_added_before_each_layer_or_once():
    x = clips()
    for make, again in ((DSTE, True), (STTR, False)):
        encoder = make(**SMALL).eval()
        tokens = encoder.embed_s(spatial_tokens(x))
        for i, layer in enumerate(encoder.layers_s):
            tokens = layer(tokens + encoder.position_s * (again or i == 0))
        torch.testing.assert_close(encoder.dense(x)[1], tokens)


def test_sttr_is_torchs_transformer():
    encoder = STTR(**SMALL).eval()
    theirs = nn.TransformerEncoderLayer(16, 1, 16, 0.0, batch_first=True).eval()
    ours, z = encoder.layers_t[0], torch.randn(2, 8, 16)
    names = {"self_attn.in_proj_": "attn.qkv.", "self_attn.out_proj.": "attn.proj."}
    state = {}
    for name in theirs.state_dict():
        key = next((new + name[len(old):] for old, new in names.items() if name.startswith(old)), name)
        state[name] = ours.state_dict()[key]
    theirs.load_state_dict(state)
    torch.testing.assert_close(ours(z), theirs(z), rtol=1e-4, atol=1e-5)


def test_every_weight_learns_and_drop_path_drops_whole_samples():
    torch.manual_seed(0)
    encoder = DSTE(**SMALL, drop_path=0.0)
    f = encoder(clips())
    (f.clip.square().mean() + f.frames.square().mean()).backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []
    dropped = drop_path(torch.ones(400, 2, 3), 0.25)
    assert set(dropped.flatten(1).std(1).tolist()) == {0.0} and 0.15 < (dropped[:, 0, 0] == 0).float().mean() < 0.35


def test_bf16_is_close():
    encoder, x = DSTE(**SMALL).eval(), clips()
    with torch.autocast("cpu", torch.bfloat16):
        low = encoder(x).clip
    assert F.cosine_similarity(low.float(), encoder(x).clip).min() > 0.99


def official_keys():
    "Names of the released state, from its layout (specification, section C2)."
    layer = ["CA.attn.in_proj_weight", "CA.attn.in_proj_bias", "CA.attn.out_proj.weight", "CA.attn.out_proj.bias", "CA.conv1.weight", "CA.conv1.bias"]
    layer += [k.replace("CA", "DSA") for k in layer[:4]]
    layer += [f"{b}.{m}.{w}" for b in ("CA", "DSA") for m in ("norm1", "norm2", "mlp.fc1", "mlp.fc2") for w in ("weight", "bias")]
    layer += [f"DSA.{m}.{w}" for m in ("wt1", "wt2") for w in ("weight", "bias")]
    names = [f"ske_emb.{s}_embedding.{i}.{w}" for s in "ts" for i in (0, 1, 3) for w in ("weight", "bias")] + ["tpe.pe", "spe"]
    return set(names) | {f"{s}_tr{i}.{k}" for s in "ts" for i in ("", "1") for k in layer}


def test_weights_of_the_release_round_trip():
    torch.manual_seed(0)
    a, b = DSTE(**SMALL).eval(), DSTE(**SMALL).eval()
    state = to_usdrl(a)
    assert set(state) == official_keys()
    b.load_state_dict(from_usdrl({f"module.backbone.{k}": v for k, v in state.items()} | {"module.i_proj.0.weight": torch.ones(1)}, b))
    assert torch.equal(a(clips()).frames, b(clips()).frames)
    state["t_tr.DSA.attn.in_proj_bias"] = state["t_tr.DSA.attn.in_proj_bias"] + 1
    with pytest.raises(CheckpointError, match="two copies of layers_t.0.attn.qkv.bias differ"):
        from_usdrl(state, b)
    del state["spe"]
    with pytest.raises(CheckpointError, match="has no spe"):
        from_usdrl(state, b)
    with pytest.raises(CheckpointError, match=r"as \(1, 10, 16\), not \(1, 10, 32\)"):
        from_usdrl(to_usdrl(a), DSTE(**SMALL | {"dim": 32}))


def test_bad_input():
    encoder = DSTE(**SMALL)
    for x in (clips(frames=9), clips(joints=6), clips(persons=3)):
        with pytest.raises(ParameterError, match="for an encoder made for"):
            encoder(x)
    for options in ({"shift": "code"}, {"gap": 0}, {"fuse": "max"}, {"alpha": 1.5}, {"conv": "pointwise", "kernel": 3}, {"conv": "depthwise", "kernel": 2}):
        with pytest.raises(ParameterError):
            DSTE(**SMALL, **options)
    assert isinstance(DenseShift(8)(torch.zeros(1, 8, 4)), torch.Tensor)
