"""Metrics of plugins: measured by hand once, and then resampled, described and compared as ours."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from test_intervals import draw

from medkit.errors import PluginError, UsageError
from medkit.statistics import plugged
from medkit.statistics.outcomes import Outcomes
from medkit.statistics.plugged import Metric, load_metrics
from medkit.statistics.summary import summarise
from medkit.workspace import dump_json


def share_right(outcomes: Outcomes, weights: Any) -> Any:
    """Accuracy, as a plugin would write it."""
    right = outcomes.decide() == outcomes.labels
    return (weights * right).sum(axis=1) / weights.sum(axis=1)


OURS = Metric("share_right", share_right, "Share that is right")


def test_it_gets_what_accuracy_gets_everywhere() -> None:
    cohort = draw(images=120, persons=40)
    groups = {"hospital": np.repeat(["north", "south"], 60)}
    found = summarise(**cohort, seed=0, resamples=200, plugged=[OURS], groups=groups)
    assert found["plugged"]["share_right"] == {
        "title": "Share that is right", "better": "higher", "range": [0.0, 1.0]
    }  # fmt: skip
    places = [
        found["metrics"],
        found["procedure"]["metrics"],
        found["levels"]["person"]["metrics"],
        *(fold["metrics"] for fold in found["folds"]),
        *(group["metrics"] for group in found["subgroups"]),
        *found["baselines"].values(),
    ]
    assert len(places) == 3 + 5 + 2 + 2
    for place in places:
        assert place["share_right"] == pytest.approx(place["accuracy"]), place
    assert found["metrics"]["share_right"]["low"] < found["metrics"]["share_right"]["value"]
    json.loads(dump_json(found))


def test_the_others_stay_as_they_were() -> None:
    cohort = draw(images=80, persons=20)
    bare = summarise(**cohort, seed=0, resamples=50)
    full = summarise(**cohort, seed=0, resamples=50, plugged=[OURS])
    full["metrics"].pop("share_right")
    assert full["metrics"] == bare["metrics"]
    assert bare["plugged"] == {}


def test_of_several_labels_it_is_the_mean_over_them() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (60, 3))
    probabilities = random.random((60, 3))
    metric = Metric("share_right", share_right, "", classes=2)
    persons, folds = np.repeat(np.arange(30), 2).astype(str), np.repeat(np.arange(30) % 3, 2)
    found = summarise(
        labels, probabilities, persons, folds, list("abc"), seed=0, resamples=20, plugged=[metric]
    )
    expected = ((probabilities > 0.5) == labels).mean()
    assert found["metrics"]["share_right"]["value"] == pytest.approx(expected)


def test_one_for_two_classes_is_noted_where_there_are_three() -> None:
    random = np.random.default_rng(0)
    metric = Metric("share_right", share_right, "", classes=2)
    told = random.dirichlet(np.ones(3), 60)
    persons = np.repeat(np.arange(30), 2).astype(str)
    found = summarise(
        np.arange(60) % 3, told, persons, np.arange(60) % 2, list("abc"),
        seed=0, resamples=20, plugged=[metric],
    )  # fmt: skip
    assert "share_right" not in found["metrics"]
    assert "share_right: not measured, as it is for two classes" in found["notes"]


def test_a_stretched_interval_stays_within_what_it_can_be() -> None:
    cohort = draw(images=40, persons=10)
    low = Metric("cost", lambda o, w: -share_right(o, w) * 5, "Cost", "lower", -np.inf, 0.0)
    found = summarise(**cohort, seed=0, resamples=100, plugged=[low])
    entry = found["procedure"]["metrics"]["cost"]
    assert entry["low"] < -1 and entry["high"] <= 0
    assert found["plugged"]["cost"]["range"] == [None, 0.0]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda o, w: 1 / 0, "'odd' failed: ZeroDivisionError"),
        (lambda o, w: 0.5, "one a row"),
        (lambda o, w: w, "one a row"),
        (lambda o, w: "high", "failed: ValueError"),
    ],
)
def test_one_that_fails_is_named(function: Any, words: str) -> None:
    cohort = draw(images=40, persons=10)
    with pytest.raises(PluginError, match=words):
        summarise(**cohort, seed=0, resamples=10, plugged=[Metric("odd", function, "Odd")])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (3, "adds no metrics: it gave 3"),
        ([OURS, 3], "adds no metrics"),
        ([Metric("auc", share_right, "")], "'auc' is taken"),
        ([OURS, OURS], "is taken"),
        ([Metric("A<b>", share_right, "")], "is none"),
    ],
)
def test_what_a_plugin_gives_is_checked(
    given: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugged, "load_plugin", lambda kind, name: given)

    class Entry:
        origin = "mine 1.0"

    monkeypatch.setattr(plugged, "find_plugin", lambda kind, name: Entry)
    with pytest.raises(PluginError, match=words):
        load_metrics(["mine"])


def test_one_that_is_not_installed_is_named() -> None:
    with pytest.raises(UsageError, match="no metric plugin is named 'missing'"):
        load_metrics(["missing"])
