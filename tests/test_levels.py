"""metrics.json beyond images: levels, subgroups, operating points, the procedure's interval."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from test_intervals import draw

from medkit.errors import UsageError
from medkit.statistics import procedure
from medkit.statistics.outcomes import Outcomes
from medkit.statistics.procedure import Refits
from medkit.statistics.summary import FEW_OF_A_GROUP, summarise
from medkit.workspace import dump_json


def test_persons_are_measured_by_the_rule_that_was_declared() -> None:
    cohort = draw(images=120, persons=30)
    found = summarise(**cohort, seed=0, resamples=100, rule="geometric")
    assert found["aggregation"] == {"method": "geometric", "declared": "before the run"}
    person = found["levels"]["person"]
    assert (person["n"], person["persons"], person["mixed"]) == (30, 30, 0)
    assert found["levels"]["image"]["metrics"] == found["metrics"]
    right = 0
    for name in np.unique(cohort["persons"]):
        rows = cohort["persons"] == name
        told = np.log(cohort["probabilities"][rows]).mean(axis=0)
        right += told.argmax() == cohort["labels"][rows][0]
    assert person["metrics"]["accuracy"]["value"] == pytest.approx(right / 30)
    entry = person["metrics"]["auc"]
    assert entry["low"] <= entry["value"] <= entry["high"]


def test_a_level_that_the_set_does_not_know_is_null_with_the_reason() -> None:
    cohort = draw(images=60, persons=20)
    study = np.arange(60).astype(str)
    series = np.where(np.arange(60) == 7, "", "s")
    found = summarise(**cohort, seed=0, resamples=20, units={"series": series, "study": study})
    assert found["levels"]["series"] is None
    assert any("level series" in note for note in found["notes"])
    assert found["levels"]["study"]["note"] == "every study has one image"
    assert found["levels"]["study"]["metrics"] == found["metrics"]


def test_a_person_with_several_labels_is_counted_and_left_out() -> None:
    cohort = draw(images=60, persons=20)
    cohort["labels"] = np.where(cohort["persons"] == "p003", np.arange(60) % 2, cohort["labels"])
    cohort["labels"][np.flatnonzero(cohort["persons"] == "p003")[:2]] = [0, 1]
    found = summarise(**cohort, seed=0, resamples=20)["levels"]["person"]
    assert (found["n"], found["mixed"]) == (19, 1)
    found = summarise(**cohort, seed=0, resamples=20, rule="max")["levels"]["person"]
    assert (found["n"], found["mixed"]) == (20, 1)


def test_the_rule_must_fit_the_classes() -> None:
    with pytest.raises(UsageError, match="for two classes"):
        summarise(**draw(classes=3), seed=0, rule="max")


def test_subgroups_are_measured_alone_and_small_ones_say_so() -> None:
    cohort = draw(images=240, persons=40)
    maker = np.where(cohort["persons"] < "p030", "Acme", "Bolt")
    rare = np.where(np.isin(cohort["persons"], ["p001", "p003"]), "X", "Y")
    found = summarise(
        **cohort,
        seed=0,
        resamples=50,
        groups={"Manufacturer": maker, "kind": rare, "same": np.full(240, "one")},
    )
    groups = {(one["by"], one["value"]): one for one in found["subgroups"]}
    assert list(groups) == [
        *(("Manufacturer", "Acme"), ("Manufacturer", "Bolt")),
        *(("kind", "Y"), ("kind", "X")),
    ]
    acme = groups["Manufacturer", "Acme"]
    rows = maker == "Acme"
    assert (acme["images"], acme["persons"]) == (rows.sum(), 30)
    assert sum(acme["classes"].values()) == rows.sum()
    decided = cohort["probabilities"][rows].argmax(axis=1)
    assert acme["metrics"]["accuracy"]["value"] == pytest.approx(
        (decided == cohort["labels"][rows]).mean()
    )
    small = groups["kind", "X"]
    assert small["persons"] == 2 < FEW_OF_A_GROUP
    assert small["metrics"]["accuracy"]["value"] is not None
    assert small["metrics"]["accuracy"]["low"] is None
    assert "2 persons: no interval" in small["note"]
    # Both are of one class: what needs the other is null, and said to be.
    assert small["metrics"]["auc"] == {"value": None, "low": None, "high": None}
    assert "auc" in small["note"]
    dump_json(found)


def test_a_column_of_many_values_keeps_the_largest() -> None:
    cohort = draw(images=240, persons=40)
    site = np.array([f"s{number % 30:02}" for number in range(240)])
    groups = summarise(**cohort, seed=0, resamples=10, groups={"source": site})["subgroups"]
    assert len(groups) == 13
    assert groups[-1]["value"] == "18 others"
    assert sum(one["images"] for one in groups) == 240


def test_no_fold_has_a_say_in_its_own_threshold() -> None:
    cohort = draw(images=200, persons=40)
    found = {
        one["rule"]: one for one in summarise(**cohort, seed=0, resamples=20)["operating_points"]
    }
    # Its labels turned round, a fold gets the threshold that it had.
    other = {
        **cohort,
        "labels": np.where(cohort["folds"] == 2, 1 - cohort["labels"], cohort["labels"]),
    }
    moved = {
        one["rule"]: one for one in summarise(**other, seed=0, resamples=20)["operating_points"]
    }
    for rule, one in found.items():
        assert one["thresholds"][2] == moved[rule]["thresholds"][2]
    assert any(one["thresholds"] != moved[rule]["thresholds"] for rule, one in found.items())
    sensitive = found["sensitivity=0.9"]
    rows = cohort["labels"] == 1
    passed = cohort["probabilities"][:, 1] >= np.array(sensitive["thresholds"])[cohort["folds"]]
    assert sensitive["sensitivity"]["value"] == pytest.approx(passed[rows].mean())
    assert sensitive["npv"]["value"] == pytest.approx(1 - rows[~passed].mean())


def test_several_labels_an_image_have_their_own_classes() -> None:
    random = np.random.default_rng(0)
    labels, told = random.integers(-1, 2, (120, 3)), random.random((120, 3))
    persons, folds = np.arange(120) // 3, np.arange(120) // 3 % 4
    found = summarise(labels, told, persons, folds, ["a", "b", "c"], seed=0, resamples=50)
    dump_json(found)
    assert found["positive"] is None
    assert [one["label"] for one in found["operating_points"][::5]] == ["a", "b", "c"]
    assert np.shape(found["confusion"]) == (3, 2, 2)
    assert found["per_class"]["b"]["images"] == (labels[:, 1] == 1).sum()
    assert found["metrics"]["auc"]["low"] < found["metrics"]["auc"]["high"]


def test_the_headline_shows_the_wider_interval_and_says_what_it_covers() -> None:
    found = summarise(**draw(), seed=0, resamples=200)
    own, wide = found["metrics"]["balanced_accuracy"], found["procedure"]
    assert wide["low"] == pytest.approx(own["value"] - 1.5 * (own["value"] - own["low"]))
    assert wide["factor"] == procedure.correct(5) == 1.5
    assert found["headline_interval"]["shows"] == "procedure"
    assert found["headline_interval"]["low"] == wide["low"]
    assert "way of training" in found["headline_interval"]["covers"]
    one_model = {**draw(), "folds": np.zeros(240, dtype=int)}
    alone = summarise(**one_model, seed=0, resamples=50)
    assert alone["procedure"] is None
    assert alone["headline_interval"]["shows"] == "persons"
    assert "same models" in alone["headline_interval"]["covers"]


def make_refits(cohort: dict[str, Any], wrong: float) -> list[Refits]:
    """Fits on pairs that say what the folds' models say, but for a share of the images."""
    told, folds = cohort["probabilities"], cohort["folds"]
    other = np.where((np.random.default_rng(0).random(len(told)) < wrong)[:, None], 1 - told, told)
    return [Refits(folds, told, {pair: other for pair in combinations(range(5), 2)})]


