"""The skeleton transformer: sizes, equivalences, precision; and the MAMP recipe written out once more as the reference."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from skelnb.backbones.features import Features, join_features, map_features
from skelnb.backbones.vit import Block, Decoder, SkeletonViT, UnitEmbed, drop_path, from_mamp, to_mamp
from skelnb.errors import CheckpointError, ParameterError
from skelnb.transforms.draws import Draws
from skelnb.transforms.masks import split_tokens, take

SMALL = dict(joints=5, frames=12, unit=4, dim=32, depth=2, heads=4, mlp=64)


def count(*modules):
    return sum(p.numel() for m in modules for p in m.parameters())


@pytest.fixture
def small():
    torch.manual_seed(0)
    return SkeletonViT(**SMALL), Decoder((3, 5), dim=32, depth=2, heads=4, mlp=64), nn.Linear(32, 12)


# ---- sizes and initial values


def test_parameter_counts():
    encoder, head = SkeletonViT(), nn.Linear(256, 12)
    assert encoder.grid == (30, 25) and count(encoder) == 6_336_000
    assert count(encoder.embedding) == 3_328 and count(Block(256, 8, 1024)) == 789_760
    assert count(Decoder(encoder.grid), head) == 2_453_004
    assert count(encoder, Decoder(encoder.grid), head) == 8_789_004
    assert count(encoder, Decoder(encoder.grid, depth=5), head) == 10_368_524


@pytest.mark.parametrize("frames, unit, joints, channels", [(120, 2, 25, 3), (120, 6, 25, 3), (60, 4, 20, 3), (120, 4, 13, 2)])
def test_other_dimensions(frames, unit, joints, channels):
    encoder = SkeletonViT(joints, frames, unit, channels, dim=32, depth=1, heads=2, mlp=32)
    features = encoder(torch.randn(2, channels, frames, joints, 1))
    assert encoder.grid == (frames // unit, joints)
    assert features.tokens.shape == (2, frames // unit, joints, 32) and features.frames.shape == (2, frames // unit, 32)


def test_initial_values():
    encoder = SkeletonViT()
    bound = 12**-0.5
    proj = encoder.embedding.proj
    assert 0.95 * bound < proj.weight.abs().max() <= bound and 0.9 * bound < proj.bias.abs().max() <= bound  # Conv2d's default
    qkv, fc1 = encoder.blocks[0].attn.qkv, encoder.blocks[7].mlp.fc1
    assert torch.isclose(qkv.weight.abs().max(), torch.tensor((6 / (256 + 768)) ** 0.5), rtol=1e-3) and (qkv.bias == 0).all()
    assert torch.isclose(fc1.weight.abs().max(), torch.tensor((6 / (256 + 1024)) ** 0.5), rtol=1e-3)
    assert abs(encoder.positions.temporal.std() - 0.02) < 1e-3 and encoder.norm.eps == 1e-5
    assert not any(isinstance(m, nn.Dropout) for m in encoder.modules())


def test_bad_sizes():
    with pytest.raises(ParameterError, match="units"):
        SkeletonViT(frames=121)
    with pytest.raises(ParameterError, match="heads"):
        SkeletonViT(dim=30, heads=4)
    with pytest.raises(ParameterError, match="persons"):
        SkeletonViT(persons="both")
    with pytest.raises(ParameterError, match="made for"):
        SkeletonViT(**SMALL)(torch.ones(1, 3, 16, 5, 1))


# ---- equivalences


def reference(state, x, visible, heads=4):
    "The published recipe, spelt out: convolution, softmax attention, mask tokens scattered over all places. (n, C, T, V) -> (n, L, 12)"

    def linear(name, z):
        return F.linear(z, state[name + ".weight"], state[name + ".bias"])

    def norm(name, z):
        return F.layer_norm(z, z.shape[-1:], state[name + ".weight"], state[name + ".bias"], 1e-5)

    def blocks(name, z, depth):
        for i in range(depth):
            b, (n, k, d) = f"{name}.{i}.", z.shape
            q, key, v = linear(b + "attn.qkv", norm(b + "norm1", z)).view(n, k, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
            weights = (q @ key.transpose(-2, -1) * (d // heads) ** -0.5).softmax(-1)
            z = z + linear(b + "attn.proj", (weights @ v).transpose(1, 2).reshape(n, k, d))
            z = z + linear(b + "mlp.fc2", F.gelu(linear(b + "mlp.fc1", norm(b + "norm2", z))))
        return z

    conv = state["joints_embed.proj.weight"]
    tokens = F.conv2d(x, conv, state["joints_embed.proj.bias"], stride=conv.shape[2:]).flatten(2).transpose(1, 2)
    tokens = tokens + (state["temp_embed"] + state["pos_embed"]).flatten(1, 2)
    seen = norm("norm", blocks("blocks", torch.stack([t[i] for t, i in zip(tokens, visible)]), 2))
    full = state["mask_token"].repeat(len(x), tokens.shape[1], 1)
    full[torch.arange(len(x))[:, None], visible] = linear("decoder_embed", seen)
    full = full + (state["decoder_temp_embed"] + state["decoder_pos_embed"]).flatten(1, 2)
    return linear("decoder_pred", norm("decoder_norm", blocks("decoder_blocks", full, 2)))


def test_same_numbers_as_the_published_recipe(small):
    encoder, decoder, head = (m.double() for m in small)
    x = torch.randn(4, 3, 12, 5, dtype=torch.float64)
    visible, masked = split_tokens(4, 15, 4, Draws(0))
    state = {name: value.clone().requires_grad_() for name, value in to_mamp(encoder, decoder, head).items()}
    ours = head(decoder(encoder.encode(encoder.embed(x, visible)), visible))
    theirs = reference(state, x, visible)
    assert torch.allclose(ours, theirs, atol=1e-12)
    for prediction in (ours, theirs):
        take(prediction, masked).square().mean().backward()
    grads = from_mamp({name: value.grad for name, value in state.items()})
    for part, module in zip(("encoder", "decoder", "head"), small):
        for name, p in module.named_parameters():
            assert torch.allclose(p.grad, grads[part][name], atol=1e-12), (part, name)


def test_embedding_visible_tokens_only(small):
    encoder = small[0]
    x, visible = torch.randn(4, 3, 12, 5), split_tokens(4, 15, 4, Draws(0))[0]
    assert torch.allclose(encoder.embed(x, visible), take(encoder.embed(x), visible), atol=1e-6)


def test_all_masked_tokens_as_query_equal_the_full_decoder(small):
    decoder = small[1]
    visible, masked = split_tokens(4, 15, 4, Draws(1))
    z, fill = torch.randn(4, 4, 32), torch.randn(4, 32)
    for condition in (None, fill):
        full = decoder(z, visible, fill=condition)
        assert full.shape == (4, 15, 32)
        assert torch.allclose(take(full, masked), decoder(z, visible, fill=condition, query=masked), atol=1e-5)
        few = decoder(z, visible, fill=condition, query=masked[:, [7, 2]])
        assert torch.allclose(few.flip(1), decoder(z, visible, fill=condition, query=masked[:, [2, 7]]), atol=1e-5)


def test_fill_is_per_sample(small):
    decoder = Decoder((3, 5), dim=32, depth=1, heads=4, mlp=64, mask_token=False)
    visible = split_tokens(2, 15, 4, Draws(1))[0]
    z, fill = torch.randn(2, 4, 32), torch.randn(2, 32)
    changed = torch.stack([fill[0], -fill[1]])
    a, b = decoder(z, visible, fill=fill), decoder(z, visible, fill=changed)
    assert torch.allclose(a[0], b[0], atol=1e-6) and not torch.allclose(a[1], b[1], atol=1e-3)
    assert decoder.mask_token is None and "mask_token" not in decoder.state_dict()
    with pytest.raises(ParameterError, match="mask token"):
        decoder(z, visible)


# ---- persons


@torch.no_grad()
def test_persons(small):
    encoder = small[0]
    x = torch.randn(4, 3, 12, 5, 2)
    x[0, ..., 1] = 0  # second absent
    x[1, ..., 0] = 0  # first absent
    x[2] = 0  # nobody
    first, second = encoder(x[..., :1]), encoder(x[..., 1:])
    both = encoder(x)
    assert torch.allclose(both.tokens[0], first.tokens[0], atol=1e-6) and torch.allclose(both.tokens[1], second.tokens[1], atol=1e-6)
    assert (both.tokens[2] == 0).all() and (first.tokens[2] == 0).all()
    assert torch.allclose(both.tokens[3], (first.tokens[3] + second.tokens[3]) / 2, atol=1e-6)
    assert torch.allclose(both.clip, both.tokens.mean((1, 2)), atol=1e-6)
    assert (encoder(torch.zeros(2, 3, 12, 5, 2)).clip == 0).all()

    parity = SkeletonViT(**SMALL, persons="mean_over_M")
    parity.load_state_dict(encoder.state_dict())
    empty = parity(torch.zeros(1, 3, 12, 5, 1)).tokens[0]
    assert torch.allclose(parity(x).tokens[0], (first.tokens[0] + empty) / 2, atol=1e-6)


# ---- precision, gradients, chance


@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16", "autocast"])
def test_precisions_and_gradients(small, precision):
    encoder, decoder, head = small
    dtype = torch.float32 if precision == "autocast" else getattr(torch, precision)
    for module in small:
        module.to(dtype)
    x = torch.randn(4, 3, 12, 5, 2).to(dtype)
    visible, masked = split_tokens(4, 15, 4, Draws(0))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "autocast"):
        z = encoder.encode(encoder.embed(x[..., 0], visible))
        condition = nn.Linear(32, 32).to(dtype)(z.mean(1))
        parts = [head(decoder(z, visible)), head(decoder(z, visible, fill=condition, query=masked[:, :5])), encoder(x).clip]
        loss = sum(p.float().square().mean() for p in parts)
    loss.backward()
    for module in small:
        for name, p in module.named_parameters():
            assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() > 0, name


def test_deterministic(small):
    encoder, decoder, _ = small

    def step():
        for module in (encoder, decoder):
            module.zero_grad()
        visible, masked = split_tokens(4, 15, 4, Draws(3))
        x = Draws(3).child("x").randn(4, 3, 12, 5)
        decoder(encoder.encode(encoder.embed(x, visible)), visible, query=masked).square().mean().backward()
        return [p.grad.clone() for p in encoder.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(step(), step()))


def test_drop_path():
    encoder = SkeletonViT(**SMALL | {"depth": 4}, drop_path=0.3)
    assert [b.rate for b in encoder.blocks] == pytest.approx([0, 0.1, 0.2, 0.3])
    x = torch.randn(64, 3, 12, 5, 1)
    assert torch.equal(encoder.eval()(x).clip, encoder(x).clip)
    torch.manual_seed(0)
    first = encoder.train()(x).clip
    torch.manual_seed(0)
    assert torch.equal(first, encoder(x).clip) and not torch.equal(first, encoder(x).clip)
    z = drop_path(torch.ones(20_000, 2, 3), 0.25)
    assert torch.equal(z, z[:, :1, :1].expand_as(z)) and abs(z.mean() - 1) < 0.02  # per sample


# ---- weights and features


def test_mamp_weights_round_trip(small):
    encoder, decoder, head = small
    state = to_mamp(encoder, decoder, head)
    assert state["joints_embed.proj.weight"].shape == (32, 3, 4, 1) and "blocks.1.attn.qkv.weight" in state and "decoder_pred.bias" in state
    parts = from_mamp(state)
    for part, module in zip(("encoder", "decoder", "head"), small):
        own = module.state_dict()
        assert own.keys() == parts[part].keys() and all(torch.equal(own[k], parts[part][k]) for k in own)
    again = {k: v.clone() for k, v in state.items()}
    embed = UnitEmbed(4, 3, 32)
    embed.load_state_dict({k.removeprefix("embedding."): v for k, v in parts["encoder"].items() if k.startswith("embedding.")})
    x = torch.randn(2, 3, 12, 5)
    conv = F.conv2d(x, again["joints_embed.proj.weight"], again["joints_embed.proj.bias"], stride=(4, 1))
    assert torch.allclose(embed(x), conv.flatten(2).transpose(1, 2), atol=1e-5)
    assert from_mamp(to_mamp(encoder))["decoder"] == {}
    with pytest.raises(CheckpointError, match="cls_token"):
        from_mamp({"cls_token": torch.zeros(1)})


def test_features():
    f = Features.from_tokens(torch.randn(2, 3, 5, 8))
    assert torch.equal(f.per_frame(), f.frames) and torch.equal(f.per_frame("concat")[1, 2, 8:16], f.tokens[1, 2, 1])
    both = join_features([f, map_features(lambda z: z + 1, f)])
    assert both.clip.shape == (4, 8) and torch.equal(both.tokens[2:], f.tokens + 1)
    bare = Features(f.clip, f.frames)
    assert join_features([bare, bare]).tokens is None and map_features(torch.clone, bare).tokens is None
    with pytest.raises(ParameterError):
        bare.per_frame("concat")
    with pytest.raises(ParameterError):
        f.per_frame("sum")
