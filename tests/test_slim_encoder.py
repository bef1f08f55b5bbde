"""SLiM's encoder and head: sizes, rotation, masking, persons, and names of the release."""

import pytest
import torch
import torch.nn.functional as F

from skelnb.backbones.slim import DinoHead, SlimEncoder, cls_readouts, from_dinov2, gated_width, rotary, rotated, to_dinov2
from skelnb.errors import CheckpointError, DataError, ParameterError
from skelnb.evaluation.bank import _check_apart

TOY = dict(joints=5, unit=4, dim=24, depth=3, heads=2, mlp=32)


def make(seed=0, **changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = SlimEncoder(**TOY | changes).eval()
        with torch.no_grad():
            for p in encoder.parameters():  # first weights are small: make everything matter
                p.add_(0.3 * torch.randn_like(p))
        return encoder


def clips(n=4, frames=12, persons=1, seed=0):
    return torch.randn(n, 3, frames, 5, persons, generator=torch.Generator().manual_seed(seed))


def count(module): return sum(p.numel() for p in module.parameters())


def test_sizes_are_those_of_the_release():
    with torch.device("meta"):
        encoder = SlimEncoder()
        assert [count(m) for m in (encoder.tokens.embedding, encoder.blocks[0], encoder.norm, encoder)] == [6_400, 794_208, 512, 6_368_768]
        assert count(SlimEncoder(ffn="mlp")) == 6_333_184 and gated_width(1024) == 688
        assert count(DinoHead()) == 22_089_984 and count(encoder) + 2 * count(DinoHead()) == 50_548_736


def test_rotation_written_out():
    "RoFormer's matrix of 2 x 2 rotations, with pairs (i, i + d/2)."
    steps, joints, d, prefix = 3, 2, 8, 2
    x = torch.randn(1, 1, prefix + steps * joints, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float()
    expected = x.clone()
    for token in range(steps * joints):
        for i in range(d // 2):
            a = torch.tensor((token // joints) * 10_000 ** (-2 * i / d))
            p, q = x[0, 0, prefix + token, i], x[0, 0, prefix + token, i + d // 2]
            expected[0, 0, prefix + token, i], expected[0, 0, prefix + token, i + d // 2] = p * a.cos() - q * a.sin(), p * a.sin() + q * a.cos()
    made = rotated(x, rotary(steps, joints, d, prefix))
    torch.testing.assert_close(made, expected)
    assert torch.equal(made[:, :, :prefix], x[:, :, :prefix])


def test_products_know_the_difference_in_time_only():
    g = torch.Generator().manual_seed(1)
    q, k = (torch.randn(1, 1, 1, 8, generator=g).expand(-1, -1, 6, -1) for _ in range(2))
    score = (rotated(q, rotary(6, 1, 8)) @ rotated(k, rotary(6, 1, 8)).mT)[0, 0]
    for i in range(-5, 6):
        torch.testing.assert_close(score.diagonal(i), score.diagonal(i)[:1].expand(6 - abs(i)), atol=1e-5, rtol=1e-5)
    assert score[0].unique().numel() == 6
    low = rotated(q.bfloat16(), rotary(6, 1, 8))
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low, rotated(q.bfloat16().float(), rotary(6, 1, 8)).bfloat16())  # angles and products in float32


def test_the_order_of_steps_matters():
    encoder, x = make(), clips()[..., 0]
    cls, tokens = encoder.encode(x)
    reversed_steps = x.unflatten(2, (3, 4)).flip(2).flatten(2, 3)
    assert not torch.allclose(encoder.encode(reversed_steps)[0], cls, atol=1e-3)
    assert tokens.shape == (4, 15, 24) and encoder.encode(x[:, :, :4])[1].shape == (4, 5, 24)


def test_masked_content_does_not_leak_but_place_does():
    encoder, x, other = make(), clips()[..., 0], clips(seed=1)[..., 0]
    mask = torch.rand(4, 3, 5, generator=torch.Generator().manual_seed(2)) < 0.6
    filled = torch.where(mask.repeat_interleave(4, 1)[:, None], other, x)
    for a, b in zip(encoder.encode(x, mask), encoder.encode(filled, mask)):
        torch.testing.assert_close(a, b)
    assert not torch.allclose(encoder.encode(x, mask)[0], encoder.encode(filled)[0], atol=1e-3)
    everything = torch.ones(4, 3, 5, dtype=torch.bool)
    tokens = encoder.encode(x, everything)[1].unflatten(1, (3, 5))
    torch.testing.assert_close(tokens[0], tokens[1])  # nothing is left of the clip ...
    assert not torch.allclose(tokens[0, 0, 0], tokens[0, 0, 1], atol=1e-3)  # ... but its joint ...
    assert not torch.allclose(tokens[0, 0], tokens[0, 1], atol=1e-3)  # ... and its time
    x.requires_grad_()
    encoder.encode(x, mask)[0].sum().backward()
    assert (x.grad.unflatten(2, (3, 4)).abs().amax((1, 3)) > 0).eq(~mask).all()


def test_persons_are_summed_or_averaged_and_absent_ones_do_not_count():
    encoder, x = make(), clips(persons=2)
    x[0, ..., 1] = 0
    x[3] = 0
    alone = [encoder(x[i : i + 1, ..., m : m + 1]).clip[0] for i in range(3) for m in range(2)]
    total = torch.stack([alone[0], alone[2] + alone[3], alone[4] + alone[5], torch.zeros(24)])
    torch.testing.assert_close(encoder(x).clip, total)
    _check_apart(encoder, x[1:2])
    encoder.persons = "mean"
    torch.testing.assert_close(encoder(x).clip, total / torch.tensor([1, 2, 2, 1])[:, None])
    said = encoder(x)
    torch.testing.assert_close(said.frames, said.tokens.mean(2))


def test_four_vectors_of_the_linear_protocol():
    plain, full, x = make(), make(last=2, mean=True), clips()
    said = {name: read(full(x)) for name, read in cls_readouts(full).items()}
    assert {name: v.shape[1] for name, v in said.items()} == {"cls": 24, "cls_mean": 48, "cls2": 48, "cls2_mean": 72}
    one = plain(x)
    torch.testing.assert_close(said["cls_mean"], torch.cat([one.clip, one.tokens.mean((1, 2))], 1))
    torch.testing.assert_close(said["cls2_mean"], torch.cat([said["cls2"], one.tokens.mean((1, 2))], 1))
    z, angles = plain.tokens(x[..., 0]), rotary(3, 5, 12, 5)
    for block in plain.blocks[:2]:
        z = block(z, angles)
    torch.testing.assert_close(said["cls2"][:, :24], plain.norm(z)[:, 0])  # the earlier block, through the final norm
    with pytest.raises(ParameterError, match="mean token"):
        cls_readouts(plain)


def test_head_is_a_cosine_times_a_gain():
    torch.manual_seed(0)
    head, x = DinoHead(6, 11, hidden=7, bottleneck=5), torch.randn(9, 6)
    with torch.no_grad():
        head.gain.copy_(torch.linspace(0.5, 2, 11)[:, None])
    b = head.mlp[4](F.gelu(head.mlp[2](F.gelu(head.mlp[0](x)))))
    expected = F.cosine_similarity(b[:, None], head.direction[None], dim=-1) * head.gain[:, 0]
    torch.testing.assert_close(head(x), expected)
    torch.testing.assert_close(head.bottleneck(x) @ head.weight().T, expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert head.bottleneck(x).dtype == head.weight().dtype == torch.float32
    head(x).sum().backward()
    assert all(p.grad is not None for p in head.parameters())


def test_names_of_the_release_and_back():
    torch.manual_seed(0)
    encoder, heads = make(), [DinoHead(24, 11, 7, 5) for _ in range(2)]
    state = to_dinov2(encoder, *heads)
    assert {"backbone.blocks.2.mlp.w12.weight", "backbone.register_tokens", "ibot_head.last_layer.weight_g", "dino_head.mlp.4.bias"} <= set(state)
    conv = F.conv2d(clips()[..., 0], state["backbone.patch_embed.proj.weight"], state["backbone.patch_embed.proj.bias"], stride=(4, 1))
    torch.testing.assert_close(conv.flatten(2).mT, encoder.tokens.embedding(clips()[..., 0]))
    chunked = {k.replace("blocks.", "blocks.0.").replace("weight_g", "parametrizations.weight.original0"): v for k, v in state.items()}
    for given in (state, chunked):
        parts = from_dinov2(given)
        for module, part in zip((encoder, *heads), ("encoder", "cls_head", "token_head")):
            assert all(torch.equal(v, parts[part][k]) for k, v in module.state_dict().items()) and len(parts[part]) == len(module.state_dict())
    alone = from_dinov2({k.removeprefix("backbone."): v for k, v in to_dinov2(encoder).items()})
    make(1).load_state_dict(alone["encoder"])
    with pytest.raises(CheckpointError, match="unknown weight 'backbone.ls1"):
        from_dinov2({"backbone.ls1.gamma": torch.ones(1)})


def test_bad_input():
    for changes in (dict(ffn="relu"), dict(persons="max"), dict(last=4), dict(heads=5), dict(dim=6, heads=2)):
        with pytest.raises(ParameterError):
            make(**changes).encode(clips()[..., 0])
    for x in (clips()[:, :2], clips(frames=10), clips()[:, :, :, :4]):
        with pytest.raises(DataError, match="this SLiM takes"):
            make()(x)
    with pytest.raises(DataError, match="a mask of shape"):
        make()(clips(), torch.zeros(4, 15, dtype=torch.bool))
