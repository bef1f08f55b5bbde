"""The table of a comparison: any encoders, any protocols, intervals, and refusals."""

import numpy as np
import pytest
import torch

from skelnb.data.labelled import draw_labelled
from skelnb.data.synthetic import make_store
from skelnb.errors import DataError, ParameterError, SkelnbError
from skelnb.evaluation.bank import View, extract_bank
from skelnb.evaluation.detection import DetectionConfig
from skelnb.evaluation.features import RawCoordinates
from skelnb.evaluation.linear import logistic_regression
from skelnb.evaluation.neighbours import knn, retrieval
from skelnb.evaluation.protocols import (
    PROTOCOLS,
    Entrant,
    FrameMeasures,
    Measures,
    centroids,
    few_labels,
    linear,
    logistic,
    measure,
    measure_frames,
    neighbours,
    raw_coordinates,
    retrieve,
)
from skelnb.methods.lode import Lode
from skelnb.methods.usdrl import Usdrl, UsdrlPreset


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("protocols") / "store", 60, seed=3, noise=0.03)


@pytest.fixture(scope="module")
def takes(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("protocols") / "takes", 8, seed=1, untrimmed=True)


def random_lode(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Lode("tiny")


def rows(bank, store):
    return [bank.examples(store, "flat", clips=store.split("split", part)) for part in ("train", "test")]


def test_cells_are_the_protocols_themselves(store):
    entrant = raw_coordinates()
    found = measure({"raw": entrant}, store, ("logistic", "1-NN", "20-NN", "retrieval", "centroids", "10 % labels"), seeds=(0, 5))
    bank = extract_bank(entrant.encoder, store, None, None, entrant.view, entrant.readout)
    train, test = rows(bank, store)
    np.testing.assert_allclose(found.of("raw", "logistic")[0].scores, logistic_regression(train, test).scores, rtol=1e-4, atol=1e-4)
    assert np.array_equal(found.of("raw", "1-NN")[0].predicted, knn(train, test, 1).predicted)
    np.testing.assert_allclose(found.of("raw", "retrieval")[0].ap, retrieval(train, test, (1, 5, 10)).ap)
    lists = [o.notes for o in found.of("raw", "10 % labels")]
    assert len(lists) == 2 and [len(found.of("raw", p)) for p in ("logistic", "1-NN", "retrieval", "centroids")] == [1] * 4


def test_few_labels_uses_the_list_of_its_seed(store):
    seen = {}

    def spy(task, seed):
        seen[seed] = task.train.clips.tolist()
        return knn(task.train, task.test, 1)

    measure({"raw": raw_coordinates()}, store, {"few": few_labels(0.2, spy)}, seeds=(0, 1, 2))
    train = set(store.split("split", "train").tolist())
    assert len({tuple(c) for c in seen.values()}) == 3 and all(set(c) < train for c in seen.values())
    assert seen[1] == draw_labelled(store, "split", "train", 0.2, 1).tolist()


def test_an_encoder_for_each_seed_is_measured_once_each(store):
    encoders = [random_lode(s) for s in range(3)]
    found = measure({"random": Entrant(encoders, View(frames=32, part=1.0))}, store, ("1-NN", "logistic"), seeds=(0, 1, 2))
    cell = found.of("random", "1-NN")
    assert len(cell) == 3 and len({o.scores.tobytes() for o in cell}) == 3
    table = found.table()
    row = table.loc[("1-NN", "random")]
    accuracies = [100 * o.accuracy for o in cell]
    assert row["mean"] == pytest.approx(np.mean(accuracies)) and row["sd"] == pytest.approx(np.std(accuracies, ddof=1)) and row["seeds"] == 3
    assert row["low"] <= row["mean"] <= row["high"] and "people" in row["over"] and row["selection"] == "last"
    assert "clips" in found.table(groups=None).loc[("1-NN", "random"), "over"]
    assert list(found.features.index) == ["random"] and found.features.loc["random", "width"] == cell[0].settings.get("width", found.features["width"].iloc[0])


def test_an_encoder_that_sees_all_persons_at_once(store):
    usdrl = Usdrl(UsdrlPreset.named("tiny"))
    found = measure({"usdrl": Entrant(usdrl, View(frames=32, part=1.0))}, store, ("1-NN",))
    assert 0 < found.of("usdrl", "1-NN")[0].accuracy <= 1


def test_comparison_is_paired(store):
    entrants = {"raw": raw_coordinates(), "again": raw_coordinates(), "random": Entrant(random_lode(0), View(frames=32, part=1.0))}
    found = measure(entrants, store, ("1-NN", "retrieval"))
    same = found.compare("raw", "again", "1-NN")
    assert same.difference.estimate == 0 and same.wins == same.losses == 0
    other = found.compare("raw", "random", "retrieval", groups=None)
    maps = [found.of(n, "retrieval")[0].map for n in ("raw", "random")]
    assert other.difference.estimate == pytest.approx(maps[0] - maps[1]) and other.difference.unit in ("items", "clips")


def test_features_are_kept_in_the_folder(store, tmp_path):
    entrants = {"raw coordinates": raw_coordinates()}
    first = measure(entrants, store, ("1-NN",), folder=tmp_path)
    assert (tmp_path / "raw_coordinates-0" / "bank.json").is_file()
    again = measure(entrants, store, ("1-NN",), folder=tmp_path)
    assert np.array_equal(first.of("raw coordinates", "1-NN")[0].scores, again.of("raw coordinates", "1-NN")[0].scores)


def test_selection_is_shown(store):
    protocols = {"fixed": linear(share=0.1), "on the test set": linear(share=0.1, selection="best_test"),
                 "on people held out": linear(share=0.1, lr=(0.01, 0.1), selection="validation")}
    found = measure({"raw": raw_coordinates()}, store, protocols, seeds=(0, 1))
    assert found.table()["selection"].droplevel("entrant").to_dict() == {"fixed": "last", "on the test set": "best_test", "on people held out": "validation"}
    best = found.of("raw", "on the test set")[0].notes
    assert best["best"] >= best["last"]


def test_frames(takes):
    settings = DetectionConfig.named("segmentation", window=32, stride=32, overrides=dict(epochs=4))
    found = measure_frames({"raw": RawCoordinates(4), "random": [random_lode(0), random_lode(1)]}, takes, settings, seeds=(0, 1))
    assert isinstance(found, FrameMeasures) and set(found.outcomes) == {"raw", "random"}
    table, accuracy = found.table(), found.accuracy()
    assert {"official", "corrected"} <= set(table.index.get_level_values("mode")) and list(table.columns) == ["raw", "random"]
    for name in table:
        cell = found.outcomes[name]
        right = np.mean([np.concatenate(list(o.right.values())).mean() for o in cell])
        assert accuracy.loc[name, "mean"] == pytest.approx(100 * right) and accuracy.loc[name, "low"] <= 100 * right <= accuracy.loc[name, "high"]
        assert table.loc[("acc", "argmax", ""), name] == pytest.approx(100 * right, abs=1e-4)
    assert found.spread()["random"].notna().all()
    assert found.compare("raw", "raw").difference.estimate == 0
    with pytest.raises(ParameterError, match="did you mean 'raw'"):
        found.compare("raw", "rawe")


def test_bad_requests(store, takes):
    raw = {"raw": raw_coordinates()}
    with pytest.raises(ParameterError, match="did you mean 'retrieval'"):
        measure(raw, store, ("retrival",))
    for call in (lambda: measure({}, store), lambda: measure(raw, store, seeds=()), lambda: measure(raw, store, {})):
        with pytest.raises(ParameterError, match="at least one of each"):
            call()
    with pytest.raises(ParameterError):
        Entrant([])
    with pytest.raises(DataError, match="label"):
        measure(raw, takes, ("1-NN",))
    with pytest.raises(SkelnbError, match="no split"):
        measure(raw, store, ("1-NN",), split=("xsub", "train", "test"))
    found = measure(raw, store, ("1-NN",))
    with pytest.raises(ParameterError, match="was not measured"):
        found.of("raw", "linear")


def test_named_protocols_are_the_factories():
    assert set(PROTOCOLS) == {"linear", "logistic", "1-NN", "20-NN", "retrieval", "centroids", "10 % labels", "1 % labels"}
    assert all(map(callable, (linear(), logistic(), neighbours(), centroids(), retrieve(), few_labels())))
    assert Measures({}).features.empty
