"""NumPy's files, whose headers may lie: mapped, or a DataError, and never a program."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.data.arrays import npy_header, open_npy, readable
from skelnb.errors import DataError


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    file = tmp_path_factory.mktemp("arrays") / "good.npy"
    np.save(file, np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    return file


def test_a_sound_array_is_mapped(good):
    x = open_npy(good)
    assert isinstance(x, np.memmap) and not x.flags.writeable and x[1, 2, 3] == 23
    with open(good, "rb") as f:
        assert npy_header(f) == ((2, 3, 4), False, np.float32) and f.tell() == 128


@pytest.mark.parametrize("spoil, what", [
    (lambda b: b[:-4], "cannot be read: ValueError mmap length"), (lambda b: b.replace(b"(2, 3, 4)", b"(9**9, 3)"), "no array file, or cut off"),
    (lambda b: b"", "cannot be read"), (lambda b: b"PK" + b[2:], "cannot be read"),
])
def test_damage(good, tmp_path, spoil, what):
    (tmp_path / "x.npy").write_bytes(spoil(good.read_bytes()))
    with pytest.raises(DataError, match=f"x.npy: cannot be read.*|{what}") as e:
        open_npy(tmp_path / "x.npy")
    assert what in e.value.what and e.value.remedy


def test_objects_absence_and_folders(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}]), allow_pickle=True)
    for path, what in ((tmp_path / "x.npy", "no array file"), (tmp_path / "absent.npy", "no such file"), (tmp_path, "cannot be read")):
        with pytest.raises(DataError, match=what):
            open_npy(path)


def test_errors_of_our_own_pass(tmp_path):
    with pytest.raises(DataError, match="as it was"), readable(tmp_path):
        raise DataError("as it was")
    with pytest.raises(AttributeError), readable(tmp_path):
        raise AttributeError("a mistake in the program is no fault of the file")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 127), st.integers(0, 255)), min_size=1, max_size=4))
def test_flipped_bytes(good, flips):
    text, file = bytearray(good.read_bytes()), good.with_name("flipped.npy")
    for place, value in flips:
        text[place] = value
    file.write_bytes(text)
    try:
        open_npy(file)
    except DataError as e:
        assert e.file.endswith("flipped.npy") and e.remedy
