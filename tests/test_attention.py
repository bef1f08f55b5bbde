"""Attention: what is watched is what is computed; what is shown is by joint and frame, in even shares."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import make_clip
from hypothesis import given
from hypothesis import strategies as st

import skelnb
from skelnb.backbones.dste import DSTE, STTR
from skelnb.backbones.features import Features
from skelnb.backbones.slim import SlimEncoder, rotary, rotated
from skelnb.backbones.vit import Attention as Layer
from skelnb.backbones.vit import SkeletonViT
from skelnb.data.windows import stitch, window_starts
from skelnb.errors import DataError, ParameterError
from skelnb.interface.attention import Watch, attention_map, attention_of, joint_shares, rollout, shares
from skelnb.interface.encoder import Encoder
from skelnb.methods.known import METHODS

STEPS, V = 6, 25


def clips(n=2, persons=2, frames=24, seed=0):
    return torch.randn(n, 3, frames, V, persons, generator=torch.Generator().manual_seed(seed))


def backbone(kind, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = kind(**options).eval()
        for p in made.parameters():  # first weights of some are so small that all attention is even
            p.data += 0.3 * torch.randn_like(p)
    return made


def vit(**options): return backbone(SkeletonViT, frames=24, dim=16, depth=2, heads=2, mlp=16, **options)
def slim(): return backbone(SlimEncoder, unit=4, dim=16, depth=2, heads=2, mlp=16)
def dste(kind=DSTE, **options): return backbone(kind, frames=24, dim=16, layers=2, **options)


def looked(encoder, x, layers="last"):
    return joint_shares(encoder, lambda: encoder(x), layers)


def encoder_of(name, **settings):
    kind, presets = METHODS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return Encoder(kind(presets.named("tiny", **settings)), "kinect_v2")


# ---- what is watched -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("contract", [True, False])
def test_the_map_is_the_one_that_was_used(contract, monkeypatch):
    "With one head the layer's output is A V: from the watched A it comes out again, contracted weights or not."
    monkeypatch.setattr(Layer, "contract", contract)
    layer, x = backbone(Layer, dim=8, heads=1), torch.randn(3, 40, 8)
    with torch.no_grad(), Watch() as watch:
        out = layer(x)
        (a,) = watch.maps
        v = layer.qkv(x).chunk(3, -1)[2]
        assert torch.allclose(layer.proj(a @ v), out, atol=1e-5)
    assert a.shape == (3, 40, 40) and torch.allclose(a.sum(-1), torch.ones(3, 40))


def test_nothing_changes_by_being_watched_and_nothing_is_watched_later():
    encoder, x = vit(), clips()
    with torch.no_grad():
        plain = encoder(x).tokens
        with Watch() as watch:
            assert torch.equal(encoder(x).tokens, plain)
        encoder(x)
    assert len(watch.maps) == 2


def test_masks_are_refused():
    q = torch.randn(1, 1, 4, 8)
    for more in ({"is_causal": True}, {"attn_mask": torch.ones(4, 4, dtype=torch.bool)}):
        with Watch(), pytest.raises(ParameterError, match="mask"):
            F.scaled_dot_product_attention(q, q, q, **more)


# ---- shares --------------------------------------------------------------------------------------------------------------------------------


def some_maps(seed, depth, tokens):
    return list(torch.randn(depth, 2, tokens, tokens, generator=torch.Generator().manual_seed(seed)).mul(2).softmax(-1))


@given(st.integers(0, 99), st.integers(1, 4), st.integers(3, 12), st.integers(0, 2), st.sampled_from(["last", "all"]))
def test_shares_are_even_on_average_and_follow_their_tokens(seed, depth, tokens, prefix, layers):
    maps = some_maps(seed, depth, tokens)
    found = shares(maps, layers, prefix)
    assert found.shape == (2, tokens - prefix) and torch.allclose(found.mean(1), torch.ones(2), atol=1e-5) and (found >= 0).all()
    order = torch.cat([torch.arange(prefix), prefix + torch.randperm(tokens - prefix, generator=torch.Generator().manual_seed(seed))])
    moved = shares([a[:, order][:, :, order] for a in maps], layers, prefix)
    assert torch.allclose(moved, found[:, order[prefix:] - prefix], atol=1e-4)


def test_rollout_is_the_product_of_half_maps():
    a, b, c = (m.double() for m in some_maps(0, 3, 5))
    even = torch.eye(5, dtype=torch.float64)
    assert torch.allclose(rollout([a, b, c]), (c + even) @ (b + even) @ (a + even) / 8)
    assert torch.allclose(rollout([a, b, c]).sum(-1), torch.ones(2, 5, dtype=torch.float64))


# ---- joints, each encoder computed once more by hand ---------------------------------------------------------------------------------------


def by_hand(layer, x, angles=None):
    "(n, L, L) of a module of attention for what enters it."
    q, k, _ = layer.qkv(x).unflatten(-1, (3, layer.heads, -1)).permute(2, 0, 3, 1, 4)
    if angles is not None:
        q, k = rotated(q, angles), rotated(k, angles)
    return torch.softmax(torch.einsum("nhid,nhjd->nhij", q, k) / q.shape[-1] ** 0.5, -1).mean(1)


@torch.no_grad()
def test_vit():
    encoder, x = vit(), clips()
    z = encoder.embed(x.movedim(-1, 1).flatten(0, 1))
    a = by_hand(encoder.blocks[1].attn, encoder.blocks[1].norm1(encoder.blocks[0](z))).mean(1)
    expected = (a / a.mean(1, keepdim=True)).reshape(2, 2, STEPS, V).transpose(1, 2)
    assert torch.allclose(looked(encoder, x), expected, atol=1e-4) and expected.std() > 0.05


@torch.no_grad()
def test_slim_asks_its_class_token():
    encoder, x = slim(), clips()
    z, prefix = encoder.tokens(x.movedim(-1, 1).flatten(0, 1)), encoder.tokens.prefix
    angles = rotary(STEPS, V, 8, prefix)
    a = by_hand(encoder.blocks[1].attn, encoder.blocks[1].norm1(encoder.blocks[0](z, angles)), angles)[:, 0, prefix:]
    expected = (a / a.mean(1, keepdim=True)).reshape(2, 2, STEPS, V).transpose(1, 2)
    assert torch.allclose(looked(encoder, x), expected, atol=1e-4) and expected.std() > 0.05


@torch.no_grad()
def test_sttr_multiplies_its_streams():
    encoder, x = dste(STTR), clips()
    rows = {"t": x.permute(0, 2, 4, 3, 1).flatten(2), "s": x.permute(0, 4, 3, 2, 1).flatten(3).flatten(1, 2)}
    share = {}
    for s, first, layers in (("t", encoder.position_t, encoder.layers_t), ("s", encoder.position_s, encoder.layers_s)):
        z = layers[0](getattr(encoder, f"embed_{s}")(rows[s]) + first)
        a = by_hand(layers[1].attn, z).mean(1)
        share[s] = a / a.mean(1, keepdim=True)
    expected = share["t"][:, :, None, None] * share["s"].reshape(2, 2, V)[:, None]
    assert torch.allclose(looked(encoder, x), expected, atol=1e-4) and expected.std() > 0.05


@pytest.mark.parametrize("alpha, looks", [(0.0, 2), (0.5, 3), (1.0, 1)])
@pytest.mark.parametrize("layers", ["last", "all"])
def test_dste_takes_the_mean_of_its_looks(alpha, looks, layers):
    encoder, x = dste(alpha=alpha), clips(3)
    with torch.no_grad(), Watch() as watch:
        encoder(x)
    assert [len(a) for a in watch.maps] == [3 * looks] * 4
    when, where = (shares([a.reshape(looks, 3, *a.shape[1:]).mean(0) for a in half], layers) for half in (watch.maps[:2], watch.maps[2:]))
    assert torch.allclose(looked(encoder, x, layers), when[:, :, None, None] * where.reshape(3, 1, 2, V), atol=1e-5)
    one = looked(encoder, x[..., :1], layers)
    assert one.shape == (3, 24, 2, V), "a missing second person is zeros to USDRL, and is looked at"


@pytest.mark.parametrize("make", [vit, slim, lambda: vit(persons="mean_over_M")])
def test_persons_are_told_apart_and_absent_ones_get_nothing(make):
    encoder, x = make(), clips(3)
    assert torch.allclose(looked(encoder, x.flip(-1)), looked(encoder, x).flip(2), atol=1e-5)
    x[0, ..., 1] = x[2] = 0
    found, alone = looked(encoder, x), looked(encoder, x[:1, ..., :1])
    assert torch.allclose(found[:1, :, :1], alone, atol=1e-5)
    if encoder.persons != "mean_over_M":
        assert not found[0, :, 1].any() and not found[2].any()


# ---- recordings ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", ["last", "all"])
@pytest.mark.parametrize("name", ["lode", "slim", "usdrl"])
def test_a_frame_has_the_mean_of_its_windows(name, layers):
    enc, clip = encoder_of(name), make_clip("two", 101, 2, seed=4)
    found = attention_of(clip, enc, layers=layers, stride=11, batch=3)
    starts = window_starts(101, enc.frames, 11)
    x = torch.from_numpy(np.stack([clip.xyz[s:s + enc.frames] for s in starts])).permute(0, 4, 1, 3, 2)
    places = 1 if name == "usdrl" else 2  # persons that the encoder takes
    share = joint_shares(enc.method.encoder, lambda: enc(x[..., :places]), layers)
    expected = stitch(share.repeat_interleave(enc.frames // share.shape[1], 1).flatten(2), starts, 101).reshape(101, places, V)
    assert found.weights.dtype == np.float32 and np.abs(found.weights[:, :places] - expected.numpy()).max() < 1e-4
    assert abs(found.weights[:, :places].mean() - 1) < 0.05 and not found.weights[:, places:].any() and found.layers == layers


def test_persons_of_a_recording():
    "Who is absent gets nothing, and neither does whom USDRL has no place for; a lone person is no matter."
    for persons in (1, 3):
        clip = make_clip("some", 60, persons, seed=4)
        clip.xyz[10:20, 0] = 0
        found = attention_of(clip, encoder_of("usdrl", persons=2)).weights
        assert found.shape == (60, persons, V) and not found[10:20, 0].any() and found[:10, 0].all()
        assert found[:, 1:2].all() and not found[:, 2:].any()


def test_another_skeleton_is_shown_as_the_encoder_sees_it():
    clip = make_clip("phone", 60, seed=4).to("coco17")
    found = skelnb.attention_of(clip, encoder_of("slim"))
    assert found.clip.layout == "kinect_v2" and found.weights.shape == (60, 1, V)
    table = found.table()
    assert set(table.columns) == {"joint", "share", "observed"} and table.share.is_monotonic_decreasing and not table.observed.all() and table.observed.any()
    first = table.joint[0]
    assert f"{first} " in repr(found) and "skelnb-player" in found._repr_html_()


def test_the_player_shows_it():
    found = attention_of(make_clip("one", 60, seed=4), encoder_of("slim"))
    found.weights[3, 0, 5] = 1000.0
    player = found.player(height=200, title="what it looks at")
    (view,) = player.views()
    assert player.title == "what it looks at" and view.weights.max() < 100, "one joint in one frame does not take the colours from all others"
    assert "even share" in found._repr_html_()


# ---- what cannot be ------------------------------------------------------------------------------------------------------------------------


def test_errors():
    clip = make_clip("one", 60, seed=4)
    with pytest.raises(ParameterError, match="STGCN has no attention"):
        attention_of(clip, encoder_of("actclr"))
    with pytest.raises(ParameterError, match="layers = 'lats'.*\n.*last"):
        attention_of(clip, encoder_of("slim"), layers="lats")
    with pytest.raises(DataError, match="a window"):
        attention_of(make_clip("short", 9), encoder_of("slim"))
    assert attention_of(make_clip("short", 9), encoder_of("slim"), short="pad").weights.shape == (9, 1, V)

    class Odd(torch.nn.Module):  # attention, but over tokens that are no joints
        def forward(self, x):
            z = x.flatten(1, 2).mean(-1)[:, None]
            said = F.scaled_dot_product_attention(z, z, z).transpose(1, 2)
            return Features.from_tokens(said) if self.tells else Features(said.mean((1, 2)), said.mean(2))

    odd = Odd()
    for odd.tells in (True, False):
        with pytest.raises(ParameterError, match="which token is which joint is unknown"):
            looked(odd, clips())
    assert attention_map(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4)).eq(1 / 3).all()
