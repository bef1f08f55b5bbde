"""Weights of the papers' authors: names and shapes as published, forward passes written out, every fault listed; and the Hub, offline."""

import argparse
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import make_clip
from safetensors.torch import save_file
from test_stgcn import Plain

import skelnb
from skelnb.backbones.stgcn import graph
from skelnb.errors import CheckpointError, ParameterError
from skelnb.interface import weights
from skelnb.interface.weights import RELEASES, convert_official, from_hub, hub_encoder, push_to_hub, read_official

SMALL = {
    "aimclr": dict(width=4, dim=24, projection=8, queue=16), "actclr": dict(width=4, dim=24, projection=8, top_k=8),
    "usdrl": dict(dim=16, frames=16, min_frames=16, projection=8, projection_instance=8),
    "slim": dict(dim=16, depth=2, heads=2, mlp=32), "mamp": dict(dim=16, depth=2, heads=2, mlp=32, frames=40),
}


def drawn(shapes):
    "Numbers for names and shapes; variances are positive."
    g = torch.Generator().manual_seed(0)
    return {k: torch.rand(s, generator=g) + 0.5 if "running_var" in k else torch.randn(s, generator=g) * 0.3 for k, s in shapes.items()}


def linear_names(name, o, i):
    return {f"{name}.weight": (o, i), f"{name}.bias": (o,)}


def norm_names(*names, d):
    return {f"{n}.{part}": (d,) for n in names for part in ("weight", "bias")}


# ---- names and shapes as published (specification, section 4.1) ------------------------------------------------------------------------------


def graph_state(width=4, d=24, keys=8, branches=("encoder_q.", "encoder_k."), head="projector", conv=True):
    one = {k: tuple(v.shape) for k, v in Plain(graph("kinect_v2"), width=width, out=d).state_dict().items() if not k.endswith("batches_tracked")}
    tail = (1, 1) if conv else ()
    one |= {"fc.0.weight": (d, d, *tail), "fc.0.bias": (d,), "fc.2.weight": (keys, d, *tail), "fc.2.bias": (keys,)} if head == "projector" else \
        {"fc.weight": (60, d, *tail), "fc.bias": (60,)}
    state = drawn({b + k: s for b in branches for k, s in one.items()})
    return state | {b + "A": graph("kinect_v2") for b in branches}


def usdrl_state(d=16, t=16, tokens=50, keys=8):
    shapes = {"backbone.spe": (1, tokens, d)}
    for stream, inputs, length in (("t", 150, t), ("s", 3 * t, tokens)):
        e = f"backbone.ske_emb.{stream}_embedding."
        shapes |= linear_names(e + "0", d, inputs) | norm_names(e + "1", d=d) | linear_names(e + "3", d, d)
        for layer in (f"backbone.{stream}_tr.", f"backbone.{stream}_tr1."):
            shapes |= {layer + "CA.attn.in_proj_weight": (3 * d, d), layer + "CA.attn.in_proj_bias": (3 * d,)} | linear_names(layer + "CA.attn.out_proj", d, d)
            for part in ("CA.", "DSA."):
                shapes |= norm_names(layer + part + "norm1", layer + part + "norm2", d=d)
                shapes |= linear_names(layer + part + "mlp.fc1", 2 * d, d) | linear_names(layer + part + "mlp.fc2", d, 2 * d)
            shapes |= {layer + "CA.conv1.weight": (d, d, 1), layer + "CA.conv1.bias": (d,)}
            shapes |= linear_names(layer + "DSA.wt1", length, length) | linear_names(layer + "DSA.wt2", length, length)
    for head, inputs in (("i_proj", 2 * d), ("t_proj", d), ("s_proj", d)):
        for i, width in ((0, inputs), (3, keys), (6, keys)):
            shapes |= linear_names(f"{head}.{i}", keys, width)
        for i in (1, 4):
            shapes |= norm_names(f"{head}.{i}", d=keys) | {f"{head}.{i}.running_mean": (keys,), f"{head}.{i}.running_var": (keys,)}
    state = drawn(shapes) | {"backbone.tpe.pe": torch.zeros(1, 200, d)}
    return state | {k.replace("CA.attn", "DSA.attn"): v for k, v in state.items() if "CA.attn" in k}


