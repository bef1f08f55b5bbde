"""Encoders as graphs: free sizes, the same numbers, and nothing left where they differ."""

import sys
from types import SimpleNamespace

import pytest
import torch

from skelnb.backbones.slim import SlimEncoder
from skelnb.backbones.vit import SkeletonViT
from skelnb.errors import DataError, ParameterError
from skelnb.evaluation.features import weights_hash
from skelnb.interface import export
from skelnb.interface.export import Outputs, export_onnx, run_onnx, trace


def slim():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SlimEncoder(joints=5, unit=4, dim=16, depth=1, heads=2, mlp=32).eval()


def clips(n=3, frames=16, persons=2):
    return torch.randn(n, 3, frames, 5, persons, generator=torch.Generator().manual_seed(n))


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
