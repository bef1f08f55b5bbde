"""Coverage-guided fuzzing of the readers of text, JSON and pickles: nothing but a `SkelnbError` may come out of them.

Not part of the test suite, which has hypothesis for this; needs `pip install atheris`. One reader for some minutes:

    python tests/fuzz/fuzz_readers.py ntu -max_total_time=300 -timeout=20 -rss_limit_mb=2048

It starts from forged files, so that the fuzzer need not invent the format. A finding is left in a crash-* file; it becomes a test in tests/test_<reader>.py.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["skelnb.data"]):
    from skelnb.data import babel, kinetics, mstcn, ntu, pickles, pku, precog, smarthome
    from skelnb.data.formats import FORMATS
from skelnb.errors import SkelnbError

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz"))


def whole(name: str, path):
    "Everything that a format's reader finds in a file or folder."
    return list(FORMATS[name].find(path, **FORMATS[name].asks).clips())


READERS = {  # name: (function of a file, format whose forged files it starts from, which of them)
    "ntu": (ntu.read_skeleton, "ntu60", "*.skeleton"),
    "pku_frames": (pku.read_frames, "pku1", "Data/**/*.txt"),
    "pku_labels": (pku.read_instances, "pku1", "Label/**/*.txt"),
    "pku_split": (pku.read_split, "pku1", "Split/*.txt"),
    "precog": (precog.read_take, "precog", "*.csv"),
    "kinetics": (kinetics.read_video, "kinetics", "**/*.json"),
    "smarthome": (smarthome.read_lcrnet, "smarthome", "**/*.json"),
    "babel": (babel.load_json, "babel", "**/*.json"),
    "mstcn": (mstcn.read_mapping, "mstcn", "mapping.txt"),
    "pickle": (pickles.load_pickle, "pyskl", "*.pkl"),
    **{name: (partial(whole, name), name, "*") for name in ("mediapipe", "alphapose", "coco", "mmpose", "bvh", "c3d", "table")},
}
ENDINGS = {"bvh": ".bvh", "c3d": ".c3d", "table": ".csv", "pickle": ".pkl"}


def seeds(reader: str) -> tuple[str, list[bytes]]:
    "The name that a file of this kind has, and some of them, shortened."
    _, name, pattern = READERS[reader]
    made = FORMATS[name].forge(FOLDER / "forged" / f"take{ENDINGS.get(reader, '.json')}", seed=1)
    files = [made] if made.is_file() else sorted(p for p in made.rglob(pattern) if p.is_file())[:4]
    return files[0].name, [text[: 1 << n] for text in (f.read_bytes() for f in files) for n in (11, 14, 20)]


def main():
    reader = sys.argv.pop(1)
    (name, texts), read = seeds(reader), READERS[reader][0]
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    for i, text in enumerate(texts):
        (corpus / str(i)).write_bytes(text)

    def one(data: bytes) -> None:
        (FOLDER / name).write_bytes(data)
        try:
            read(FOLDER / name)
        except SkelnbError as e:
            assert e.remedy and (e.file or e.place), f"an error that does not say where or what to do: {e}"

    atheris.Setup([*sys.argv, str(corpus), "-max_len=65536"], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
