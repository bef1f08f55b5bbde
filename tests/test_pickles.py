"""Reading pickles without running them."""

import os
import pickle
import struct
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.data.pickles import OPCODES, load_pickle, unpickle
from skelnb.errors import DataError

KEYPOINT = np.random.default_rng(0).normal(size=(2, 5, 25, 3)).astype(np.float16)
GOOD = {"split": {"xsub_train": ["a", "b"], "xsub_val": ["c"]}, "annotations": [
    {"frame_dir": "a", "label": 3, "total_frames": 5, "keypoint": KEYPOINT, "img_shape": (1080, 1920), "original_shape": (1080, 1920)},
    {"frame_dir": "b", "label": np.int64(-4), "keypoint": KEYPOINT[:1].transpose(1, 0, 2, 3), "valid": np.array([True, False])},
    [None, True, 2**40, -(2**62), 2.5, b"raw\xff", bytearray(b"more"), {"s"}, frozenset({1}), (),
     (1,),
    (1, "é"), np.array(["wá"]), np.array([])],
    {"odd": KEYPOINT[:, ::2], "order": np.asfortranarray(KEYPOINT), "big": np.arange(5, dtype=">i4"), "o": OrderedDict(x=1),
     "type": np.dtype("f4")}]}


def same(a, b):
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_gives_the_same_data(protocol, tmp_path):
    (tmp_path / "good.pkl").write_bytes(pickle.dumps(GOOD, protocol))
    assert same(pickle.loads(pickle.dumps(GOOD, protocol)), load_pickle(tmp_path / "good.pkl"))
    assert same([], unpickle(pickle.dumps([], protocol))) and unpickle(pickle.dumps(b"", protocol)) == b""


def test_numpy_1_and_2_and_python_2_names_are_the_same():
    for old, new in ((b"numpy.core.multiarray", b"numpy._core.multiarray"), (b"numpy._core.multiarray", b"numpy.core.multiarray")):
        data = pickle.dumps(KEYPOINT, 2)
        assert np.array_equal(unpickle(data.replace(old, new)), KEYPOINT)
    with_flags = pickle.dumps(np.arange(3, dtype=np.int64), 2).replace(b"\x89\x88", b"K\x00K\x01")  # dtype('i8', 0, 1)
    assert unpickle(with_flags).tolist() == [0, 1, 2]


def python2_array(array):
    "As Python 2 and NumPy 1.x wrote it, protocol 2: raw bytes as a string of Python 2."
    def text(s): return b"U" + bytes([len(s)]) + s

    raw = array.tobytes()
    shape = b"(" + b"".join(b"K" + bytes([n]) for n in array.shape) + b"t"
    dtype = b"cnumpy\ndtype\n" + text(array.dtype.str[1:].encode()) + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + text(b"<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    return (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R(K\x01" + shape + dtype
            + b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb.")


def test_python_2_arrays():
    assert np.array_equal(unpickle(python2_array(KEYPOINT)), KEYPOINT)
    ascii_by_chance = np.frombuffer(b"ABCD" * 100, "<i4").reshape(4, 25)
    assert np.array_equal(unpickle(python2_array(ascii_by_chance)), ascii_by_chance)


def test_python_2_text():
    program = b"(lp0\nS'S001'\np1\naS\"it\\'s \\xe9\"\np2\naV\\u00e9\np3\na"
    program += b"g1\naI7\naI01\naI00\naL12L\naF2.5\na(dp4\nS'k'\nI1\nsa(I1\nI2\nta."
    assert unpickle(program) == ["S001", b"it's \xe9", "é", "S001", 7, True, False, 12, 2.5, {"k": 1}, (1, 2)]
    assert unpickle(b"\x80\x02]q\x00(U\x03abcT\x02\x00\x00\x00\xff\xfee.") == ["abc", b"\xff\xfe"]
    assert unpickle(b"(S'a'\nI1\nd.") == {"a": 1}
    assert unpickle(b"(I1\n1(I2\nI3\n0t2\x86.") == ((2,), (2,))  # POP_MARK, POP, DUP
    assert unpickle(b"(0I1\n.") == 1  # POP of a mark


class Evil:
    def __init__(self, function, *arguments):
        self.how = function, arguments

    def __reduce__(self):
        return self.how


class Stateful:
    def __setstate__(self, state):
        raise AssertionError("was called")

    def __getstate__(self):
        return {"x": 1}


class SubArray(np.ndarray):
    pass


def ran(*_):
    raise AssertionError("code from the pickle was run")


GADGETS = [
    (os.system, "touch pwned"), (eval, "ran()"), (exec, "ran()"), (getattr, "x", "y"), (np.load, "x.npy"), (np.fromfile, "x"),
    (np.savetxt, "x", [1]),
    (np.ctypeslib.load_library, "c", "."), (np.zeros, (10**12,)), (np.ndarray, (10**12,)), (np.dtype, "O"), (np.frombuffer, b"x"), (ran,),
    (bytes, 10**12), (bytearray, 10**12), (__import__, "os"), (open, "pwned", "w"), (str, 1), (dict, [(1, 2)]), (pickle.loads, b"."),
]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("call", GADGETS, ids=lambda c: c[0].__name__)
def test_nothing_is_run(call, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"annotations": [Evil(*call)]}, protocol))
    with pytest.raises(DataError, match=r"evil.pkl, byte \d+"):
        load_pickle(tmp_path / "evil.pkl")
    assert os.listdir(tmp_path) == ["evil.pkl"]


