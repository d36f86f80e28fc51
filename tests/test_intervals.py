"""The content of metrics.json: intervals by person, baselines, and what does not exist."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap
from sklearn import metrics as reference

from medkit.errors import TrainingError, UsageError
from medkit.statistics.intervals import find_interval, resample_persons
from medkit.statistics.metrics import NAMES, Measured
from medkit.statistics.outcomes import Notes, Outcomes, estimate
from medkit.statistics.summary import summarise
from medkit.workspace import dump_json


def draw(images: int = 240, persons: int = 40, classes: int = 2, seed: int = 0) -> dict[str, Any]:
    """Arguments of summarise: persons of one label each, predictions better than chance."""
    random = np.random.default_rng(seed)
    person = random.permutation(np.arange(images) % persons)
    labels = person % classes
    odds = random.dirichlet(np.ones(classes), images) + 0.5 * np.eye(classes)[labels]
    return {
        "labels": labels,
        "probabilities": odds / odds.sum(axis=1, keepdims=True),
        "persons": np.array([f"p{number:03}" for number in person]),
        "folds": person % 5,
        "classes": [f"c{number}" for number in range(classes)],
    }


def test_all_the_parts_are_there_and_add_up() -> None:
    cohort = draw(classes=3)
    found = summarise(**cohort, seed=0, resamples=200)
    assert tuple(found["metrics"]) == NAMES and found["headline"] in NAMES
    assert found["images"] == np.sum(found["confusion"]) == 240
    assert sum(fold["images"] for fold in found["folds"]) == 240
    assert sum(fold["persons"] for fold in found["folds"]) == found["persons"] == 40
    assert sum(part["images"] for part in found["per_class"].values()) == 240
    assert sum(part["prevalence"] for part in found["per_class"].values()) == pytest.approx(1)
    for entry in found["metrics"].values():
        assert entry["low"] <= entry["value"] <= entry["high"]
    assert "other persons" in found["interval"]["covers"]
    dump_json(found)


def test_the_same_seed_gives_the_same_whatever_the_order_of_the_rows() -> None:
    cohort = draw()
    first = summarise(**cohort, seed=3, resamples=100)
    order = np.random.default_rng(0).permutation(240)
    shuffled = {
        name: values if name == "classes" else values[order] for name, values in cohort.items()
    }
    second = summarise(**shuffled, seed=3, resamples=100)
    for name in NAMES:
        assert first["metrics"][name] == pytest.approx(second["metrics"][name], abs=1e-12)
    assert first == summarise(**cohort, seed=3, resamples=100)
    assert first["metrics"] != summarise(**cohort, seed=4, resamples=100)["metrics"]


def test_a_resample_is_persons_drawn_with_replacement() -> None:
    """The same draws, spelled out with repeated rows and scikit-learn."""
    cohort = draw(persons=25)
    labels, probabilities, persons = (
        cohort[name] for name in ("labels", "probabilities", "persons")
    )
    found = Outcomes(labels, probabilities, persons, cohort["classes"]).estimate(1, 20)
    drawn = found.draws.drawn.metrics
    names = np.unique(persons)
    random = np.random.default_rng(1)
    for number in range(20):
        chosen = names[random.integers(len(names), size=len(names))]
        rows = np.concatenate([np.flatnonzero(persons == name) for name in chosen])
        auc = reference.roc_auc_score(labels[rows], probabilities[rows, 1])
        assert drawn["auc"][number] == pytest.approx(auc, abs=1e-12)
        loss = reference.log_loss(labels[rows], probabilities[rows])
        assert drawn["log_loss"][number] == pytest.approx(loss, abs=1e-12)


def test_images_of_a_person_stay_together_and_every_resample_has_all_its_persons() -> None:
    persons = np.array(["b", "a", "b", "c", "a"])
    weights = np.concatenate(list(resample_persons(persons, seed=0, resamples=500)))
    assert weights.shape == (500, 5)
    assert (weights[:, 0] == weights[:, 2]).all() and (weights[:, 1] == weights[:, 4]).all()
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()


def test_an_interval_covers_the_truth_where_one_by_images_does_not() -> None:
    """Five images a person that are right or wrong together: an effective fifth of the images."""
    covered = dict.fromkeys(("person", "image"), 0)
    random = np.random.default_rng(0)
    for cohort in range(100):
        right = np.repeat(random.random(60) < 0.7, 5)
        for unit, persons in (("person", np.arange(300) // 5), ("image", np.arange(300))):
            found = estimate(partial(share, right), persons, cohort, 200).describe(Notes())
            covered[unit] += int(found["accuracy"]["low"] <= 0.7 <= found["accuracy"]["high"])
    assert covered["person"] >= 90
    assert covered["image"] <= 75


def share(right: np.ndarray, weights: np.ndarray) -> Measured:
    return Measured({"accuracy": weights @ right / weights.sum(axis=-1)}, {})


def test_a_corrected_interval_is_that_of_its_paper() -> None:
    """BCa of a mean, against scipy's, which has neither persons nor Student's t."""
    random = np.random.default_rng(0)
    values = random.exponential(size=40)
    found = estimate(partial(mean, values), np.arange(40), seed=1, resamples=20_000)
    drawn, left_out = (part.metrics["mean"] for part in found.draws)
    low, high = find_interval(drawn, float(values.mean()), left_out)
    expected = bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(2)
    ).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.02)
    plain = find_interval(drawn)
    assert low > plain[0]
    assert high > plain[1]
    wider = find_interval(drawn, float(values.mean()), left_out, units=10)
    assert wider[0] < low
    assert wider[1] > high


def mean(values: np.ndarray, weights: np.ndarray) -> Measured:
    return Measured({"mean": weights @ values / weights.sum(axis=-1)}, {})


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 3), st.booleans())
def test_an_interval_holds_its_value_or_there_is_none(seed: int, classes: int, sure: bool) -> None:
    """Of well-calibrated predictions, too, whose errors of calibration grow in each resample."""
    random = np.random.default_rng(seed)
    stated = random.dirichlet(np.full(classes, 0.2 if sure else 1.0), 200)
    labels = (random.random(200)[:, np.newaxis] > stated.cumsum(axis=1)[:, :-1]).sum(axis=1)
    names = [f"c{number}" for number in range(classes)]
    found = summarise(
        labels, stated, np.arange(200), np.arange(200) % 5, names, seed=0, resamples=200
    )
    entries = [*found["metrics"].values()]
    entries += [one for part in found["per_class"].values() for one in part.values()]
    for entry in (one for one in entries if isinstance(one, dict) and one["low"] is not None):
        assert entry["low"] - 1e-12 <= entry["value"] <= entry["high"] + 1e-12


def test_an_error_of_calibration_near_zero_has_no_interval_and_a_note() -> None:
    random = np.random.default_rng(0)
    stated = np.repeat(random.random(50), 20)
    right = np.tile(np.arange(20), 50) / 20 < stated  # as often as it is said
    found = summarise(
        right.astype(int), np.column_stack([1 - stated, stated]), np.arange(1000),
        np.arange(1000) % 5, ["no", "yes"], seed=0, resamples=200,
    )  # fmt: skip
    assert found["metrics"]["ece"]["low"] is None
    assert found["metrics"]["auc"]["low"] is not None
    assert any(note.startswith("ece") and "one side" in note for note in found["notes"])


def test_a_class_of_one_person_has_a_value_and_no_interval() -> None:
    cohort = draw()
    cohort["labels"] = (cohort["persons"] == "p000").astype(int)
    found = summarise(**cohort, seed=0, resamples=200)
    assert found["metrics"]["balanced_accuracy"]["value"] is not None
    assert found["metrics"]["balanced_accuracy"]["low"] is None
    assert found["metrics"]["accuracy"]["low"] is not None
    assert any("balanced_accuracy" in note and "resamples" in note for note in found["notes"])


def test_a_class_without_images_is_null_with_the_reason() -> None:
    cohort = draw(classes=3)
    cohort["classes"], cohort["labels"] = ["c0", "c1", "c2"], cohort["labels"] % 2
    found = summarise(**cohort, seed=0, resamples=50)
    assert found["per_class"]["c2"]["sensitivity"] == {"value": None, "low": None, "high": None}
    assert any("sensitivity of c2" in note for note in found["notes"])
    assert found["metrics"]["balanced_accuracy"]["value"] is not None


def test_guessing_scores_as_guessing_also_where_folds_are_uneven() -> None:
    """Of the training part of each fold the other class is the commonest: 2 of 6 would be right."""
    labels = np.array([0, 0, 1, 1, 1, 0])
    folds = np.array([0, 0, 0, 1, 1, 1])
    found = summarise(
        labels, np.full((6, 2), 0.5), np.arange(6), folds, ["a", "b"], seed=0, resamples=10
    )
    for guess in found["baselines"].values():
        assert guess["accuracy"] == guess["balanced_accuracy"] == guess["auc"] == 0.5
        assert (guess["sensitivity"], guess["specificity"]) == (0, 1)
    assert found["baselines"]["majority_class"]["class"] == "a"
    assert found["baselines"]["majority_class"]["log_loss"] is None
    assert found["baselines"]["prevalence"]["log_loss"] == pytest.approx(np.log(2))
    assert found["baselines"]["prevalence"]["brier"] == pytest.approx(0.25)


def test_baselines_of_three_uneven_classes() -> None:
    labels = np.array([2] * 5 + [1] * 3 + [0] * 2)
    found = summarise(
        labels, np.full((10, 3), 1 / 3), np.arange(10), np.zeros(10), [*"abc"], seed=0, resamples=9
    )["baselines"]
    assert found["majority_class"]["class"] == "c"
    assert found["majority_class"]["accuracy"] == 0.5
    assert found["majority_class"]["balanced_accuracy"] == pytest.approx(1 / 3)
    shares = np.array([0.2, 0.3, 0.5])
    assert found["prevalence"]["log_loss"] == pytest.approx(-(shares * np.log(shares)).sum())


def test_the_positive_class_can_be_named_where_there_are_two() -> None:
    first = summarise(**draw(), seed=0, resamples=10, positive="c0")
    second = summarise(**draw(), seed=0, resamples=10)
    assert (first["positive"], second["positive"]) == ("c0", "c1")
    assert first["metrics"]["sensitivity"] == second["metrics"]["specificity"]
    with pytest.raises(UsageError, match="'c9' cannot be the positive class"):
        summarise(**draw(), seed=0, positive="c9")
    with pytest.raises(UsageError, match="'c0', 'c1', 'c2'"):
        summarise(**draw(classes=3), seed=0, positive="c0")


def test_predictions_that_are_no_numbers_are_refused() -> None:
    cohort = draw()
    cohort["probabilities"][7] = np.nan
    with pytest.raises(TrainingError, match="row 7"):
        summarise(**cohort, seed=0)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_whatever_the_cohort_the_result_is_json(data: st.DataObject) -> None:
    images = data.draw(st.integers(1, 25))
    classes = data.draw(st.integers(2, 4))
    column = st.lists(st.integers(0, classes - 1), min_size=images, max_size=images)
    labels, predicted, persons, folds, units = (np.array(data.draw(column)) for _ in range(5))
    rule = data.draw(st.sampled_from(["mean", "geometric", "median", "vote"]))
    found = summarise(
        labels,
        np.eye(classes)[predicted],
        persons,
        folds,
        [f"c{number}" for number in range(classes)],
        seed=0,
        resamples=25,
        threshold=data.draw(st.none() | st.just(0.3)) if classes == 2 else None,
        rule=rule,
        units={"series": units.astype(str), "study": np.where(units == 1, "", "s")},
        groups={"PatientSex": units.astype(str)},
    )
    dump_json(found)
    every = [found["metrics"], *(one["metrics"] for one in found["subgroups"])]
    every += [level["metrics"] for level in found["levels"].values() if level]
    for entry in (entry for metrics in every for entry in metrics.values()):
        assert (entry["low"] is None) == (entry["high"] is None)
        assert entry["low"] is None or entry["low"] <= entry["high"]
