"""Tables of reports: people apart, means and intervals from the same outcomes, sentences that agree with `Measures`."""

import numpy as np
import pytest

from skelnb import settings
from skelnb.errors import ParameterError
from skelnb.evaluation.protocols import measure, raw_coordinates
from skelnb.interface.tables import Scores, find_recordings
from skelnb.interface.trials import Pretraining


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return find_recordings("synthetic", [], settings.load(), tmp_path_factory.mktemp("report"), n=96)


@pytest.fixture(scope="module")
def scores(found):
    entrants = {"coarse": raw_coordinates(4), "fine": raw_coordinates(16)}
    m = measure(entrants, found.trimmed["synthetic clips"], ["1-NN", "retrieval"], seeds=[0])
    return Scores({"here": m, "there": m})


def test_nobody_is_scored_on_who_may_be_learnt_from(found):
    p = Pretraining(method="usdrl", preset="tiny", without=found.unseen)
    facts = found.facts(p)
    assert {*found.people("synthetic clips", "test")} <= {*found.unseen} and {*found.people("takes", "test")} <= {*found.unseen}
    assert facts.loc["learnt from, no labels", "training clips"] < len(found.pretrain)
    assert facts.loc["synthetic clips", ["training clips", "test clips"]].sum() == 96 and facts.loc["takes", "classes"] == len(found.takes.classes) - 1


def test_unknown_data(tmp_path):
    with pytest.raises(ParameterError, match="use synthetic or open"):
        find_recordings("opne", [], settings.load(), tmp_path)


def test_table_holds_the_means_and_marks_the_best(scores):
    m, table = scores.measured["here"], scores.table(["coarse", "fine"], ["1-NN", "retrieval"])
    assert list(table.index) == [(s, n) for s in ("here", "there") for n in ("coarse", "fine")]
    for name in ("coarse", "fine"):
        assert table.loc[("here", name), "1-NN"] == f"{100 * m.of(name, '1-NN')[0].accuracy:.1f}"
    html = scores.styled(["coarse", "fine"], ["1-NN"], "t", "caption")._compute().ctx
    best = max(("coarse", "fine"), key=lambda n: m.of(n, "1-NN")[0].accuracy)
    assert [row for (row, _), style in html.items() if ("font-weight", "bold") in style] == [i for i in range(4) if table.index[i][1] == best]


def test_first_seed_has_a_mean_over_stores(scores):
    one = scores.first(["fine"], ["retrieval"])
    assert one.loc["fine", ("retrieval", "mean")] == pytest.approx(one.loc["fine", ("retrieval", "here")])
    assert np.isnan(scores.first(["fine", "absent"], ["retrieval"]).loc["absent"]).all()


def test_sentences_and_picture(scores):
    c = scores.measured["here"].compare("fine", "coarse", "1-NN")
    line = scores.against("fine", ["coarse"], ["1-NN"]).splitlines()[0]
    difference, low, high = (100 * v for v in c.difference[:3])
    assert line == f"- *here*, fine against **coarse**: 1-NN {difference:+.1f} ({low:+.1f} to {high:+.1f})"
    order = [t.get_text() for t in scores.intervals(["coarse", "fine"], ["retrieval", "1-NN"]).axes[0].texts if "," in t.get_text()]
    assert order == ["retrieval, here", "retrieval, there", "1-NN, here", "1-NN, there"]