def vit_state(d=16, depth=2, decoder=3, mlp=32, units=10):
    def block(name):
        return (norm_names(f"{name}.norm1", f"{name}.norm2", d=d) | linear_names(f"{name}.attn.qkv", 3 * d, d) | linear_names(f"{name}.attn.proj", d, d)
                | linear_names(f"{name}.mlp.fc1", mlp, d) | linear_names(f"{name}.mlp.fc2", d, mlp))

    shapes = {"temp_embed": (1, units, 1, d), "pos_embed": (1, 1, 25, d), "joints_embed.proj.weight": (d, 3, 4, 1), "joints_embed.proj.bias": (d,)}
    shapes |= {k: s for i in range(depth) for k, s in block(f"blocks.{i}").items()} | norm_names("norm", d=d)
    if decoder:
        shapes |= {"mask_token": (1, 1, d), "decoder_temp_embed": (1, units, 1, d), "decoder_pos_embed": (1, 1, 25, d)} | linear_names("decoder_embed", d, d)
        shapes |= {k: s for i in range(decoder) for k, s in block(f"decoder_blocks.{i}").items()}
        shapes |= norm_names("decoder_norm", d=d) | linear_names("decoder_pred", 12, d)
    return drawn(shapes)


def slim_state(d=16, depth=2, hidden=24):
    shapes = {"cls_token": (1, 1, d), "pos_embed": (1, 26, d), "register_tokens": (1, 4, d), "mask_token": (1, d), "patch_embed.proj.weight": (d, 3, 8, 1),
              "patch_embed.proj.bias": (d,)} | norm_names("norm", d=d)
    for i in range(depth):
        b = f"blocks.{i}."
        shapes |= norm_names(b + "norm1", b + "norm2", d=d) | linear_names(b + "attn.qkv", 3 * d, d) | linear_names(b + "attn.proj", d, d)
        shapes |= linear_names(b + "mlp.w12", 2 * hidden, d) | linear_names(b + "mlp.w3", d, hidden)
    return drawn(shapes)


def write(path, state, form="pt"):
    if form == "safetensors":
        save_file({k: v.contiguous() for k, v in state.items()}, path)
    else:
        torch.save(state, path)
    return path


def said_of(enc, x):
    with torch.no_grad():
        return enc.method.encoder(x)


def linear(state, name, z): return F.linear(z, state[name + ".weight"], state[name + ".bias"])
def norm(state, name, z, eps=1e-5): return F.layer_norm(z, z.shape[-1:], state[name + ".weight"], state[name + ".bias"], eps)


def attend(q, k, v): return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v


