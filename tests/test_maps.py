import base64
import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from conftest import make_clip
from helpers_browser import answer, chromium, tab
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.data.clip import Clip
from skelnb.data.synthetic import synthesize
from skelnb.errors import ParameterError
from skelnb.evaluation.diagnostics import embedding_map
from skelnb.reporting.maps import FEWEST, compare_encoders, disagreements, feature_map, small_clips
from skelnb.reporting.player import view_of

RNG = np.random.default_rng(0)
CLASSES = ["background", "wave", "jump"]


def data_of(page):
    return json.loads(re.findall(r'<script type="application/json">(.*?)</script>', page, re.S)[-1])


def whole(clips, common):
    return [c and common | c for c in clips]


def test_200_clips_stay_light():
    clips = synthesize(200, frames=(60, 120), seed=0)
    page = feature_map(RNG.normal(size=(200, 8)), clips)._repr_html_()
    data = data_of(page)
    assert len(page) < 400_000 and all(data["clips"]) and "http" not in re.sub(r'"xyz":"[^"]*"|base64,[^"]*', "", page)
    assert page.count("<script") == page.count("</script>") == 4


def test_small_clips_are_the_clips():
    clips = [make_clip(f"c{i}", T=40 + 10 * i, M=1 + i % 2, seed=i) for i in range(6)]
    views = [view_of(c) for c in clips]
    found = whole(*small_clips(views, budget=60_000))
    for view, c in zip(views, found):
        q = np.frombuffer(base64.b64decode(c["xyz"]), np.int8).reshape(c["T"], c["M"], c["V"], 3)
        true = view.xyz[:: c["every"]]
        assert c["bits"] == 8 and c["frames"] == len(view.xyz) and len(true) == c["T"] <= 45
        assert np.abs(q * c["unit"] - true).max() < c["unit"] * 0.51 and c["unit"] < np.abs(view.xyz).max() / 120


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(4000, 60_000), st.integers(5, 400))
def test_budget_is_kept(n, budget, T):
    views = [view_of(make_clip(f"c{i}", T, 1 + i % 2, i)) for i in range(min(n, 4))] * (n // 4 + 1)
    views = views[:n]
    clips, common = small_clips(views, budget)
    shown = [c for c in whole(clips, common) if c]
    assert shown and len(clips) == n
    assert len(json.dumps([c for c in clips if c], separators=(",", ":"))) < max(budget, FEWEST * 220 + 600) * 1.12
    for c in shown:
        assert c["T"] >= min(FEWEST, c["frames"]) / 2 and c["fps"] / c["every"] >= 3.4  # never so thin that the motion is another
        assert ("middle" in c["title"]) == (c["frames"] < T)


def test_the_middle_of_a_long_clip_is_where_somebody_is():
    clip = make_clip(T=900)
    clip.xyz[:700] = 0
    clip.xyz[700:] += (5, 0, 0)
    (found,), common = small_clips([view_of(clip)], budget=4000)
    c = common | found
    q = np.frombuffer(base64.b64decode(c["xyz"]), np.int8).reshape(c["T"], 1, 25, 3)
    seen = q[(q[:, 0, 0, 0] != -128)]
    assert "the middle" in c["title"] and len(seen) == c["T"] and np.abs(seen.reshape(-1, 3).max(0) + seen.reshape(-1, 3).min(0)).max() <= 12
    assert c["frames"] < 200 and c["fit"][0] < 2


def test_places_and_labels():
    clips = [make_clip(f"c{i}", 20, seed=i, label=["wave", "jump"][i % 2]) for i in range(8)]
    z = torch.from_numpy(RNG.normal(size=(8, 5)))
    m = feature_map(z, clips)
    assert m.classes == ["jump", "wave"] and m.ids.tolist() == [1, 0] * 4 and m.places.min() == 0 and m.places.max() == 999
    xy = embedding_map(z)
    assert np.array_equal(np.argsort(xy[:, 0]), np.argsort(m.places[:, 0]))
    given_places = feature_map(xy, clips, method=None)
    assert np.array_equal(given_places.places, m.places) and "places as given" in repr(given_places)
    assert feature_map(z, clips, np.arange(8) % 3, CLASSES).ids.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert feature_map(z, clips, ["b", "a"] * 4, ["a", "b"]).ids.tolist() == [1, 0] * 4
    data = data_of(feature_map(z, clips, np.arange(8) % 3, CLASSES)._repr_html_())
    assert data["colors"][0] == "" and len(data["x"]) == 8 and data["names"][1] == "c1, jump"
    for labels, classes, what in ((np.arange(8), CLASSES, "8 labels"), (np.zeros(7, int), CLASSES, "7 labels"), (["x"] * 8, ["y"], "'x' is not"),
                                  (np.zeros(8, int), None, "0 classes")):
        with pytest.raises(ParameterError, match=what):
            feature_map(z, clips, labels, classes)
    with pytest.raises(ParameterError, match="places of shape"):
        feature_map(z[:7], clips)


def test_a_store_and_evil_names(tiny_store):
    page = feature_map(RNG.normal(size=(6, 3)), tiny_store, ['</script><b>"&'] * 6)._repr_html_()
    assert page.count("<script") == 4 == page.count("</script>") and "<b>" not in re.sub(r"<script.*?</script>", "", page, flags=re.S)
    ET.fromstring(base64.b64decode(re.search(r"svg\+xml;base64,([^\"]+)", page)[1]).decode())


# ---- two encoders ------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(0, 10_000))
def test_disagreements_are_the_frames_that_differ(T, seed):
    rng = np.random.default_rng(seed)
    rows = {n: np.repeat(rng.integers(0, 3, T), 2)[:T] for n in "ab"}
    truth = rng.integers(0, 3, T)
    table, marked = disagreements(rows, CLASSES, truth, fps=10), np.zeros(T, int)
    for r in table.itertuples():
        part = slice(round(r.start * 10), round(r.end * 10))
        marked[part] += 1
        assert set(rows["a"][part]) == {CLASSES.index(r.a)} and set(rows["b"][part]) == {CLASSES.index(r.b)} and r.a != r.b
        assert r.right == {r.a: "a", r.b: "b"}.get(r.truth, "none")
    assert np.array_equal(marked, rows["a"] != rows["b"]) and table.seconds.is_monotonic_decreasing


def test_comparison():
    clip = Clip(RNG.normal(size=(60, 1, 25, 3)), 30, "kinect_v2", "take", segments=[(0, 30, "wave"), (30, 60, "jump")])
    p = np.full((60, 3), 0.1)
    p[:, 1] = 0.8  # always wave
    late = np.repeat([1, 2], [40, 20])
    both = compare_encoders(clip, {"always": p, "late": late}, classes=CLASSES)
    assert list(both.player.rows) == ["truth", "always", "late"] and list(both.player.shades) == ["always", "differ"]
    assert both.player.shades["differ"].sum() == 20 and len(both.table) == 1 and both.table.right[0] == "late"
    assert both.words == ("always and late say the same in 67 % of the frames. Of the others, always is right in 0 %, late is right in 100 %, none in 0 %.")
    page = both._repr_html_()
    assert 'data-at="1.333"' in page and "1.3 s" in page
    same = compare_encoders(clip, {"a": late, "b": late}, classes=CLASSES)
    assert not len(same.table) and "100 %" in same.words and "Of the others" not in same.words
    with pytest.raises(ParameterError, match="1 encoder"):
        compare_encoders(clip, {"a": late}, classes=CLASSES)
    with pytest.raises(ParameterError, match="differ in length"):
        compare_encoders(clip, {"a": late, "b": late[:9]}, classes=CLASSES)


# ---- in a browser ------------------------------------------------------------------------------------------------------------------------

PROBE = """<script>
const map = document.querySelector(".skelnb-map"), canvas = map.querySelector(".plot canvas"), box = canvas.getBoundingClientRect();
const title = () => map.querySelector(".skelnb-player b").textContent, px = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
const said = { first: title(), painted: px.filter((v, i) => i % 4 === 3 && v > 100).length };
const at = (type, x, y) => canvas.dispatchEvent(new PointerEvent(type, { clientX: box.left + x, clientY: box.top + y }));
at("pointermove", box.width - 12, 12); said.moved = title();  // the point at the upper right
at("click", box.width - 12, 12); at("pointermove", 12, box.height - 12); said.pinned = title();
at("click", 12, box.height - 12); said.clicked = title();
canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" })); said.next = title();
document.querySelector(".skelnb-compare button[data-at]").click();
said.clock = document.querySelector(".skelnb-compare output").textContent;
window.answer = said;
</script>"""


def test_a_point_plays_its_clip():
    clips = [make_clip(f"c{i}", 30, seed=i, label="wave") for i in range(4)]
    page = feature_map([[0, 0], [1, 1], [0.2, 0.8], [0.5, 0.5]], clips, method=None)._repr_html_()
    both = compare_encoders(clips[0], {"a": np.repeat([0, 1], 15), "b": np.zeros(30, int)}, classes=CLASSES)._repr_html_()
    seen = answer(page + both + PROBE)
    painted = seen.pop("painted")
    assert seen == {"first": "c0, wave", "moved": "c1, wave", "pinned": "c1, wave", "clicked": "c0, wave", "next": "c1, wave", "clock": "0.5 / 1.0 s"}
    assert painted > 100


THEME = """() => {  // as JupyterLab does it: new colours, a word of them, and all is hidden until the next frame
  Object.assign(document.body.style, { color: "white", background: "#111", display: "none" });
  document.body.dataset.jpThemeName = "JupyterLab Dark";
  requestAnimationFrame(() => { document.body.style.display = ""; });
}"""


def test_a_new_theme_is_drawn():
    page = feature_map([[0, 0], [1, 1]], [make_clip(f"c{i}", 30, seed=i) for i in range(2)], method=None)._repr_html_()
    with chromium() as started, tab(started, "about:") as shown:
        shown.set_content(page)
        pictures = "[...document.querySelectorAll('canvas')].map((c) => c.toDataURL())"
        before = shown.evaluate(pictures)
        assert len(before) == 2, "a map and its player"
        shown.evaluate(THEME)
        shown.wait_for_function(f"(before) => {pictures}.every((picture, i) => picture !== before[i])", arg=before)
