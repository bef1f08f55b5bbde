"""Checkpoints: whole or not there, and they say what is wrong with them."""

import resource

import pytest
import torch
from helpers import Toy
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from skelnb.errors import CheckpointError, DiskError
from skelnb.training import checkpoint
from skelnb.training.checkpoint import load_resume, load_weights, save_resume, save_weights


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    method = Toy()
    return method, save_weights(tmp_path / "checkpoint.safetensors", method, {"method": "toy", "preset": {"dim": 16}, "step": 7})


def refused(match, *args, **kwargs):
    with pytest.raises(CheckpointError, match=match) as e:
        load_weights(*args, **kwargs)
    assert e.value.file and e.value.remedy
    return e.value


def test_round_trip(saved):
    method, file = saved
    fresh = Toy()
    loaded = load_weights(file, fresh)
    assert loaded.meta == {"method": "toy", "preset": {"dim": 16}, "step": 7, "skelnb": checkpoint.skelnb.__version__}
    for k, v in method.state_dict().items():
        assert torch.equal(v, fresh.state_dict()[k]) and torch.equal(v, loaded.tensors[k])
    assert load_weights(file).tensors.keys() == method.state_dict().keys()  # without a module


def test_tied_and_strided_weights(tmp_path):
    module = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    module["b"].weight = module["a"].weight
    module["a"].bias.data = torch.arange(6.0)[::2]
    file = save_weights(tmp_path / "w.safetensors", module, {"method": "x"})
    assert torch.equal(load_weights(file, module).tensors["b.weight"], module["a"].weight)


def test_another_method(saved):
    refused("checkpoint of method 'toy', wanted is 'lode'", saved[1], method="lode")
    other = Toy()
    other.name = "actclr"
    refused("wanted is 'actclr'", saved[1], other)


def test_other_settings_missing_and_unexpected(saved, tmp_path):
    error = refused(r"of another shape: .*encoder.1.bias \(16,\) instead of \(8,\)", saved[1], Toy(dim=8))
    assert "and" in error.what
    part = nn.ModuleDict({"encoder": Toy().encoder})
    refused(r"unexpected: head.bias, head.weight, seen and \d+ more", saved[1], part)
    refused("missing: head.bias", save_weights(tmp_path / "part.safetensors", part, {"method": "toy"}), Toy())


def test_absent_foreign_and_newer(saved, tmp_path, monkeypatch):
    refused("no such checkpoint", tmp_path / "nothing.safetensors")
    for meta in (None, {"format": "pt"}):
        save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors", metadata=meta)
        refused("not written by skelnb", tmp_path / "foreign.safetensors")
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    newer = save_weights(tmp_path / "newer.safetensors", saved[0], {"method": "toy"})
    save_resume(tmp_path / "newer.pt", {"step": 1})
    monkeypatch.undo()
    assert "update" in refused("was written by skelnb", newer).remedy
    with pytest.raises(CheckpointError, match="not written by this version"):
        load_resume(tmp_path / "newer.pt")


@given(st.data())
def test_any_truncation_is_noticed(data):
    import tempfile
    from pathlib import Path

    folder = Path(tempfile.mkdtemp())
    for name, write, read in (("w.safetensors", lambda p: save_weights(p, nn.Linear(2, 2), {}), load_weights),
                              ("r.pt", lambda p: save_resume(p, {"step": 1, "model": {"a": torch.ones(3)}}), load_resume)):
        whole = write(folder / name).read_bytes()
        (folder / name).write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        with pytest.raises(CheckpointError) as e:
            read(folder / name)
        assert name in str(e.value)


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    "A state to go on from, and its file's bytes."
    moments = {"step": torch.tensor(1.0), "exp_avg": torch.full((3, 4), 0.2), "exp_avg_sq": torch.full((3, 4), 0.004)}
    optimizer = {"state": {0: moments}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.95), "fused": None, "params": [0]}]}
    file = tmp_path_factory.mktemp("state") / "resume.pt"
    save_resume(file, {"step": 3, "model": nn.Linear(3, 4).state_dict(), "optimizer": optimizer, "precision": {}, "window": [{"loss": 1.5}]})
    return file, file.read_bytes(), str(load_resume(file))


@given(at=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4), records=st.booleans())
@example(at=[(0.0, 1)], records=True)
def test_worn_bytes_are_noticed_or_do_not_matter(state, at, records):
    file, whole, good = state
    worn, end = bytearray(whole), whole.index(b"PK\x01\x02") if records else len(whole)  # the list of records, which has no checksum, follows them
    for place, bits in at:
        worn[int(place * end)] ^= bits
    file.write_bytes(worn)
    try:
        read = str(load_resume(file))
        assert read == good or not records
    except CheckpointError as e:
        assert "resume.pt" in str(e) and "step 0" in e.remedy


def test_one_bit_of_the_weights(state):
    file, whole, good = state
    at = whole.index(torch.full((3, 4), 0.2).numpy().tobytes())  # AdamW's moment
    file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
    assert str(torch.load(file, weights_only=True)["step"]) == "3"  # PyTorch does not look
    with pytest.raises(CheckpointError, match="resume.pt: is damaged"):
        load_resume(file)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x02K\x01.", b"PK\x03\x04 and no more"])
def test_other_files(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    refused("is damaged or no safetensors file", tmp_path / "file")
    with pytest.raises(CheckpointError, match="is damaged, or holds more"):
        load_resume(tmp_path / "file")


def test_a_disk_that_fills_up_while_writing_leaves_the_old_file(saved, tmp_path):
    method, file = saved
    save_resume(tmp_path / "resume.pt", {"step": 1})
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))  # a write beyond 4,000 bytes fails half-way, as on a full disk
    try:
        with pytest.raises(DiskError, match="checkpoint.safetensors"):
            save_weights(file, method, {"method": "toy"})
        with pytest.raises(DiskError, match="resume.pt"):
            save_resume(tmp_path / "resume.pt", {"step": 2, "model": method.state_dict()})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
