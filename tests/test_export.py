"""Encoders as graphs: free sizes, the same numbers, and nothing left where they differ."""

import sys
from types import SimpleNamespace

import pytest
import torch

from skelnb.backbones.agcn import AGCN
from skelnb.backbones.dste import DSTE, STTR
from skelnb.backbones.fusion import WithFusion
from skelnb.backbones.slim import SlimEncoder
from skelnb.backbones.stgcn import STGCN
from skelnb.backbones.unik import UNIK
from skelnb.backbones.vit import SkeletonViT
from skelnb.errors import DataError, ParameterError
from skelnb.evaluation.features import weights_hash
from skelnb.interface import export
from skelnb.interface.export import Outputs, export_onnx, frames_of, run_onnx, trace


def slim():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SlimEncoder(joints=5, unit=4, dim=16, depth=1, heads=2, mlp=32).eval()


def clips(n=3, frames=16, persons=2, joints=5):
    return torch.randn(n, 3, frames, joints, persons, generator=torch.Generator().manual_seed(n))


def few_blocks(encoder, keep=(0, 4)):
    "A graph encoder of fewer blocks, the last of which halves time: conversion takes as long as there are blocks."
    for i in reversed(range(len(encoder.blocks))):
        if i not in keep:
            del encoder.blocks[i]
    return encoder


SIZE = dict(joints=5, frames=16, dim=8)
ENCODERS = {  # how to make one, joints, unit
    "LoDE": (lambda: SkeletonViT(**SIZE, depth=1, heads=2, mlp=16), 5, 0),
    "DSTE": (lambda: DSTE(**SIZE, layers=1), 5, 0),
    "STTR": (lambda: STTR(**SIZE, layers=1), 5, 0),
    "ST-GCN": (lambda: few_blocks(STGCN(width=4)), 25, 2),
    "AGCN": (lambda: few_blocks(AGCN(width=4, input_norm=True, persons="present")), 25, 2),
    "UNIK with fusion": (lambda: WithFusion(few_blocks(UNIK(width=4), (0, 3, 4)), (0, 1, 2), dim=6), 25, 2),
}


def random(make):
    "An encoder none of whose weights and statistics are those it began with."
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = make()
        with torch.no_grad():
            for w in encoder.parameters():
                w.add_(0.2 * torch.randn_like(w))
            for name, w in encoder.named_buffers():
                if "running" in name:
                    w.add_(0.2 * torch.rand_like(w))
    return encoder.eval()


def test_a_file_for_any_number_of_clips_and_frames(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    import onnx

    encoder, graph = slim(), trace(slim(), clips(), unit=4)
    made = export_onnx(encoder, tmp_path / "slim.onnx", clips(), unit=4, graph=graph)
    assert made["outputs"] == ["clip", "frames", "tokens"] and made["difference"] < 1e-5
    for x in (clips(1, 4), clips(6, 40)):
        x[0, ..., 1] = 0
        own, said = encoder(x), run_onnx(tmp_path / "slim.onnx", x)
        for a, b in zip((own.clip, own.frames, own.tokens), said, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    about = {p.key: p.value for p in onnx.load(tmp_path / "slim.onnx").metadata_props}
    assert about == {"encoder": "SlimEncoder", "weights": weights_hash(encoder), "unit": "4"}
    monkeypatch.setattr(export, "run_onnx", lambda path, x: tuple(z + 1e-3 for z in run_onnx(path, x)))
    with pytest.raises(DataError, match="differ from the encoder's"):
        export_onnx(encoder, tmp_path / "wrong.onnx", clips(), unit=4, graph=graph)
    assert [p.name for p in tmp_path.iterdir()] == ["slim.onnx"]


@pytest.mark.parametrize("persons", ["present", "mean_over_M"])
def test_lodes_encoder_says_the_same_with_all_persons_encoded(persons):
    encoder, x = SkeletonViT(joints=5, frames=16, dim=16, depth=1, heads=2, mlp=16, persons=persons), clips()
    x[0, ..., 1] = 0
    x[2] = 0
    own = encoder(x)
    for a, b in zip((own.clip, own.frames, own.tokens), Outputs(encoder)(x), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_becomes_a_file(name, tmp_path):
    pytest.importorskip("onnxruntime")
    make, joints, unit = ENCODERS[name]
    encoder, x = random(make), clips(joints=joints)
    made = export_onnx(encoder, tmp_path / "it.onnx", x, unit)
    assert made["difference"] < 1e-4 and frames_of(encoder) == unit
    x = clips(1, 6 if unit else 16, joints=joints)
    x[:, :, 4:, :, 1] = 0
    own = encoder(x)
    for a, b in zip((own.clip, own.frames, own.tokens), run_onnx(tmp_path / "it.onnx", x)):
        assert b.abs().max() > 0.01
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name, (_, _, unit) in ENCODERS.items() if not unit])
def test_a_learnt_length_is_not_free(name):
    with pytest.raises(ParameterError, match="(?s)each place in time.*unit = 0"):
        trace(random(ENCODERS[name][0]), clips(), unit=4)


def test_what_halves_time_or_looks_for_padding_says_so():
    with pytest.raises(ParameterError, match="(?s)steps are 4 frames.*use 4"):
        trace(STGCN(width=4), clips(joints=25), unit=2)
    with pytest.raises(ParameterError, match="(?s)looks for padding.*'none'"):
        trace(WithFusion(UNIK(width=4), padding="zeros"), clips(joints=25), unit=4)
    assert frames_of(AGCN(width=4)) == 8


def test_refused(monkeypatch):
    for x, unit in ((clips()[0], 0), (clips(1), 0), (clips(frames=10), 4), (clips(frames=4), 4)):
        with pytest.raises(ParameterError, match="an example of shape"):
            trace(slim(), x, unit)
    def lacking(*args, **options):
        raise torch.onnx.errors.OnnxExporterError("cummax")

    with monkeypatch.context() as m:
        m.setattr(torch.onnx, "export", lacking)
        with pytest.raises(ParameterError, match="operations that ONNX lacks"):
            export_onnx(slim(), "never.onnx", clips(), graph=SimpleNamespace(graph_signature=SimpleNamespace(user_outputs=[1, 2])))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ParameterError, match=r"pip install skelnb\[export\]"):
        export_onnx(slim(), "never.onnx", clips())
