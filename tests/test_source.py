"""Reading many recordings: the same clips in the same order on one core and on several, damage collected or raised."""

from functools import partial

import numpy as np
import pytest

from skelnb.data.clip import Clip
from skelnb.data.source import Source, cores
from skelnb.errors import DataError


def read(item, bad=()):
    "Item n gives n % 3 clips; after the first of them, a bad one fails."
    clips = [Clip(np.full((item + 1, 1, 25, 3), item + 1.0), 30, "kinect_v2", f"{item}-{k}") for k in range(item % 3)]
    yield from clips[:1]
    if item in bad:
        raise DataError("damaged", file=f"item {item}", remedy="fetch it again")
    yield from clips[1:]


def read_absent(item):
    open(item)


@pytest.mark.parametrize("workers", [1, 2])
def test_order_and_damage(workers):
    source = Source("toy", tuple(range(40)), partial(read, bad=(7, 8, 31)))
    damaged = []
    clips = list(source.clips(workers, damaged=damaged))
    expected = [f"{i}-{k}" for i in range(40) for k in range(i % 3) if not (i in (7, 8, 31) and k)]
    assert [c.name for c in clips] == expected and len(source) == 40
    assert [e.file for e in damaged] == ["item 7", "item 8", "item 31"] and damaged[0].remedy == "fetch it again"
    assert all((c.xyz == int(c.name.split("-")[0]) + 1).all() for c in clips)
    seen = []
    with pytest.raises(DataError, match="item 7"):
        for clip in source.clips(workers):
            seen.append(clip.name)
    assert seen == expected[: len(seen)] and "7-0" in seen


def test_leaving_early_ends_the_workers():
    clips = Source("toy", tuple(range(200)), read).clips(2)
    assert next(clips).name == "1-0"
    clips.close()


def test_a_file_that_cannot_be_opened_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="cannot be read.*\n.*check the path") as e:
        list(Source("toy", (str(tmp_path / "absent"),), read_absent).clips())
    assert "absent" in e.value.file


def test_nothing_to_read_and_all_cores():
    assert list(Source("toy", (), read).clips(0)) == [] and cores() >= 1
    assert "40 units, splits: xsub" in repr(Source("toy", tuple(range(40)), read, {"splits": {"xsub": None}}))


def test_progress_counts_units(capsys, monkeypatch):
    monkeypatch.setenv("SKELNB_PROGRESS", "parent")
    list(Source("toy", tuple(range(5)), read).clips(progress=True))
    assert "5, 5, " in capsys.readouterr().out.splitlines()[-1]