def test_nested_factors_lie_between_what_persons_and_what_one_fold_would_give() -> None:
    cohort = draw(images=400, persons=100)
    outcomes = Outcomes(
        *(cohort[name] for name in ("labels", "probabilities", "persons", "classes"))
    )
    errors = {"accuracy": 0.1, "auc": 0.1, "mcc": 0.0}
    same = procedure.nest(outcomes, make_refits(cohort, 0.0), errors, seed=0)
    far = procedure.nest(outcomes, make_refits(cohort, 0.9), errors, seed=0)
    assert all(1 <= factor <= math.sqrt(5) for factor in (*same.values(), *far.values()))
    assert far["accuracy"] == pytest.approx(math.sqrt(5))
    assert same["accuracy"] < far["accuracy"]
    assert same["mcc"] == procedure.correct(5)  # without an error nothing can be compared


def test_what_the_other_folds_say_is_from_models_that_saw_neither() -> None:
    folds = np.array([0, 1, 2, 2])
    pairs = {pair: np.full((4, 2), 10 * pair[0] + pair[1]) for pair in combinations(range(3), 2)}
    refits = Refits(folds, np.zeros((4, 2)), pairs)
    assert refits.predict_inner(1)[:, 0].tolist() == [1, 0, 12, 12]


def test_an_interval_is_stretched_within_what_the_metric_can_be() -> None:
    entry = {"value": 0.9, "low": 0.7, "high": 0.95}
    assert procedure.stretch("auc", entry, 2)["high"] == pytest.approx(1)
    assert procedure.stretch("auc", entry, 2)["low"] == pytest.approx(0.5)
    assert procedure.stretch("log_loss", entry, 20)["high"] == pytest.approx(1.9)
    assert procedure.stretch("mcc", entry, 20)["low"] == -1
    unknown = {"value": 0.9, "low": None, "high": None}
    assert procedure.stretch("auc", unknown, 2) == unknown


def test_refits_take_the_place_of_the_estimate() -> None:
    cohort = draw()
    found = summarise(**cohort, seed=0, resamples=50, refits=make_refits(cohort, 0.2))["procedure"]
    assert (found["repeats"], found["fits"]) == (1, 10)
    assert "nested" in found["method"]
    assert 1 <= found["factor"] <= math.sqrt(5)