# ---- forward passes, written out under the authors' names ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["aimclr", "actclr"])
def test_graph_networks(name, tmp_path):
    state = graph_state(conv=name == "actclr") | {"queue": torch.randn(8, 16), "queue_ptr": torch.tensor([3])}
    state |= {"mu": torch.ones(2), "slot_attn.q.weight": torch.ones(2, 2)} if name == "actclr" else {}
    enc = convert_official(name, write(tmp_path / "a.pt", {f"module.{k}": v for k, v in state.items()}), **SMALL[name] | {"queue": 16})
    plain = Plain(graph("kinect_v2"), width=4, out=24).eval()
    plain.load_state_dict({k[10:]: v for k, v in state.items() if k.startswith("encoder_q.") and ".fc." not in k}, strict=False)
    x = torch.randn(3, 3, 20, 25, 2)
    with torch.no_grad():
        h, clip = plain(x)
        key = linear({k: v.flatten(1) if v.ndim > 1 else v for k, v in state.items()}, "encoder_q.fc.0", clip)
        torch.testing.assert_close(enc.method.projector[0](clip), key, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(said_of(enc, x).clip, clip, rtol=1e-3, atol=1e-4)
    assert torch.equal(enc.method.bank.queue.T, state["queue"]) and enc.method.bank.pointer == 3
    assert enc.about["left_out"] == ([] if name == "aimclr" else ["mu", "slot_attn.q.weight"]) and enc.about["licence"] == "mit"


@pytest.mark.parametrize("branches", [("encoder_q.",), ("",)])
def test_a_graph_network_with_a_classifier(branches, tmp_path):
    state = graph_state(branches=branches, head="classifier")
    enc = convert_official("actclr", write(tmp_path / "a.pt", state), **SMALL["actclr"])
    plain = Plain(graph("kinect_v2"), width=4, out=24).eval()
    plain.load_state_dict({k.removeprefix(branches[0]): v for k, v in state.items() if "fc." not in k}, strict=False)
    x = torch.randn(2, 3, 12, 25, 1)
    with torch.no_grad():
        torch.testing.assert_close(said_of(enc, x).clip, plain(x)[1], rtol=1e-3, atol=1e-4)
    assert len(enc.about["left_out"]) == 2


@pytest.mark.parametrize("form", ["whole", "encoder"])
def test_mamp(form, tmp_path):
    state = vit_state(decoder=3 if form == "whole" else 0)
    file = write(tmp_path / "c.pth", {"model": state, "epoch": 400, "args": argparse.Namespace(lr=1e-3)})
    enc = convert_official("mamp", file, **SMALL["mamp"])
    x = torch.randn(2, 3, 40, 25)
    z = F.conv2d(x, state["joints_embed.proj.weight"], state["joints_embed.proj.bias"], stride=(4, 1)).flatten(2).transpose(1, 2)
    z = z + (state["temp_embed"] + state["pos_embed"]).flatten(1, 2)
    for b in ("blocks.0.", "blocks.1."):
        q, k, v = linear(state, b + "attn.qkv", norm(state, b + "norm1", z)).view(2, 250, 3, 2, 8).permute(2, 0, 3, 1, 4)
        z = z + linear(state, b + "attn.proj", attend(q, k, v).transpose(1, 2).flatten(2))
        z = z + linear(state, b + "mlp.fc2", F.gelu(linear(state, b + "mlp.fc1", norm(state, b + "norm2", z))))
    torch.testing.assert_close(said_of(enc, x[..., None]).tokens.flatten(1, 2), norm(state, "norm", z), rtol=1e-3, atol=1e-4)
    assert enc.method.preset.decoder_depth == 3 and "do not pass on" in enc.about["licence"]
    if form == "whole":
        assert torch.equal(enc.method.to_frame.weight, state["decoder_pred.weight"]) and torch.equal(enc.method.decoder.mask_token, state["mask_token"])


@pytest.mark.parametrize("form", ["safetensors", "teacher"])
def test_slim(form, tmp_path):
    state = slim_state()
    given = state if form == "safetensors" else {"teacher": {f"backbone.{k}": v for k, v in state.items()}}
    file = write(tmp_path / f"m.{'pth' if form == 'teacher' else form}", given, form)
    enc = convert_official("slim", file, **SMALL["slim"])
    x = torch.randn(2, 3, 64, 25)
    z = F.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=(8, 1)) + state["pos_embed"][0, 1:].T[None, :, None]
    front = torch.cat([state["cls_token"] + state["pos_embed"][:, :1], state["register_tokens"]], 1).expand(2, -1, -1)
    z = torch.cat([front, z.flatten(2).transpose(1, 2)], 1)
    time = torch.cat([torch.zeros(5), torch.arange(8.0).repeat_interleave(25)])  # class token and registers do not turn
    turn = torch.polar(torch.ones(205, 4), time[:, None] * 10_000.0 ** (-torch.arange(4) / 4))

    def rotated(v):  # pairs (i, i + d / 2) as complex numbers
        w = torch.complex(*v.chunk(2, -1)) * turn
        return torch.cat([w.real, w.imag], -1)

    for b in ("blocks.0.", "blocks.1."):
        q, k, v = linear(state, b + "attn.qkv", norm(state, b + "norm1", z, 1e-6)).view(2, 205, 3, 2, 8).permute(2, 0, 3, 1, 4)
        z = z + linear(state, b + "attn.proj", attend(rotated(q), rotated(k), v).transpose(1, 2).flatten(2))
        gate, value = linear(state, b + "mlp.w12", norm(state, b + "norm2", z, 1e-6)).chunk(2, -1)
        z = z + linear(state, b + "mlp.w3", F.silu(gate) * value)
    z = norm(state, "norm", z, 1e-6)
    said = said_of(enc, x[..., None])
    torch.testing.assert_close(said.clip, torch.cat([z[:, 0], z[:, 5:].mean(1)], 1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(said.tokens.flatten(1, 2), z[:, 5:], rtol=1e-3, atol=1e-4)
    assert torch.equal(enc.method.teacher["encoder"].norm.weight, state["norm.weight"]) and enc.about["prepared"] == "ctrgcn"


def test_usdrl(tmp_path):
    state = usdrl_state()
    enc = convert_official("usdrl", write(tmp_path / "u.pth.tar", {"epoch": 1, "state_dict": {f"module.{k}": v for k, v in state.items()}}), **SMALL["usdrl"])
    s, x = {k.removeprefix("backbone."): v for k, v in state.items()}, torch.randn(2, 3, 16, 25, 2)

    def attention(name, z):
        q, k, v = F.linear(z, s[name + ".in_proj_weight"], s[name + ".in_proj_bias"]).chunk(3, -1)
        return linear(s, name + ".out_proj", attend(q, k, v))

    def mlp(name, z): return linear(s, name + ".fc2", F.gelu(linear(s, name + ".fc1", z)))

    def layer(name, z):
        u = z + F.relu(F.linear(z, s[name + "CA.conv1.weight"][..., 0], s[name + "CA.conv1.bias"]))
        v = z + attention(name + "CA.attn", norm(s, name + "CA.norm1", u))
        mixed = z + linear(s, name + "DSA.wt2", F.relu(linear(s, name + "DSA.wt1", z.mT))).mT
        h = torch.where((torch.arange(z.shape[1]) % 4 == 0)[:, None], z, mixed)

        def phi(a):
            a = a + attention(name + "DSA.attn", norm(s, name + "DSA.norm1", a))
            return a + mlp(name + "DSA.mlp", norm(s, name + "DSA.norm2", a))

        return 0.5 * mlp(name + "CA.mlp", norm(s, name + "CA.norm2", v)) + 0.5 * (phi(h) + phi(z)) / 2

    angle = torch.arange(16)[:, None] * 10_000.0 ** (-torch.arange(0, 16, 2) / 16)
    places = {"t": torch.stack([angle.sin(), angle.cos()], -1).flatten(1), "s": s["spe"]}
    pooled = []
    for stream, z in (("t", x.permute(0, 2, 4, 3, 1).flatten(2)), ("s", x.permute(0, 4, 3, 2, 1).flatten(1, 2).flatten(2))):
        e = f"ske_emb.{stream}_embedding."
        z = linear(s, e + "3", F.relu(norm(s, e + "1", linear(s, e + "0", z))))
        for name in (f"{stream}_tr.", f"{stream}_tr1."):
            z = layer(name, z + places[stream])
        pooled.append(z.amax(1))
    torch.testing.assert_close(said_of(enc, x).clip, torch.cat(pooled, 1), rtol=1e-3, atol=1e-3)
    assert torch.equal(enc.method.projectors["spatial"][6].bias, state["s_proj.6.bias"]) and enc.about["left_out"] == ["backbone.tpe.pe"]


# ---- what does not fit ---------------------------------------------------------------------------------------------------------------------


STATES = {"aimclr": graph_state, "actclr": graph_state, "usdrl": usdrl_state, "mamp": vit_state, "slim": slim_state}


@pytest.mark.parametrize("name", sorted(RELEASES))
def test_every_fault_is_listed(name, tmp_path):
    state = STATES[name]()
    plain = [k for k in sorted(state) if state[k].ndim and "A" not in k.split(".")[-1][:1] and "mask_token" not in k]
    gone, bent = plain[:3], plain[-2:]
    broken = {k: v for k, v in state.items() if k not in gone} | {k: torch.ones(7, 5) for k in bent} | {"wing.left": torch.ones(1), "wing.right": torch.ones(1)}
    with pytest.raises(CheckpointError) as e:
        convert_official(name, write(tmp_path / "x.pt", broken), out=tmp_path / "made", **SMALL[name])
    text = str(e.value)
    assert "2 unexpected: " in text and "3 missing: " in text and "2 misshapen: " in text and text.startswith(str(tmp_path / "x.pt"))
    assert all(k in text for k in (*gone, *bent, "wing.left", "wing.right")) and "(7, 5) instead of" in text and not (tmp_path / "made").exists()


def test_wrong_sizes_and_names(tmp_path):
    with pytest.raises(CheckpointError, match="misshapen"):
        convert_official("mamp", write(tmp_path / "x.pt", vit_state(d=24)), **SMALL["mamp"])
    with pytest.raises(ParameterError, match="did you mean 'mamp'"):
        convert_official("mamb", tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="no such file"):
        convert_official("mamp", tmp_path / "y.pt")


class Wicked:
    def __reduce__(self): return print, ("executed",)


def test_files_execute_nothing(tmp_path, capsys):
    for name, content, said in (("w.pt", {"model": Wicked()}, "more than tensors"), ("n.pt", {"epoch": 3}, "no tensors"), ("l.pt", [1], "no tensors")):
        torch.save(content, tmp_path / name)
        with pytest.raises(CheckpointError, match=said):
            read_official(tmp_path / name)
    for name in ("t.pt", "t.safetensors"):
        (tmp_path / name).write_bytes(b"torn")
        with pytest.raises(CheckpointError, match="damaged"):
            read_official(tmp_path / name)
    assert "executed" not in capsys.readouterr().out


# ---- folders and the Hub -------------------------------------------------------------------------------------------------------------------


def test_converted_weights_are_loaded_again(tmp_path):
    enc = convert_official("mamp", write(tmp_path / "x.pt", vit_state()), out=tmp_path / "mamp", **SMALL["mamp"])
    again, clip = skelnb.load(tmp_path / "mamp"), make_clip("c", 90)
    assert np.array_equal(again(clip).frames, enc(clip).frames) and again.about == enc.about | {"skelnb": skelnb.__version__, "step": None}
    card = (tmp_path / "mamp" / "README.md").read_text()
    assert "license: other" in card and "do not pass on" in card and "official weights of mamp, x.pt" in card and "presets 'lode'" in card


@pytest.fixture
def saved(tmp_path):
    pytest.importorskip("huggingface_hub")
    enc = convert_official("slim", write(tmp_path / "x.safetensors", slim_state(), "safetensors"), **SMALL["slim"])
    hub_encoder().of(enc).save_pretrained(tmp_path / "hub")
    return enc, tmp_path / "hub"


def test_there_and_back_through_a_folder(saved):
    enc, folder = saved
    clip = make_clip("c", 90)
    for again in (from_hub(str(folder)), skelnb.load(folder), skelnb.load(f"hf://{folder}", fps=30)):
        assert np.array_equal(again(clip).frames, enc(clip).frames) and isinstance(again, skelnb.Encoder)
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "checkpoint.safetensors", "config.json"] and again.fps == 30
    front = re.match(r"---\n(.*?)\n---\n", (folder / "README.md").read_text(), re.S)
    assert "license: apache-2.0" in front[1] and "library_name: skelnb" in front[1]


def test_what_would_go_to_the_hub_and_come_from_it(saved, tmp_path, monkeypatch):
    import huggingface_hub.hub_mixin as mixin

    enc, folder = saved
    sent = {}

    class Api:
        def __init__(self, token=None): sent["token"] = token
        def create_repo(self, repo_id, private, exist_ok): return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, folder_path, **rest):
            sent["files"] = {p.name: p.read_bytes() for p in folder_path.iterdir()}
            return f"https://hub/{rest['repo_id']}"

    monkeypatch.setattr(mixin, "HfApi", Api)
    assert push_to_hub(enc, "me/slim", private=True, token="t") == "https://hub/me/slim" and sent["token"] == "t"
    assert sorted(sent["files"]) == ["README.md", "checkpoint.safetensors", "config.json"]
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, **kw: sent.update(repo=repo, **kw) or str(folder))
    monkeypatch.setattr(mixin, "hf_hub_download", lambda **kw: pytest.fail("config.json was asked for alone, which is tried again and again offline"))
    clip = make_clip("c", 90)
    assert np.array_equal(skelnb.load("hf://me/slim")(clip).frames, enc(clip).frames) and sent["repo"] == "me/slim"
    again = from_hub("me/slim", revision="v1", local_files_only=True, fps=25)
    assert again.fps == 25 and sent["revision"] == "v1" and sent["local_files_only"] and "*.safetensors" in sent["allow_patterns"]


def test_what_the_hub_does_not_give(monkeypatch):
    mixin = pytest.importorskip("huggingface_hub.hub_mixin")

    def away(*args, **options):
        raise OSError("no way there\nat all")

    monkeypatch.setattr(mixin, "hf_hub_download", lambda **kw: pytest.fail("config.json was asked for alone"))
    monkeypatch.setattr("huggingface_hub.snapshot_download", away)
    for repo, match in (("me/slim", "hf://me/slim: cannot be fetched from the Hub: no way there\n.*connection"), ("a/b/c", "hf://a/b/c: cannot")):
        with pytest.raises(CheckpointError, match=match):
            skelnb.load(f"hf://{repo}")


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ParameterError, match=r"pip install skelnb\[hub\]"):
        weights.hub_encoder()