@pytest.mark.parametrize("data, what", [
    (pickle.dumps(Evil(os.system, "x")), rf"would run {os.system.__module__}\.system"),
    (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R.", r"byte 14: would run os\.system"),
    (b"cos\nsystem\n(S'x'\ntR.", r"byte 0: would run os\.system"),
    (b"(S'x'\nios\nsystem\n.", r"would run os\.system"),
    (b"(S'x'\ni__builtin__\nset\n.", "instance of a class"),
    (b"\x80\x04\x8c\x08builtins\x8c\x0cgetattr.__or\x93.", r"would run builtins\.getattr\.__or"),
    (b"\x80\x04\x8c\x05numpy\x8c\x0dcore.getlimit\x93.", "would run numpy.core.getlimit"),
    (b"\x80\x04K\x01K\x02\x93.", "not by a name"),
    (b"\x80\x02\x82\x01.", "extension registry"), (b"\x80\x02\x83\x01\x00.", "extension registry"),
    (b"\x80\x02\x84\x01\x00\x00\x00.", "extension"),
    (b"\x80\x02c__builtin__\nset\n)\x81.", "instance of a class"), (b"(c__builtin__\nset\no.", "instance of a class"),
    (b"\x80\x04c__builtin__\nset\n)}\x92.", "instance of a class"),
    (b"Pother\n.", "outside the file"), (b"K\x01Q.", "outside the file"), (b"\x80\x05\x97.", "buffer"), (b"\x80\x05\x97\x98.", "buffer"),
    (b"\x80\x02}}b.", "state of a dict"), (b"\x80\x02c__builtin__\nset\n}b.", "state of a _Name"),
    (b"\x80\x02c__builtin__\nset\n.", "builtins.set outside an array"), (b"cnumpy\nndarray\n(K\x01tR.", "calls a numpy.ndarray"),
    (b"K\x01)R.", "calls a int"), (b"c__builtin__\nset\n]R.", "calls a builtins.set"),
    (b"cnumpy.core.multiarray\n_reconstruct\nc__builtin__\nset\n(K\x00tS'b'\n\x87R.", "array of class builtins.set"),
    (b"cnumpy.core.multiarray\n_reconstruct\nK\x01(K\x00tS'b'\n\x87R.", "array of class int"),
    (pickle.dumps(SubArray((2, 2))), "SubArray"), (pickle.dumps(Stateful(), 2), "copyreg|copy_reg|Stateful"),
    (pickle.dumps(Stateful(), 4), "Stateful"),
    (pickle.dumps(np.array([1, "x", None], object)), "type 'O8'"), (pickle.dumps(np.zeros(2, "f4,i4")), "type 'V8'"),
    (pickle.dumps(Evil(np.matrix, 1)), "numpy.matrix"), (pickle.dumps(np.datetime64("2020-01-01")), "type 'M8'"),
    (pickle.dumps(1j), "builtins.complex"), (pickle.dumps(range(3)), "range"),
    (b"c_codecs\nencode\n(V\xe9\nS'rot13'\ntR.", "encodes what is no text"),
    (b"c_codecs\nencode\n(K\x01S'latin1'\ntR.", "encodes what is no text"),
])
def test_what_is_refused_is_named(data, what):
    with pytest.raises(DataError, match=what):
        unpickle(data, "f.pkl")


def array_program(shape, data=b"", dtype=b"f2", extra=b""):
    "A pickle of an array with any shape and bytes."
    dims = b"(" + b"".join(b"\x8a\x09" + n.to_bytes(9, "little", signed=True) for n in shape) + b"t"
    kind = b"cnumpy\ndtype\nU" + bytes([len(dtype)]) + dtype + b"\x89\x88\x87R" + extra
    return (b"\x80\x03cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01" + dims + kind
            + b"\x89B" + struct.pack("<I", len(data)) + data + b"tb.")


def state(order=b"<", size=-1, version=3, flags=0, names=b"NNN"):
    numbers = struct.pack("<ciciB", b"J", size, b"J", -1, ord("K"))
    return b"(K" + bytes([version]) + b"U\x01" + order + names + numbers + bytes([flags]) + b"tb"


def test_the_array_program_of_these_tests_is_sound():
    assert unpickle(array_program((1, 3), b"\0<" * 3, extra=state())).tolist() == [[1, 1, 1]]
    assert unpickle(array_program((2,), b"<\0" * 2, extra=state(b">"))).tolist() == [1, 1]
    assert unpickle(array_program((), b"\0<")).shape == () and unpickle(array_program((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("data, what", [
    (b"\x80\x04\x8e" + (10**15).to_bytes(8, "little") + b"x", "promises 1000000000000000 more"), (b"\x8d" + b"\xff" * 8, "promises"),
    (b"\x80\x05\x96" + b"\xff" * 8, "promises"), (b"\x80\x04\x95" + b"\xff" * 8 + b"N.", "promises"), (b"B\xff\xff\xff\xff.", "promises"),
    (b"X\xff\xff\xff\xff.", "promises"), (b"T\xff\xff\xff\xff.", "promises"),
    (b"\x80\x02\x8b\xff\xff\xff\xff.", "number of 4294967295 bytes"),
    (b"\x80\x02\x8b\x00\x00\x00\x80.", "number of"), (b"\x8a\xff" + b"\x01" * 255 + b".", "number of 255 bytes"),
    (b"I" + b"9" * 5000 + b"\n.", "5000 char"),
    (b"L" + b"9" * 30 + b"L\n.", "30 char"), (b"Np" + b"9" * 30 + b"\n.", "30 char"), (array_program((10**12,)), "larger than the file"),
    (array_program((10**12, 0)), "larger than the file"), (array_program((-1, -4), b"\0" * 8), "larger"),
    (array_program((2**40, 2**40)), "larger"),
    (array_program((10**6, 10**6, 10**6)), "bytes for it"), (array_program((3,), b"\0" * 5), r"shape \(3,\) and type float16, but 5 bytes"),
    (array_program((1,) * 80, b"\0\0"), "damaged"), (array_program((5,), b"\0" * 10, b"S0"), "type 'S0'"),
    (array_program((1,), b"", b"O"), "type 'O'"),
    (array_program((1,), b"\0\0\0\0", b"S999999999"), "bytes for it"), (array_program((1,), b"\0", b"f3"), "type 'f3'"),
    (array_program((1,), b"\0\0\x11\0" * 2, b"U2"), "do not exist"), (array_program((1,), b"\0" * 8, b"f2,O8"), "type 'f2,O8'"),
    (array_program((1,), b"\0\0", extra=state(b"<", 10**9)), "way that NumPy does not"),
    (array_program((1,), b"\0\0", extra=state(b"?")), "way that"),
    (array_program((1,), b"\0\0", extra=state(version=9)), "way that"), (array_program((1,), b"\0\0", extra=state(flags=63)), "way that"),
    (array_program((1,), b"\0\0", extra=state(names=b"NN}")), "way that"), (b"cnumpy\ndtype\n]\x89\x88\x87R.", "type of a list"),
    (b"cnumpy\ndtype\n)R.", "TypeError"), (b"cnumpy.core.multiarray\nscalar\n(K\x01C\x01xtR.", "way that"), (b"\x80\x09N.", "protocol 9"),
    (b"cnumpy.core.numeric\n_frombuffer\n(C\x02xxcnumpy\ndtype\nU\x02f2\x89\x88\x87R(K\x05tU\x01CtR.", "bytes for it"),
    (b"", "promises 1 more"), (b"N", "promises 1 more"), (b".", "IndexError"), (b"h\x05.", "KeyError"), (b"K\x01a.", "IndexError"),
    (b"K\x01K\x02a.", "treats a int as a list"),
    (b"t.", "IndexError"), (b"\x85.", "tuple of 1 values out of 0"), (b"(K\x01d.", "key without a value"), (b"]]K\x01s.", "treats|key"),
    (b"}]K\x01s.", "a list as a key"),
    (b"\x80\x04\x8f(]\x90.", "a list as a key"), (b"S'x\n.", "without its quotes"), (b"Sx\n.", "without its quotes"),
    (b"I1", "promises 1 more"), (b"Fx\n.", "ValueError"),
    (b"X\x01\x00\x00\x00\xff.", "UnicodeDecodeError"), (b"<html>", "no instruction b'<'"), (b"PK\x03\x04", "outside|no instruction"),
    (b"((((", "promises 1 more"),
])
def test_lies_and_damage(data, what):
    with pytest.raises(DataError, match=what) as e:
        unpickle(data, "f.pkl")
    assert "f.pkl, byte" in str(e.value)


def nested(n, code):
    return b"\x80\x02N" + code * n + b"."


@pytest.mark.parametrize("data, what", [
    (nested(200_000, b"\x85"), "nested 65 deep"), (b"]" * 200_000 + b"a" * 199_999 + b".", "nested"),
    (nested(100, b"2\x86"), "values written out"), (b"}" + b"N" + b"2\x86" * 100 + b"Ns.", "a tuple as a key"),
    (b"]q\x00h\x00a.", "holds itself"), (b"]q\x00h\x00\x85h\x00h\x01a.", "KeyError"), (b"}q\x00K\x01h\x00s.", "holds itself"),
    (b"\x80\x02cnumpy\ndtype\nN" + b"2\x86" * 60 + b"\x89\x88\x87R.", "type of a tuple"),
])
def test_bombs(data, what):
    with pytest.raises(DataError, match=what):
        unpickle(data)


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_later(protocol, tmp_path):
    arrays = {"keypoint": KEYPOINT, "turned": KEYPOINT.transpose(1, 0, 2, 3), "order": np.asfortranarray(KEYPOINT), "odd": KEYPOINT[:, ::2],
              "text": np.array(["wá" * 100]), "few": np.arange(3), "big": np.arange(500, dtype=">f4")}
    file = tmp_path / "large.pkl"
    file.write_bytes(pickle.dumps(arrays, protocol))
    found = load_pickle(file, later=True)
    assert all(np.array_equal(found[key].read(file), array) and found[key].shape == array.shape for key, array in arrays.items())
    assert found["few"].data is not None and (protocol < 3 or found["keypoint"].data is None)
    if protocol > 2:
        file.write_bytes(file.read_bytes()[:5])
        with pytest.raises(DataError, match="large.pkl, byte .*cannot be read"):
            found["keypoint"].read(file)


def test_bytes_of_no_array_are_not_left_behind():
    data = pickle.dumps([b"x" * 1000])
    assert unpickle(data) == [b"x" * 1000]
    with pytest.raises(DataError, match="many bytes outside an array"):
        unpickle(data, later=True)


def test_what_is_shared_stays_shared():
    a, b = unpickle(pickle.dumps([(x := [1, 2]), x]))
    assert a is b == [1, 2]
    assert unpickle(b"N2\x86" + b"2\x86" * 9 + b".")  # ten levels are no bomb
    assert unpickle(b"r\xff\xff\xff\xff.".join([b"K\x07", b""])) == 7  # a memo of 2 ** 32 entries would have 64 GB


def test_files(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        load_pickle(tmp_path / "none.pkl")
    with pytest.raises(DataError, match="cannot be read"):
        load_pickle(tmp_path)
    (tmp_path / "empty.pkl").touch()
    with pytest.raises(DataError, match="is empty"):
        load_pickle(tmp_path / "empty.pkl")


SEEDS = [pickle.dumps(GOOD, p) for p in (0, 2, 4, 5)] + [python2_array(KEYPOINT[:1, :1])]


def read(data):
    for later in (False, True):
        try:
            unpickle(data, "fuzz.pkl", later)
        except DataError as e:
            assert str(e).startswith("fuzz.pkl, byte")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes(data):
    read(data)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(SEEDS), st.data())
def test_damaged_files(seed, data):
    kind = data.draw(st.sampled_from(["cut", "flip", "splice"]))
    at = data.draw(st.integers(0, len(seed) - 1))
    if kind == "cut":
        return read(seed[:at])
    new = data.draw(st.binary(min_size=1, max_size=1 if kind == "flip" else 12))
    read(seed[:at] + new + seed[at + len(new):])


OPS = [bytes([code]) for code in OPCODES]
PHRASES = [b"K\x01", b"U\x02f2", b"cnumpy\ndtype\n", b"c__builtin__\nset\n", b"cnumpy.core.multiarray\nscalar\n",
           b"q\x00", b"h\x00", b"C\x02xy"]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(OPS + 6 * PHRASES + [b"(", b"2", b")", b"R", b"b"] * 6), max_size=30))
def test_random_programs(parts):
    read(b"\x80\x04" + b"".join(parts) + b".")
