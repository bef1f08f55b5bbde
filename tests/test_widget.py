import json
import sys

import numpy as np
import pytest
from conftest import make_clip
from helpers_browser import answer

from skelnb.errors import ParameterError, SkelnbError
from skelnb.reporting import widget as module
from skelnb.reporting.player import Player, player_data
from skelnb.reporting.widget import StaticPlayers, follow, player_widget, script

CLIPS = [make_clip(f"c{i}", 30 + 10 * i, seed=i, label="wave") for i in range(3)]


@pytest.fixture
def bare(monkeypatch):
    "A machine without anywidget."
    module.widget_class.cache_clear()
    monkeypatch.setitem(sys.modules, "anywidget", None)
    yield
    module.widget_class.cache_clear()


def test_frame_and_clip_are_tied():
    pytest.importorskip("anywidget")
    w, heard = player_widget(CLIPS, height=200), []
    w.observe(lambda change: heard.append((change.name, change.new)), ["frame", "clip"])
    assert w.names == ["c0, wave", "c1, wave", "c2, wave"] and w._data["pixels"] == 200
    w.frame = 12
    w.clip = 2
    assert heard[0] == ("frame", 12) and ("clip", 2) in heard and w.frame == 0
    assert w._data == player_data(w.players[2]) and json.dumps(w._data)  # plain values only
    w.frame = 1000
    assert w.frame == 49 and w.player.clip is CLIPS[2]
    with pytest.raises(ParameterError, match="clip = 3 with 3"):
        w.clip = 3
    with pytest.raises(ParameterError, match="no clip"):
        player_widget([])


def test_any_player_and_equal_names():
    pytest.importorskip("anywidget")
    w = player_widget([Player({"a": CLIPS[0], "b": CLIPS[1]}), CLIPS[2], CLIPS[2], CLIPS[0].xyz])
    assert w.names == ["a", "c2, wave", "c2, wave (2)", "clip 3"] and len(w._data["clips"]) == 2
    assert player_widget({"x": CLIPS[0]}).names == ["x"] and player_widget(CLIPS[1]).names == ["c1, wave"]
    html = w._repr_mimebundle_()[0]
    assert "skelnb-player" in html["text/html"] and "application/vnd.jupyter.widget-view+json" in html


def test_without_the_extra(bare):
    w = player_widget(CLIPS, uncertainty=None)
    assert isinstance(w, StaticPlayers) and w._repr_html_().count('<div class="skelnb-player"') == 3
    w.observe(print, "frame")
    w.clip, w.frame = 2, 7
    assert w.player.clip is CLIPS[2]
    shown = follow(w, lambda player, frame: f"<b>{player.title} {frame}</b>")._repr_html_()
    assert "<b>c2, wave 7</b>" in shown and shown.count('<div class="skelnb-player"') == 3
    with pytest.raises(SkelnbError, match=r"skelnb\[lab\]"):
        player_widget(CLIPS, fallback=False)


def test_a_plot_follows():
    pytest.importorskip("anywidget")
    w = player_widget(CLIPS)
    box = follow(w, lambda player, frame: f"{player.title} {frame}")
    w.frame = 9
    assert box.children[1].value == "c0, wave 9"
    w.clip = 1
    assert box.children[1].value == "c1, wave 0"
    bundle = box._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle and "c1, wave 0" in bundle["text/html"] and "skelnb-player" in bundle["text/html"]
    with pytest.raises(ParameterError, match="int shows itself neither"):
        follow(w, lambda player, frame: 3)


HOST = """<script type="module">
%s
const values = DATA, calls = {}, sent = [];
const model = { get: (k) => values[k], set: (k, v) => { values[k] = v; sent.push([k, v]); },
  save_changes() {}, on: (e, f) => { calls[e] = f; }, off: (e) => delete calls[e] };
const el = document.createElement("div");  // JupyterLab puts it into the page later
const close = widget.render({ model, el }), player = el.querySelector(".skelnb-player"), said = {};
document.body.append(el);
said.start = player.skelnb.frame();
player.skelnb.seek(1);
values.frame = 20; calls["change:frame"](); said.moved = player.skelnb.frame();
const pick = el.querySelector(".pick");
pick.value = 1; pick.onchange();
said.sent = [...sent];
values._data = OTHER; calls["change:_data"](); said.title = player.querySelector("b").textContent; said.frame = values.frame; said.hidden = pick.hidden;
close(); said.left = Object.keys(calls).length;
window.answer = said;
</script>"""


def test_the_page_and_the_model_agree():
    first, other = (player_data(Player(c)) for c in CLIPS[:2])
    values = {"frame": 7, "clip": 0, "names": ["c0", "c1"], "_data": first}
    page = HOST.replace("%s", script().replace("export default", "const widget =")).replace("DATA", json.dumps(values)).replace("OTHER", json.dumps(other))
    seen = answer(page)
    assert seen == {"start": 7, "moved": 20, "sent": [["frame", 29], ["clip", 1]], "title": "c1, wave", "frame": 0, "hidden": False, "left": 0}
    assert np.isfinite(first["seconds"])
